package config

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine/rocksdb"
)

func TestEngines(t *testing.T) {
	for _, name := range BuiltEngines() {
		require.NoError(t, CheckEngine(name))
		_, _, err := Parse([]string{"--storage-engine=" + name}, nil)
		require.NoError(t, err)
	}
	require.Equal(t, Default().StorageEngine, BuiltEngines()[0])
	require.Equal(t, rocksdb.Built, len(BuiltEngines()) == 3)
	require.ErrorContains(t, CheckEngine("bolt"), "--storage-engine=bolt is not an engine; give one of pebble, memory, rocksdb")
	if !rocksdb.Built {
		cfg, _, err := Parse([]string{"--storage-engine=rocksdb"}, nil)
		require.ErrorIs(t, err, rocksdb.ErrNotBuilt)
		require.ErrorContains(t, err, "--storage-engine=rocksdb: ")
		require.ErrorContains(t, err, "make build TAGS=rocksdb")
		require.Equal(t, EngineRocksDB, cfg.StorageEngine)
	}
}
