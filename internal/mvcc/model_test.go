package mvcc

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/memory"
	"github.com/dolmen-io/dolmen/internal/watch"
)

// model is the key space written as plainly as possible: the list of all changes ever made.
type model struct {
	changes   []modelChange
	current   int64
	compacted int64
}

type modelChange struct {
	rev Revision
	kv  KeyValue
	del bool
}

// at returns the existing keys of a span at a revision, in key order.
func (m *model) at(sp span, main int64) []KeyValue {
	latest := map[string]modelChange{}
	for _, c := range m.changes {
		if c.rev.Main <= main && sp.contains(c.kv.Key) {
			latest[string(c.kv.Key)] = c
		}
	}
	var kvs []KeyValue
	for _, c := range latest {
		if !c.del {
			kvs = append(kvs, c.kv)
		}
	}
	slices.SortFunc(kvs, func(a, b KeyValue) int { return bytes.Compare(a.Key, b.Key) })
	return kvs
}

func (m *model) put(rev Revision, key, value []byte, lease int64) {
	kv := KeyValue{Key: key, Value: value, Create: rev.Main, Mod: rev.Main, Ver: 1, LeaseID: lease}
	if old := m.at(newSpan(key, nil), rev.Main); len(old) == 1 {
		kv.Create, kv.Ver = old[0].Create, old[0].Ver+1
	}
	m.changes = append(m.changes, modelChange{rev: rev, kv: kv})
}

// world is a store over a memory engine beside its model.
type world struct {
	t     *testing.T
	rng   *rand.Rand
	eng   engine.Engine
	store *Store
	model model
	views []*View
	now   time.Time
	// reads counts the reads of ranges at older revisions by the way that they took.
	reads struct{ walked, forward, undone int }
}

func newWorld(t *testing.T, seed uint64) *world {
	eng, err := memory.Open(t.TempDir(), memory.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, eng.Close()) })
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 0)), eng: eng, model: model{current: 1, compacted: -1}}
	w.load()
	return w
}

func (w *world) load() {
	var err error
	w.store, err = LoadParallel(w.eng, Parallel{Parts: w.rng.IntN(6), Run: beside}, nil, nil)
	require.NoError(w.t, err)
	invariants(w.t, w.store.tree.root, nil, nil, w.store.tree.gen)
	require.EqualValues(w.t, w.store.tree.root.live, w.store.keys)
	w.views = nil
	few := []int{1, 2, 5, 30}
	w.store.recent.bounds = bounds{
		every: few[w.rng.IntN(4)], moments: 1 + 5*few[w.rng.IntN(4)], between: 1 + 5*few[w.rng.IntN(4)],
		bytes: 1 << (10 + w.rng.IntN(12)),
	}
}

func (w *world) key() []byte {
	return []byte(fmt.Sprintf("%c%03d", 'a'+rune(w.rng.IntN(3)), w.rng.IntN(120)))
}

func (w *world) end() []byte {
	switch w.rng.IntN(4) {
	case 0:
		return nil
	case 1:
		return []byte{0}
	default:
		return w.key()
	}
}

// turn runs some transactions, commits and publishes.
func (w *world) turn() {
	batch := &engine.Batch{}
	w.store.Begin(batch)
	for range 1 + w.rng.IntN(4) {
		txn := w.store.Txn()
		used := map[string]bool{}
		for range w.rng.IntN(4) {
			w.change(txn, used)
		}
		w.model.current = txn.End()
		w.checkWorking()
	}
	if w.rng.IntN(12) == 0 {
		w.compact()
	}
	if _, due := w.store.RemovalDue(); due && len(w.views) == 0 {
		w.store.RemoveSome(1+w.rng.IntN(200), true)
	}
	require.NoError(w.t, w.eng.Commit(batch))
	w.publish()
}

