package mvcc

import (
	"hash/crc32"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/memory"
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

// compactionSum is the checksum of a compaction by the protocol's rule: everything that the compaction
// before has left, without what of that this one drops, unless nothing at all is kept.
func (m *model) compactionSum(c Compaction) uint32 {
	any := false
	for i, ch := range m.changes {
		any = any || ch.rev.Main <= c.Revision && m.keeps(i, c.Revision)
	}
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	sum.Write([]byte("key"))
	for i, ch := range m.changes {
		switch {
		case ch.rev.Main > c.Revision, !m.keeps(i, c.Previous),
			ch.rev.Main <= c.Previous && any && !m.keeps(i, c.Revision),
			ch.rev.Main == c.Previous && ch.del:
			continue
		}
		sum.Write(ch.rev.EngineKey(ch.del))
		sum.Write(ch.kv.Encode())
	}
	return sum.Sum32()
}

// write is a turn of one transaction that compacts nothing.
func (w *world) write() {
	w.commit(func() {
		txn, used := w.store.Txn(), map[string]bool{}
		for range 1 + w.rng.IntN(3) {
			w.change(txn, used)
		}
		w.model.current = txn.End()
	})
}

func (w *world) commit(change func()) {
	batch := &engine.Batch{}
	w.store.Begin(batch)
	change()
	require.NoError(w.t, w.eng.Commit(batch))
	w.views = []*View{w.store.Publish()}
}

// TestCompactionHash takes the checksums of compactions in steps of random sizes, with steps of the removal
// and writes between them.
func TestCompactionHash(t *testing.T) {
	for seed := range uint64(8) {
		w := newWorld(t, seed)
		finished := int64(-1)
		for range 12 {
			for range 1 + w.rng.IntN(15) {
				w.write()
			}
			if w.rng.IntN(6) == 0 {
				w.commit(func() {
					txn := w.store.Txn()
					for i, d := range must(txn.DeleteRange([]byte{0}, []byte{0})) {
						w.model.changes = append(w.model.changes, modelChange{rev: Revision{txn.Revision(), int64(i)}, kv: KeyValue{Key: d.Key}, del: true})
					}
					w.model.current = txn.End()
				})
			}
			w.commit(w.compact)
			c, due := w.store.BeginRemoval()
			if !due {
				continue
			}
			require.Equal(t, Compaction{Previous: finished, Revision: w.model.compacted, Whole: true}, c)
			h, err := w.views[0].HashCompaction(c)
			require.NoError(t, err)
			for hashed, removed := false, false; !hashed || !removed; {
				switch w.rng.IntN(3) {
				case 0:
					if hashed, err = h.Some(1 + w.rng.IntN(20)); err != nil {
						t.Fatal(err)
					}
				case 1:
					w.commit(func() { removed = w.store.RemoveSome(1+w.rng.IntN(30), false).Empty })
				case 2:
					w.write()
				}
				if hashed && w.rng.IntN(2) == 0 { // one that is complete must stay as it is
					require.Equal(t, Hash{Sum: w.model.compactionSum(c), Compacted: c.Previous, Revision: c.Revision}, h.Sum())
				}
				if hashed {
					for !removed {
						w.commit(func() { removed = w.store.RemoveSome(100, false).Empty })
					}
				}
			}
			require.NoError(t, h.Close())
			require.Equal(t, w.model.compactionSum(c), h.Sum().Sum)
			w.commit(func() { require.True(t, w.store.RemoveSome(1, true).Done) })
			require.Equal(t, c.Revision, w.views[0].Finished())
			finished = c.Revision
		}
		w.drain()
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestCompactionsAreFixed: a compaction that is accepted while one is under way is carried out after it, and
// neither it nor one taken up after a restart is whole.
func TestCompactionsAreFixed(t *testing.T) {
	w := newWorld(t, 3)
	_, due := w.store.BeginRemoval()
	require.False(t, due)
	for range 60 {
		w.write()
	}
	accept := func(main int64) {
		w.commit(func() { require.NoError(t, w.store.Compact(main)) })
		w.model.compacted = main
	}
	next := func(c Compaction) {
		t.Helper()
		got, due := w.store.BeginRemoval()
		require.True(t, due)
		require.Equal(t, c, got)
		w.commit(func() { require.True(t, w.store.RemoveSome(1000, true).Done) })
	}
	accept(10)
	accept(20)
	accept(30)
	next(Compaction{Previous: -1, Revision: 10, Whole: true})
	next(Compaction{Previous: 10, Revision: 30})
	accept(35)
	w.load()
	next(Compaction{Previous: 30, Revision: 35})
	accept(40)
	next(Compaction{Previous: 35, Revision: 40, Whole: true})
	w.drain()
}

// TestCompactionHashErrors: a checksum that cannot be read says which.
func TestCompactionHashErrors(t *testing.T) {
	w := newWorld(t, 3)
	for range 20 {
		w.write()
	}
	w.commit(func() { require.NoError(t, w.store.Compact(10)) })
	c, _ := w.store.BeginRemoval()
	v := *w.views[0]
	v.eng = brokenEngine{w.eng, true}
	_, err := v.HashCompaction(c)
	require.ErrorIs(t, err, errDisk)
	_, err = v.Hash(0)
	require.ErrorIs(t, err, errDisk)
	batch := &engine.Batch{}
	batch.Put([]byte("no revision"), nil)
	require.NoError(t, w.eng.Commit(batch))
	h, err := w.views[0].HashCompaction(c)
	require.NoError(t, err)
	defer h.Close()
	h.h.last = 1 << 60 // so that it comes to the end of the table
	for done := false; err == nil && !done; {
		done, err = h.Some(3)
	}
	require.ErrorContains(t, err, "revision key")
}

// TestBumpedRevision loads what "snapshot restore --bump-revision" leaves, twice over: the newest of its entries
// counts for revision and hash, compaction removes the older one, and no read sees any.
func TestBumpedRevision(t *testing.T) {
	eng, err := memory.Open(t.TempDir(), memory.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, eng.Close()) }()
	kv := KeyValue{Key: []byte("k"), Value: []byte("v"), Create: 2, Mod: 2, Ver: 1}
	put := Revision{Main: 2}.EngineKey(false)
	first, second := Revision{Main: 1002}.EngineKey(false), Revision{Main: 2002}.EngineKey(false)
	batch := &engine.Batch{}
	batch.Put(put, kv.Encode())
	batch.Put(first, []byte{})
	batch.Put(second, []byte{})
	batch.Put(scheduledKey, second)
	require.NoError(t, eng.Commit(batch))
	store, err := Load(eng, nil, nil)
	require.NoError(t, err)
	view := store.Publish()
	require.Equal(t, []int64{2002, 2002}, []int64{view.Current(), view.Compacted()})
	res, err := view.Range(RangeOptions{Key: []byte{0}, End: []byte{0}})
	require.NoError(t, err)
	require.Equal(t, int64(1), res.Count)
	require.Equal(t, [][]byte{kv.Encode()}, res.KVs)

	all := append([]byte("key"), put...)
	all = append(append(all, kv.Encode()...), second...)
	want := Hash{Sum: crc32.Checksum(all, crc32.MakeTable(crc32.Castagnoli)), Compacted: 2002, Revision: 2002}
	got, err := view.Hash(0)
	require.NoError(t, err)
	require.Equal(t, want, got)
	batch.Reset()
	_, due := store.BeginRemoval()
	require.True(t, due)
	store.Begin(batch)
	require.True(t, store.RemoveSome(100, true).Done)
	require.NoError(t, eng.Commit(batch))
	_, err = eng.Get(first)
	require.ErrorIs(t, err, engine.ErrNotFound)
	got, err = store.Publish().Hash(2002)
	require.NoError(t, err)
	require.Equal(t, want, got)
}
