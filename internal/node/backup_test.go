package node

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

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

func TestCheckRoom(t *testing.T) {
	require.NoError(t, checkRoom(t.TempDir(), 0))
	err := checkRoom(t.TempDir(), 1<<60)
	require.ErrorIs(t, err, errNoRoom)
	require.ErrorContains(t, err, "make room")
	require.ErrorIs(t, checkRoom(filepath.Join(t.TempDir(), "none"), 0), os.ErrNotExist)
}
