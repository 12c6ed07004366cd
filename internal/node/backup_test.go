package node

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/etcdapi"
	"github.com/dolmen-io/dolmen/internal/interchange"
)

func propose(t *testing.T, m *Member, key, value string) {
	t.Helper()
	res, err := m.Propose(t.Context(), put(key, value))
	require.NoError(t, err)
	require.NoError(t, res.Err)
}

func TestBackup(t *testing.T) {
	smallSegments(t)
	cfg := quietConfig(t, config.EnginePebble)
	left := filepath.Join(exportDirectory(memberDirectory(cfg)), "9.db")
	write(t, `{"product":"dolmen","format":1,"engine":"pebble"}`, memberDirectory(cfg), formatFile)
	write(t, "of a member that crashed", left)
	m, err := Open(t.Context(), cfg, zap.NewNop())
	require.NoError(t, err)
	ready(t, m)
	require.NoFileExists(t, left)
	propose(t, m, "a", "1")
	b := newBackup(m)

	var held []*etcdapi.Snapshot
	for range maxExports {
		s, err := b.Snapshot(t.Context())
		require.NoError(t, err)
		held = append(held, s)
	}
	// No more at a time: the next one waits, here for a client that has no patience.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = b.Snapshot(ctx)
	require.ErrorIs(t, err, context.Canceled)

	data, err := io.ReadAll(held[0])
	require.NoError(t, err)
	require.Len(t, data, int(held[0].Size))
	require.Equal(t, "3.7.0", held[0].Version)
	path := filepath.Join(t.TempDir(), "db")
	require.NoError(t, os.WriteFile(path, data, 0o600))
	f, err := interchange.Open(t.Context(), path)
	require.NoError(t, err)
	c, err := f.Scan(t.Context(), nil, nil)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.Equal(t, []int{1, 1}, []int{c.Keys, c.Members})
	require.Equal(t, int64(2), c.Revision)

	sum, revision, err := b.Hash(t.Context())
	require.NoError(t, err)
	require.Equal(t, int64(2), revision)
	again, _, err := b.Hash(t.Context())
	require.NoError(t, err)
	require.Equal(t, sum, again)

	for _, s := range held {
		require.NoError(t, s.Close())
		require.NoError(t, s.Close(), "twice")
	}
	s, err := b.Snapshot(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.Close())
	names, err := os.ReadDir(exportDirectory(memberDirectory(cfg)))
	require.NoError(t, err)
	require.Empty(t, names)

	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	for range maxExports + 1 { // a failure gives its place back
		_, err = b.Snapshot(ctx)
		require.ErrorIs(t, err, context.Canceled)
	}
	stop(t, m)
	for range maxExports {
		b.slots <- struct{}{}
	}
	_, err = b.Snapshot(t.Context())
	require.ErrorIs(t, err, consensus.ErrStopped)
}

// TestStalledBackups: clients that do not read keep nobody waiting for good, and one that reads keeps its place.
func TestStalledBackups(t *testing.T) {
	smallSegments(t)
	synctest.Test(t, func(t *testing.T) {
		m := start(t, quietConfig(t, config.EngineMemory), newForgetful(config.EngineMemory, filepath.Join(t.TempDir(), "wal")))
		defer stop(t, m)
		b := newBackup(m)
		stalled, err := b.Snapshot(t.Context())
		require.NoError(t, err)
		slow, err := b.Snapshot(t.Context())
		require.NoError(t, err)
		reading, end := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(reading)
			for range 4 {
				if _, err := slow.Read(make([]byte, 1)); err != nil {
					t.Error(err)
				}
				time.Sleep(exportPatience / 2)
			}
			<-end
		}()
		next, err := b.Snapshot(t.Context())
		require.NoError(t, err)
		_, err = stalled.Read(make([]byte, 1))
		require.ErrorIs(t, err, errStalled)
		require.NoError(t, stalled.Close(), "once more")
		_, err = slow.Read(make([]byte, 1))
		require.NoError(t, err)
		close(end)
		<-reading
		require.NoError(t, slow.Close())
		require.NoError(t, next.Close())
		require.Empty(t, b.slots)
		require.Empty(t, b.mu.sent)
	})
}

func TestCheckRoom(t *testing.T) {
	require.NoError(t, checkRoom(t.TempDir(), 0))
	err := checkRoom(t.TempDir(), 1<<60)
	require.ErrorIs(t, err, errNoRoom)
	require.ErrorContains(t, err, "make room")
	require.ErrorIs(t, checkRoom(filepath.Join(t.TempDir(), "none"), 0), os.ErrNotExist)
}