func (w *world) publish() {
	if w.now = w.now.Add(time.Duration(w.rng.IntN(2000)) * time.Millisecond); w.rng.IntN(5) == 0 {
		w.store.Expire(w.now)
	}
	w.views = append(w.views, w.store.Publish())
	if w.rng.IntN(8) == 0 {
		w.store.recent.check(w.t, w.store.tree.root)
	}
}

func (w *world) change(txn *Txn, used map[string]bool) {
	key := w.key()
	if w.rng.IntN(3) > 0 {
		if used[string(key)] {
			return
		}
		used[string(key)] = true
		value := []byte(fmt.Sprint(w.rng.Uint32()))
		w.model.put(txn.rev, key, value, int64(w.rng.IntN(3)))
		last := w.model.changes[len(w.model.changes)-1].kv
		_, err := txn.Put(key, value, last.LeaseID)
		require.NoError(w.t, err)
		return
	}
	end := w.end()
	if len(end) == 1 && w.rng.IntN(10) > 0 {
		end = nil
	}
	want := w.model.at(newSpan(key, end), txn.rev.Main)
	rev := txn.rev
	got, err := txn.DeleteRange(key, end)
	require.NoError(w.t, err)
	require.Len(w.t, got, len(want))
	for i, kv := range want {
		require.Equal(w.t, kv.Encode(), got[i].KV)
		w.model.changes = append(w.model.changes, modelChange{rev: rev, kv: KeyValue{Key: kv.Key}, del: true})
		rev.Sub++
	}
}

func (w *world) compact() {
	main := w.model.compacted + w.rng.Int64N(w.model.current-w.model.compacted+1)
	err := w.store.Compact(main)
	if main <= w.model.compacted {
		require.ErrorIs(w.t, err, ErrCompacted)
		return
	}
	require.NoError(w.t, err)
	w.model.compacted = main
}

// checkWorking compares what a transaction would see now with the model.
func (w *world) checkWorking() {
	key, end := w.key(), w.end()
	res, err := w.store.Txn().Range(RangeOptions{Key: key, End: end})
	require.NoError(w.t, err)
	require.Equal(w.t, encodeAll(w.model.at(newSpan(key, end), w.model.current)), res.KVs)
}

func encodeAll(kvs []KeyValue) (b [][]byte) {
	for _, kv := range kvs {
		b = append(b, kv.Encode())
	}
	return b
}

// checkView compares a view, however old, with the model at a random revision that it knows.
func (w *world) checkView(v *View) {
	key, end := w.key(), w.end()
	o := RangeOptions{Key: key, End: end, Limit: w.rng.Int64N(5)}
	at := v.Current()
	if w.rng.IntN(2) == 0 {
		o.Revision = 1 + w.rng.Int64N(at+1)
		at = o.Revision
	}
	res, err := v.Range(o)
	switch {
	case o.Revision > v.Current():
		require.ErrorIs(w.t, err, ErrFuture)
		return
	case o.Revision > 0 && o.Revision < v.Compacted():
		require.ErrorIs(w.t, err, ErrCompacted)
		return
	}
	require.NoError(w.t, err)
	w.countRead(v, o)
	want := encodeAll(w.model.at(newSpan(key, end), at))
	require.EqualValues(w.t, len(want), res.Count)
	more := o.Limit > 0 && int64(len(want)) > o.Limit
	if more {
		want = want[:o.Limit]
	}
	require.Equal(w.t, want, res.KVs, "range %q %q at %d of view %d", key, end, at, v.Current())
	require.Equal(w.t, more, res.More)
	o.CountOnly = true
	count, err := v.Range(o)
	require.NoError(w.t, err)
	require.Equal(w.t, res.Count, count.Count)
	require.Empty(w.t, count.KVs)
}

func (w *world) countRead(v *View, o RangeOptions) {
	if len(o.End) == 0 || o.Revision == 0 {
		return
	}
	switch e, counted := v.exactlyAt(o.Revision); {
	case !counted:
		w.reads.walked++
	case e.undo:
		w.reads.undone++
	default:
		w.reads.forward++
	}
}

