//go:build rocksdb

package rocksdb_test

import (
	"crypto/sha256"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/rocksdb"
)

// image is the names, times and contents below a directory.
func image(t *testing.T, dir string) map[string]any {
	t.Helper()
	all := map[string]any{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := entry.Info()
		require.NoError(t, err)
		all[path+" changed"] = info.ModTime()
		if !entry.IsDir() {
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			all[path] = sha256.Sum256(content)
		}
		return nil
	}))
	return all
}

func TestReadOnly(t *testing.T) {
	dir := built(t)
	e, err := rocksdb.Open(dir, rocksdb.Options{})
	require.NoError(t, err)
	put(t, e, "a", "2")
	require.NoError(t, e.Close())
	require.NoError(t, os.Remove(filepath.Join(dir, "LOCK")), "it must not be made again")
	before := image(t, dir)

	e, err = rocksdb.OpenReadOnly(dir, rocksdb.Options{})
	require.NoError(t, err)
	v, err := e.Get([]byte("a"))
	require.NoError(t, err)
	require.Equal(t, "2", string(v))
	v, err = e.Durable([]byte("a"))
	require.NoError(t, err)
	require.Equal(t, "2", string(v))
	require.Len(t, contentsOf(t, e), 301)
	require.NoError(t, e.Verify())
	require.Positive(t, e.Stats().DiskBytes)
	var b engine.Batch
	b.Put([]byte("b"), nil)
	require.ErrorContains(t, e.Commit(&b), "for reading only")
	require.ErrorContains(t, e.Flush(), "for reading only")
	require.ErrorContains(t, e.Compact(), "for reading only")
	require.ErrorContains(t, e.Checkpoint(dir+"-copy"), "for reading only")
	require.NoError(t, e.Close())
	require.ErrorIs(t, e.Verify(), engine.ErrClosed)
	require.Equal(t, before, image(t, dir))
}

func TestReadOnlyFindsNothing(t *testing.T) {
	_, err := rocksdb.OpenReadOnly(filepath.Join(t.TempDir(), "absent"), rocksdb.Options{})
	require.ErrorIs(t, err, fs.ErrNotExist)
	empty := t.TempDir()
	_, err = rocksdb.OpenReadOnly(empty, rocksdb.Options{})
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NotErrorIs(t, err, engine.ErrCorrupt)
	require.Len(t, image(t, empty), 1)
}
