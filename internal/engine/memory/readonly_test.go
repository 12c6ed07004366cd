package memory_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/memory"
)

func TestReadOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "engine")
	e, err := memory.Open(dir, memory.Options{})
	require.NoError(t, err)
	var b engine.Batch
	b.Put([]byte("a"), []byte("1"))
	require.NoError(t, e.Commit(&b))
	require.NoError(t, e.Close())
	require.NoError(t, os.Remove(filepath.Join(dir, "LOCK")), "it must not be made again")
	// What a crash may leave, and Open removes.
	require.NoError(t, os.WriteFile(filepath.Join(dir, "checkpoint-0000000000000002.tmp"), []byte("half"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "checkpoint-0000000000000000"), []byte("old"), 0o600))
	before, err := os.ReadDir(dir)
	require.NoError(t, err)

	e, err = memory.OpenReadOnly(dir, memory.Options{})
	require.NoError(t, err)
	v, err := e.Durable([]byte("a"))
	require.NoError(t, err)
	require.Equal(t, "1", string(v))
	require.Positive(t, e.Stats().DiskBytes)
	require.ErrorContains(t, e.Commit(&b), "for reading only")
	require.ErrorContains(t, e.Flush(), "for reading only")
	require.NoError(t, e.Close())
	after, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Equal(t, len(before), len(after))

	checkpoint := filepath.Join(dir, "checkpoint-0000000000000001")
	require.NoError(t, os.Truncate(checkpoint, 30))
	_, err = memory.OpenReadOnly(dir, memory.Options{})
	require.ErrorIs(t, err, engine.ErrCorrupt)
	require.ErrorContains(t, err, "checkpoint-0000000000000001")
}

func TestReadOnlyFindsNothing(t *testing.T) {
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "absent")} {
		_, err := memory.OpenReadOnly(dir, memory.Options{})
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.ErrorContains(t, err, dir)
	}
}