// checkHistory compares the events of a random stretch of history.
func (w *world) checkHistory(v *View) {
	from := max(v.Compacted(), 0) + w.rng.Int64N(v.Current()-max(v.Compacted(), 0)+1)
	key, end := w.key(), w.end()
	sp := newSpan(key, end)
	var want, got []Revision
	for _, c := range w.model.changes {
		if c.rev.Main >= from && c.rev.Main <= v.Current() && sp.contains(c.kv.Key) {
			want = append(want, c.rev)
		}
	}
	require.NoError(w.t, v.Events(from, v.Current(), key, end, func(e watch.Event) bool {
		got = append(got, Revision{e.Main, e.Sub})
		w.checkPrev(v, e)
		return true
	}))
	if v.Compacted() <= from && from > v.Compacted() {
		require.Equal(w.t, want, got)
	}
}

func (w *world) checkPrev(v *View, e watch.Event) {
	old := w.model.at(newSpan(e.Key, nil), e.Main-1)
	kv, err := DecodeKeyValue(e.KV)
	require.NoError(w.t, err)
	create := !e.Delete && kv.Create == kv.Mod // even over a key deleted in the same transaction
	if len(old) == 0 || create || e.Main-1 < v.Compacted() {
		require.Nil(w.t, e.Prev)
		return
	}
	require.Equal(w.t, old[0].Encode(), e.Prev)
}

func TestStoreAgainstModel(t *testing.T) {
	var reads struct{ walked, forward, undone int }
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, seed)
			for i := range 250 {
				w.turn()
				for range 4 {
					w.checkView(w.views[w.rng.IntN(len(w.views))])
				}
				w.checkHistory(w.views[len(w.views)-1])
				if len(w.views) > 8 {
					w.views = w.views[:0] // as if all readers had gone: removal may go on
				}
				if i%60 == 59 {
					bytes, keys := w.store.Bytes(), w.store.Keys()
					w.load()
					require.Equal(t, bytes, w.store.Bytes())
					require.Equal(t, keys, w.store.Keys())
					require.Equal(t, max(w.model.current, 1), w.store.Current())
					w.publish()
				}
			}
			w.drain()
			reads.walked += w.reads.walked
			reads.forward += w.reads.forward
			reads.undone += w.reads.undone
		})
	}
	require.True(t, reads.walked > 50 && reads.forward > 50 && reads.undone > 50, "some way is hardly taken: %+v", reads)
}

// drain finishes all compaction and checks that the engine holds exactly what may still be read.
func (w *world) drain() {
	w.views = nil
	for {
		if _, due := w.store.RemovalDue(); !due {
			break
		}
		batch := &engine.Batch{}
		w.store.Begin(batch)
		w.store.RemoveSome(50, true)
		require.NoError(w.t, w.eng.Commit(batch))
		w.store.Publish()
	}
	var want, got [][]byte
	for i, c := range w.model.changes {
		if w.model.keeps(i, w.model.compacted) {
			want = append(want, c.rev.EngineKey(c.del))
		}
	}
	sn, err := w.eng.Snapshot()
	require.NoError(w.t, err)
	defer sn.Close()
	size := int64(0)
	require.NoError(w.t, sn.Scan(nil, engine.RevisionsEnd, false, func(k, v []byte) bool {
		got = append(got, bytes.Clone(k))
		size += int64(len(k) + len(v))
		return true
	}))
	require.Equal(w.t, want, got)
	require.Equal(w.t, size, w.store.Bytes())
}

// keeps says whether change i survives a compaction by the protocol's rule.
func (m *model) keeps(i int, compacted int64) bool {
	c := m.changes[i]
	if c.rev.Main > compacted {
		return true
	}
	for _, later := range m.changes[i+1:] {
		if bytes.Equal(later.kv.Key, c.kv.Key) && later.rev.Main <= compacted {
			return false
		}
	}
	return !c.del || c.rev.Main == compacted
}
