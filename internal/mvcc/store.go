package mvcc

import (
	"errors"
	"fmt"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/watch"
)

// Store is the changing side of the key space. It has one owner; nothing here may be called from two
// goroutines at once. What it hands out as View may be read by all.
//
// Changes are gathered over a turn: they go into the turn's engine batch and event list, and are visible
// to transactions of the same turn at once. The owner commits the batch and then calls Publish, after
// which readers see the turn.
type Store struct {
	eng  engine.Engine
	tree *tree

	// current is the revision of the last transaction that changed something, at least 1.
	current int64
	// compacted is the revision of the last accepted compaction, -1 before any; finished is the last
	// one whose removal is complete.
	compacted, finished int64
	// whole says that the compaction accepted last found the one before it complete.
	whole   bool
	removal removal
	recent  recent

	batch   *engine.Batch
	events  []watch.Event
	touched []*item

	keys  int64 // existing keys
	bytes int64 // engine bytes of all revisions not yet removed
}

// Current returns the revision of the last transaction that changed something.
func (s *Store) Current() int64 { return s.current }

// Compacted returns the revision of the last accepted compaction, -1 before any.
func (s *Store) Compacted() int64 { return s.compacted }

// Finished returns the revision of the last compaction whose removal is complete, -1 before any.
func (s *Store) Finished() int64 { return s.finished }

// Keys returns the number of keys that exist.
func (s *Store) Keys() int64 { return s.keys }

// Bytes returns the bytes of keys and values of every revision that is not yet removed.
func (s *Store) Bytes() int64 { return s.bytes }

// Begin starts a turn whose changes go into batch.
func (s *Store) Begin(batch *engine.Batch) {
	s.batch = batch
	s.events = nil
}

// Events returns the turn's events in revision order. They belong to the caller.
func (s *Store) Events() []watch.Event { return s.events }

// Publish makes the turn's end visible to readers. The batch must have been committed before.
func (s *Store) Publish() *View {
	for _, it := range s.touched {
		it.strip()
	}
	clear(s.touched)
	s.touched = s.touched[:0]
	s.keepIfDue()
	return &View{
		eng: s.eng, root: s.tree.publish(), current: s.current, compacted: s.compacted, finished: s.finished,
		keys: s.keys, bytes: s.bytes, past: s.recent.past, open: s.recent.open, recentBytes: s.recent.bytes,
	}
}

// Txn is one transaction: all its changes share a main revision. It must be ended.
type Txn struct {
	s   *Store
	rev Revision // of the next change
}

// Txn starts a transaction.
func (s *Store) Txn() *Txn { return &Txn{s: s, rev: Revision{Main: s.current + 1}} }

// Changed says whether the transaction has changed something.
func (t *Txn) Changed() bool { return t.rev.Sub > 0 }

// Revision is what a response at this point reports: the transaction's own revision once it has changed
// something, before that the one it started at.
func (t *Txn) Revision() int64 {
	if t.Changed() {
		return t.rev.Main
	}
	return t.s.current
}

// End finishes the transaction and returns the current revision after it. One that changed nothing
// takes no revision.
func (t *Txn) End() int64 {
	if t.Changed() {
		t.s.current = t.rev.Main
		t.s.keepIfDue()
	}
	return t.s.current
}

// Previous is what a change replaced.
type Previous struct {
	// KV is the encoded KeyValue, nil when the key did not exist.
	KV []byte
	// Lease is the lease that the key was attached to, 0 for none.
	Lease int64
}

// Lookup returns what is stored under key now, within this transaction.
func (t *Txn) Lookup(key []byte) (Previous, bool, error) {
	it := t.s.tree.get(key)
	if it == nil {
		return Previous{}, false, nil
	}
	v := it.head.Load()
	if v.tombstone() {
		return Previous{}, false, nil
	}
	kv, err := t.s.load(v)
	return Previous{KV: kv, Lease: v.summary().lease}, true, err
}

// load returns the bytes of a version of the newest state.
func (s *Store) load(v *version) ([]byte, error) {
	if kv := v.kv(); kv != nil {
		return kv, nil
	}
	kv, err := s.eng.Get(v.rev().EngineKey(false))
	if err != nil {
		return nil, fmt.Errorf("mvcc: read revision %d.%d: %w", v.main, v.sub, err)
	}
	return kv, nil
}

