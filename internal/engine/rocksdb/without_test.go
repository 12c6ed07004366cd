//go:build !rocksdb

package rocksdb_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine/rocksdb"
)

func TestWithout(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "engine")
	for _, open := range []func(string, rocksdb.Options) (*rocksdb.Engine, error){rocksdb.Open, rocksdb.OpenReadOnly} {
		_, err := open(dir, rocksdb.Options{})
		require.ErrorIs(t, err, rocksdb.ErrNotBuilt)
		require.ErrorContains(t, err, "make build TAGS=rocksdb")
		require.NoDirExists(t, dir)
	}
}
