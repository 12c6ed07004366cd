package node

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/interchange"
)

// write makes a file and the directories above it.
func write(t *testing.T, content string, path ...string) {
	t.Helper()
	name := filepath.Join(path...)
	require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o700))
	require.NoError(t, os.WriteFile(name, []byte(content), 0o600))
}

// used makes a data directory that a member has used.
func used(t *testing.T, cfg *config.Config) {
	t.Helper()
	m, err := Open(t.Context(), cfg, zap.NewNop())
	require.NoError(t, err)
	ready(t, m)
	stop(t, m)
}

func TestDataDirectoriesThatCannotBeUsed(t *testing.T) {
	smallSegments(t)
	tests := []struct {
		name    string
		prepare func(t *testing.T, cfg *config.Config)
		is      error
		want    string // of the error
	}{
		{
			"a damaged etcd member's",
			func(t *testing.T, cfg *config.Config) { write(t, "bolt", cfg.DataDir, "member", "snap", "db") },
			interchange.ErrDamaged, "take over the directory of an etcd member, which is left as it was",
		},
		{
			"a log without a format",
			func(t *testing.T, cfg *config.Config) {
				used(t, cfg)
				require.NoError(t, os.Remove(filepath.Join(cfg.DataDir, "member", formatFile)))
			},
			ErrForeign, "is the raft log of another member",
		},
		{
			"an engine without a format",
			func(t *testing.T, cfg *config.Config) { write(t, "", cfg.DataDir, "member", engineDir, "000004.sst") },
			ErrForeign, "has no FORMAT file that says what wrote it",
		},
		{
			"an etcd proxy's",
			func(t *testing.T, cfg *config.Config) { write(t, "", cfg.DataDir, "proxy", "cluster") },
			ErrForeign, "holds the data of an etcd v2 proxy",
		},
		{
			"a newer format",
			func(t *testing.T, cfg *config.Config) {
				write(t, `{"product":"dolmen","format":3,"engine":"memory"}`, cfg.DataDir, "member", formatFile)
			},
			ErrForeign, "says format 3, this version knows up to 2",
		},
		{
			"garbage for a format",
			func(t *testing.T, cfg *config.Config) { write(t, "\x00\x01", cfg.DataDir, "member", formatFile) },
			ErrForeign, `does not say that dolmen wrote it, it says "\x00\x01"`,
		},
		{
			"another product's format",
			func(t *testing.T, cfg *config.Config) {
				write(t, `{"product":"menhir","format":1}`, cfg.DataDir, "member", formatFile)
			},
			ErrForeign, "does not say that dolmen wrote it",
		},
		{
			"a directory for a format",
			func(t *testing.T, cfg *config.Config) { write(t, "", cfg.DataDir, "member", formatFile, "x") },
			nil, "read the format of the data directory",
		},
		{
			"another engine",
			func(t *testing.T, cfg *config.Config) {
				other := *cfg
				other.StorageEngine = config.EnginePebble
				used(t, &other)
			},
			ErrMismatch, "was written by the pebble engine; start with --storage-engine=pebble",
		},
		{
			"no log",
			func(t *testing.T, cfg *config.Config) {
				used(t, cfg)
				require.NoError(t, os.RemoveAll(filepath.Join(cfg.DataDir, "member", walDir)))
			},
			ErrMismatch, "but there is no raft log in",
		},
		{
			"no engine",
			func(t *testing.T, cfg *config.Config) {
				cfg.SnapshotCount = 1
				used(t, cfg)
				used(t, cfg)
				require.NoError(t, os.RemoveAll(filepath.Join(cfg.DataDir, "member", engineDir)))
				// The log of so short a life still reaches back to its beginning: it is all that is needed.
			},
			nil, "",
		},
		{
			"a file in the place of the engine",
			func(t *testing.T, cfg *config.Config) {
				used(t, cfg)
				require.NoError(t, os.RemoveAll(filepath.Join(cfg.DataDir, "member", engineDir)))
				write(t, "", cfg.DataDir, "member", engineDir)
			},
			nil, "open the memory engine in",
		},
		{
			"a file in its place",
			func(t *testing.T, cfg *config.Config) {
				cfg.DataDir = filepath.Join(cfg.DataDir, "f")
				write(t, "", cfg.DataDir)
			},
			nil, "make the data directory",
		},
		{
			"a directory for a lock",
			func(t *testing.T, cfg *config.Config) { write(t, "", cfg.DataDir, "member", lockFile, "x") },
			nil, "lock the data directory",
		},
		{
			"a damaged log",
			func(t *testing.T, cfg *config.Config) {
				used(t, cfg)
				all, err := segmentNames(walDirectory(cfg))
				require.NoError(t, err)
				write(t, "damaged!", walDirectory(cfg), all[0])
			},
			nil, "the raft log is damaged",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := quietConfig(t, config.EngineMemory)
			tt.prepare(t, cfg)
			m, err := Open(t.Context(), cfg, zap.NewNop())
			if tt.want == "" {
				require.NoError(t, err)
				ready(t, m)
				stop(t, m)
				return
			}
			require.ErrorContains(t, err, tt.want)
			if tt.is != nil {
				require.ErrorIs(t, err, tt.is)
			}
			require.Nil(t, m)
			noGoroutines(t)
		})
	}
}

// TestLock starts a member on the data directory of one that runs.
func TestLock(t *testing.T) {
	smallSegments(t)
	cfg := quietConfig(t, config.EngineMemory)
	first, err := Open(t.Context(), cfg, zap.NewNop())
	require.NoError(t, err)
	ready(t, first)

	waits := make(chan struct{})
	lg := zap.New(zapcore.NewNopCore(), zap.Hooks()).WithOptions(zap.WrapCore(func(zapcore.Core) zapcore.Core {
		core, _ := observer.New(zapcore.InfoLevel)
		return zapcore.RegisterHooks(core, func(e zapcore.Entry) error {
			if e.Message == "waiting for another process to leave the data directory" {
				close(waits)
			}
			return nil
		})
	}))
	type opened struct {
		m   *Member
		err error
	}
	result := make(chan opened, 1)
	go func() {
		m, err := Open(context.Background(), cfg, lg)
		result <- opened{m, err}
	}()
	<-waits
	stop(t, first)
	second := <-result
	require.NoError(t, second.err)
	ready(t, second.m)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Open(ctx, cfg, zap.NewNop())
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "which another process uses")
	stop(t, second.m)
}

// TestOpenEndsWithItsContext ends a context that nothing waits on: what was opened is closed again.
func TestOpenEndsWithItsContext(t *testing.T) {
	smallSegments(t)
	cfg := quietConfig(t, config.EnginePebble)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Open(ctx, cfg, zap.NewNop())
	require.ErrorIs(t, err, context.Canceled)
	noGoroutines(t)
	used(t, cfg)
}