// Put stores value under key, attached to lease (0 for none). It copies both.
func (t *Txn) Put(key, value []byte, lease int64) (Previous, error) {
	s := t.s
	it := s.tree.get(key)
	var old *version
	if it != nil {
		old = it.head.Load()
	}
	kv := KeyValue{Key: key, Create: t.rev.Main, Mod: t.rev.Main, Ver: 1, Value: value, LeaseID: lease}
	var prev Previous
	exists := old != nil && !old.tombstone()
	if exists {
		replaced, err := s.load(old)
		if err != nil {
			return prev, err
		}
		was := old.summary()
		prev = Previous{KV: replaced, Lease: was.lease}
		kv.Create, kv.Ver = was.create, was.ver+1
	}
	stored := kv.Encode()
	v, err := newVersion(t.rev, kindResident, stored)
	if err != nil {
		return prev, err
	}
	v.prev.Store(old)
	switch {
	case it == nil:
		it = newItem(v)
		s.tree.insert(it, true)
	case exists:
		it.head.Store(v)
	default:
		it.head.Store(v)
		s.tree.setExists(key, true)
	}
	if !exists {
		s.keys++
		s.recent.note(it, t.rev.Main, true)
	}
	t.record(it, stored, stored, s.eventPrev(old, exists, t.rev.Main, prev.KV), false)
	return prev, nil
}

// eventPrev returns what an event reports as the value before it: the one of the revision before, so
// nothing when the same transaction had already changed the key.
func (s *Store) eventPrev(old *version, exists bool, main int64, kv []byte) []byte {
	if !exists || old.main < main {
		return kv
	}
	for old != nil && old.main >= main {
		old = old.prev.Load()
	}
	if old == nil || old.tombstone() {
		return nil
	}
	return old.kv()
}

// Deleted is a key that DeleteRange removed.
type Deleted struct {
	Key []byte
	Previous
}

// DeleteRange removes the keys of [key, end), with end read as in a range request, and returns them in
// key order.
func (t *Txn) DeleteRange(key, end []byte) ([]Deleted, error) {
	s := t.s
	var items []*item
	if len(end) == 0 {
		if it := s.tree.get(key); it != nil && !it.head.Load().tombstone() {
			items = append(items, it)
		}
	} else if sp := newSpan(key, end); !sp.empty() {
		s.tree.root.ascend(sp, true, func(it *item) bool {
			items = append(items, it)
			return true
		})
	}
	deleted := make([]Deleted, 0, len(items))
	for _, it := range items {
		old := it.head.Load()
		kv, err := s.load(old)
		if err != nil {
			return nil, err
		}
		deleted = append(deleted, Deleted{Key: keyOf(kv), Previous: Previous{KV: kv, Lease: old.summary().lease}})
		if err := t.bury(it, old, kv); err != nil {
			return nil, err
		}
	}
	return deleted, nil
}

// bury puts a tombstone on top of an existing key.
func (t *Txn) bury(it *item, old *version, kv []byte) error {
	key := keyOf(kv)
	stored := (&KeyValue{Key: key}).Encode()
	event := KeyValue{Key: key, Mod: t.rev.Main}
	v, err := newVersion(t.rev, kindTombstone, stored)
	if err != nil {
		return err
	}
	v.prev.Store(old)
	it.head.Store(v)
	t.s.tree.setExists(key, false)
	t.s.keys--
	t.s.recent.note(it, t.rev.Main, false)
	t.record(it, stored, event.Encode(), t.s.eventPrev(old, true, t.rev.Main, kv), true)
	return nil
}

// record adds a change to the turn and moves on to the next sub-revision.
func (t *Txn) record(it *item, stored, event, prev []byte, tombstone bool) {
	s := t.s
	key := t.rev.EngineKey(tombstone)
	s.batch.Put(key, stored)
	s.bytes += int64(len(key) + len(stored))
	s.events = append(s.events, watch.Event{
		Main: t.rev.Main, Sub: t.rev.Sub, Key: keyOf(stored), KV: event, Prev: prev, Delete: tombstone,
	})
	s.touched = append(s.touched, it)
	t.rev.Sub++
}

// Range reads within the transaction: its own changes are visible when o.Revision is 0.
func (t *Txn) Range(o RangeOptions) (RangeResult, error) {
	v := &View{
		eng: t.s.eng, root: t.s.tree.root, current: t.s.current, compacted: t.s.compacted,
		past: t.s.recent.past, open: t.s.recent.open,
	}
	if t.Changed() {
		v.current = t.rev.Main
	}
	return v.Range(o)
}

// ErrDamaged says that what the engine holds cannot have been written by this package.
var ErrDamaged = errors.New("mvcc: damaged data")
