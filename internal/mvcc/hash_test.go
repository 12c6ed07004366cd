package mvcc

import (
	"hash/crc32"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// TestHashIgnoresHowFarRemovalIs compares a hash right after a compaction was accepted with the same
// hash when everything it calls for is gone.
func TestHashIgnoresHowFarRemovalIs(t *testing.T) {
	for seed := range uint64(5) {
		w := newWorld(t, seed)
		for range 120 {
			w.turn()
			w.views = w.views[:0]
		}
		batch := &engine.Batch{}
		w.store.Begin(batch)
		main := w.model.current - 10
		if main > w.model.compacted {
			require.NoError(t, w.store.Compact(main))
			w.model.compacted = main
		}
		require.NoError(t, w.eng.Commit(batch))
		view := w.store.Publish()
		before, err := view.Hash(0)
		require.NoError(t, err)
		require.Equal(t, view.Current(), before.Revision)
		require.Equal(t, view.Compacted(), before.Compacted)
		w.drain()
		after, err := w.store.Publish().Hash(view.Current())
		require.NoError(t, err)
		require.Equal(t, before, after)
	}
}

func TestHashIsOfStoredBytes(t *testing.T) {
	w := newWorld(t, 1)
	batch := &engine.Batch{}
	w.store.Begin(batch)
	txn := w.store.Txn()
	_, err := txn.Put([]byte("k"), []byte("v"), 0)
	require.NoError(t, err)
	txn.End()
	require.NoError(t, w.eng.Commit(batch))
	view := w.store.Publish()

	kv := KeyValue{Key: []byte("k"), Value: []byte("v"), Create: 2, Mod: 2, Ver: 1}
	all := append([]byte("key"), Revision{Main: 2}.EngineKey(false)...)
	all = append(all, kv.Encode()...)
	got, err := view.Hash(0)
	require.NoError(t, err)
	require.Equal(t, Hash{Sum: crc32.Checksum(all, crc32.MakeTable(crc32.Castagnoli)), Compacted: -1, Revision: 2}, got)

	_, err = view.Hash(3)
	require.ErrorIs(t, err, ErrFuture)
	empty, err := view.Hash(1)
	require.NoError(t, err)
	require.NotEqual(t, got.Sum, empty.Sum)
}
