package mvcc

import "github.com/dolmen-io/dolmen/internal/engine"

// Where the store keeps how far compaction has come, in the engine's meta table. The values are engine
// keys of revisions, as in etcd's file.
var (
	scheduledKey = engine.TableKey(engine.TableMeta, []byte("scheduledCompactRev"))
	finishedKey  = engine.TableKey(engine.TableMeta, []byte("finishedCompactRev"))
)

// Compaction is one compaction that is carried out.
type Compaction struct {
	// Previous is the compaction that was complete before, -1 for none; Revision is this one's.
	Previous, Revision int64
	// Whole says that the one accepted before this one was complete by then. Otherwise members may have
	// carried them out as one or as several, and their checksums say nothing.
	Whole bool
}

// removal is a compaction under way: the revisions below its own that no read can ask for any more are
// taken out of index and engine, some at a time, in key order.
type removal struct {
	active bool
	Compaction
	// next is the first key not yet looked at; rest is what remains to be erased of a key that was cut,
	// newest first. It is erased from its end: a delete must not go before what it deleted, or a crash in
	// between would bring the key back.
	next []byte
	rest []*version
	// empty says that the last key has been looked at. Those that appear later are newer than the compaction.
	empty bool
}

// Compact makes revisions before main unreadable, at once. What that makes removable is removed by
// RemoveSome. It returns ErrFuture and ErrCompacted for revisions that cannot be compacted to.
func (s *Store) Compact(main int64) error {
	if main <= s.compacted {
		return ErrCompacted
	}
	if main > s.current {
		return ErrFuture
	}
	s.whole = !s.removal.active && s.compacted == s.finished
	s.compacted = main
	s.batch.Put(scheduledKey, Revision{Main: main}.EngineKey(false))
	s.BeginRemoval() // so that one accepted later is carried out after it and not instead of it
	return nil
}

// RemovalDue says whether RemoveSome has work, and below which revision it removes. The caller must not
// call RemoveSome while a View is in use whose Compacted is lower: that view still answers for what would
// be removed.
func (s *Store) RemovalDue() (below int64, due bool) {
	if s.removal.active {
		return s.removal.Revision, true
	}
	return s.compacted, s.compacted > s.finished
}

// BeginRemoval returns the oldest unfinished compaction and fixes it: one that is accepted later is carried
// out after it. due is false if there is none.
func (s *Store) BeginRemoval() (c Compaction, due bool) {
	if !s.removal.active {
		if s.compacted <= s.finished {
			return Compaction{}, false
		}
		s.removal = removal{active: true, Compaction: Compaction{Previous: s.finished, Revision: s.compacted, Whole: s.whole}}
	}
	return s.removal.Compaction, true
}

// Removed is what a call of RemoveSome did.
type Removed struct {
	// Revisions is how many were removed.
	Revisions int
	// Empty says that nothing is left to remove.
	Empty bool
	// Done says that this call completed the compaction at revision Finished.
	Done     bool
	Finished int64
}

// RemoveSome goes on with the oldest unfinished compaction for about limit keys and revisions, putting
// the deletes into the turn's batch. With finish it completes the compaction once nothing is left.
func (s *Store) RemoveSome(limit int, finish bool) (done Removed) {
	if _, due := s.BeginRemoval(); !due {
		return done
	}
	r := &s.removal
	work := 0
	for work < limit {
		if n := len(r.rest); n > 0 {
			s.erase(r.rest[n-1])
			r.rest = r.rest[:n-1]
			done.Revisions++
			work++
			continue
		}
		var it *item
		if !r.empty {
			it = s.tree.root.first(r.next)
		}
		if it == nil {
			r.empty = true
			if done.Empty = true; finish {
				s.finish(&done)
			}
			return done
		}
		r.next = append(append(r.next[:0], it.key()...), 0)
		r.rest = r.rest[:0]
		for v := s.cut(it, r.Revision); v != nil; v = v.prev.Load() {
			r.rest = append(r.rest, v)
		}
		if len(r.rest) > 0 && r.rest[0] == it.head.Load() {
			r.rest[0].prev.Store(nil) // roots that are kept may hold on to the item, but need not to what is below
		}
		work++
	}
	return done
}

func (s *Store) finish(done *Removed) {
	s.finished = s.removal.Revision
	s.removal = removal{}
	s.batch.Put(finishedKey, Revision{Main: s.finished}.EngineKey(false))
	done.Done, done.Finished = true, s.finished
}

// cut takes what a compaction at main makes unreachable off the chain of it and returns it. A key whose
// last change was a delete before main leaves the index; a delete exactly at main stays, because a
// watch from main must still deliver it.
func (s *Store) cut(it *item, main int64) (rest *version) {
	var newer *version
	keep := it.head.Load()
	for keep != nil && keep.main > main {
		newer, keep = keep, keep.prev.Load()
	}
	if keep == nil {
		return nil
	}
	if !keep.tombstone() || keep.main == main {
		rest = keep.prev.Load()
		keep.prev.Store(nil)
		return rest
	}
	if newer != nil {
		newer.prev.Store(nil)
		return keep
	}
	s.tree.remove(it.key())
	return keep
}

func (s *Store) erase(v *version) {
	key := v.rev().EngineKey(v.tombstone())
	s.batch.Delete(key)
	s.bytes -= int64(len(key)) + v.summary().size
}

// first returns the first item with a key at or after key, nil if there is none.
func (n *node) first(key []byte) (it *item) {
	n.ascend(span{lo: key, open: true}, false, func(i *item) bool {
		it = i
		return false
	})
	return it
}

// compactionMark returns the revision held under one of the two keys, -1 if there is none.
func compactionMark(sn engine.Snapshot, key []byte) (int64, error) {
	b, err := sn.Get(key)
	if err != nil {
		if isNotFound(err) {
			return -1, nil
		}
		return 0, err
	}
	rev, _, err := ParseEngineKey(b)
	return rev.Main, err
}
