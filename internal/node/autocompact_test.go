package node

import (
	"fmt"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dolmen-io/dolmen/internal/config"
)

// TestAutoCompaction writes a revision a minute for 31 minutes and looks at what is compacted then.
func TestAutoCompaction(t *testing.T) {
	smallSegments(t)
	for name, tc := range map[string]struct {
		mode, retention string
		compacted       int64
		times           int
	}{
		// The first after ten minutes, to the revision of the start; then ten minutes and one note behind.
		"periodic": {config.CompactionPeriodic, "10m", 19, 3},
		// At 30 minutes there were 29 puts, and the first revision is 1.
		"revision": {config.CompactionRevision, "7", 30 - 7, 5},
		"off":      {config.CompactionPeriodic, "0", -1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := quietConfig(t, config.EngineMemory)
				cfg.HeartbeatInterval, cfg.ElectionTimeout = time.Second, 10*time.Second
				cfg.AutoCompactionMode, cfg.AutoCompactionRetention = tc.mode, tc.retention
				core, lines := observer.New(zapcore.InfoLevel)
				m, err := openOn(t.Context(), cfg, zap.New(core), newForgetful(config.EngineMemory, filepath.Join(t.TempDir(), "wal")).open)
				require.NoError(t, err)
				defer stop(t, m)
				<-m.Ready()
				minute := time.NewTicker(time.Minute)
				defer minute.Stop()
				for range 31 {
					<-minute.C
					_, err := m.Propose(t.Context(), put("k", "v"))
					require.NoError(t, err)
				}
				_, compacted := m.state.Revisions()
				require.Equal(t, tc.compacted, compacted)
				for _, word := range []string{"starting", "completed"} {
					line := fmt.Sprintf("%s auto %s compaction", word, tc.mode)
					require.Len(t, lines.FilterMessage(line).All(), tc.times)
				}
				require.NoError(t, m.compact(t.Context(), 1), "what is compacted already is fine")
			})
		})
	}
}
