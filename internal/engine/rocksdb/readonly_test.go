//go:build rocksdb

package rocksdb_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/enginetest"
	"github.com/dolmen-io/dolmen/internal/engine/rocksdb"
)

func TestReadOnly(t *testing.T) {
	dir := built(t)
	e, err := rocksdb.Open(dir, rocksdb.Options{})
	require.NoError(t, err)
	enginetest.Put(t, e, "a", "2")
	require.NoError(t, e.Close())
	require.NoError(t, os.Remove(filepath.Join(dir, "LOCK")), "it must not be made again")
	before := enginetest.Image(t, dir)

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
	require.Equal(t, before, enginetest.Image(t, dir))
}

func TestReadOnlyFindsNothing(t *testing.T) {
	enginetest.ReadOnlyFindsNothing(t, func(dir string) error {
		_, err := rocksdb.OpenReadOnly(dir, rocksdb.Options{})
		return err
	})
}
