package pebble_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/enginetest"
	"github.com/dolmen-io/dolmen/internal/engine/pebble"
)

func TestReadOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "engine")
	e, err := pebble.Open(dir, pebble.Options{MemTableBytes: memTableBytes})
	require.NoError(t, err)
	fill(t, e)
	enginetest.Put(t, e, "a", "1")
	require.NoError(t, e.Flush())
	enginetest.Put(t, e, "a", "2")
	require.NoError(t, e.Close())
	require.NoError(t, os.Remove(filepath.Join(dir, "LOCK")), "it must not be made again")
	before := enginetest.Image(t, dir)

	e, err = pebble.OpenReadOnly(dir, pebble.Options{})
	require.NoError(t, err)
	v, err := e.Get([]byte("a"))
	require.NoError(t, err)
	require.Equal(t, "2", string(v))
	v, err = e.Durable([]byte("a"))
	require.NoError(t, err)
	require.Equal(t, "2", string(v))
	require.NoError(t, e.Verify())
	require.Positive(t, e.Stats().DiskBytes)
	var b engine.Batch
	b.Put([]byte("b"), nil)
	require.ErrorContains(t, e.Commit(&b), "read-only")
	require.ErrorContains(t, e.Flush(), "read-only")
	require.ErrorContains(t, e.Compact(), "read-only")
	require.NoError(t, e.Close())
	require.ErrorIs(t, e.Verify(), engine.ErrClosed)
	require.Equal(t, before, enginetest.Image(t, dir))
}

func TestReadOnlyFindsNothing(t *testing.T) {
	enginetest.ReadOnlyFindsNothing(t, func(dir string) error {
		_, err := pebble.OpenReadOnly(dir, pebble.Options{})
		return err
	})
}

func TestReadOnlyFindsDamage(t *testing.T) {
	build := func(t *testing.T) string {
		dir := filepath.Join(t.TempDir(), "engine")
		e, err := pebble.Open(dir, pebble.Options{MemTableBytes: memTableBytes})
		require.NoError(t, err)
		fill(t, e)
		require.NoError(t, e.Close())
		return dir
	}
	t.Run("a table missing", func(t *testing.T) {
		dir := build(t)
		require.NoError(t, os.Remove(files(t, dir, "*.sst")[0]))
		_, err := pebble.OpenReadOnly(dir, pebble.Options{})
		require.ErrorIs(t, err, engine.ErrCorrupt)
	})
	t.Run("a bit in a table", func(t *testing.T) {
		dir := build(t)
		table := files(t, dir, "*.sst")[0]
		enginetest.Flip(t, table, 100)
		e, err := pebble.OpenReadOnly(dir, pebble.Options{})
		require.NoError(t, err)
		err = e.Verify()
		require.ErrorIs(t, err, engine.ErrCorrupt)
		require.ErrorContains(t, err, filepath.Base(table))
		require.Error(t, e.Close())
	})
}

// TestReadOnlyFileSystem: what Pebble itself may ask for is refused.
func TestReadOnlyFileSystem(t *testing.T) {
	mem := vfs.NewMem()
	require.NoError(t, mem.MkdirAll("d", 0o700))
	ro := pebble.ReadOnlyFS(mem)
	refused := func(err error) { require.ErrorIs(t, err, fs.ErrPermission) }
	_, err := ro.Create("d/a", vfs.WriteCategoryUnspecified)
	refused(err)
	_, err = ro.OpenReadWrite("d/a", vfs.WriteCategoryUnspecified)
	refused(err)
	_, err = ro.ReuseForWrite("d/a", "d/b", vfs.WriteCategoryUnspecified)
	refused(err)
	refused(ro.Link("d/a", "d/b"))
	refused(ro.Remove("d/a"))
	refused(ro.RemoveAll("d"))
	refused(ro.Rename("d/a", "d/b"))
	refused(ro.MkdirAll("e", 0o700))
	lock, err := ro.Lock("d/LOCK")
	require.NoError(t, err)
	require.NoError(t, lock.Close())
	names, err := mem.List("d")
	require.NoError(t, err)
	require.Empty(t, names)
	require.Equal(t, mem, ro.Unwrap())
}
