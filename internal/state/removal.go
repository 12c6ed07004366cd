package state

import (
	"slices"

	"github.com/dolmen-io/dolmen/internal/mvcc"
)

// Removal is what RemoveSome did.
type Removal struct {
	// Removed is the number of revisions.
	Removed int
	// Empty says that nothing is left to remove.
	Empty bool
	// Done says that the compaction at revision Finished is complete.
	Done     bool
	Finished int64
	// Waiting says that a reader still uses what is to be removed; try again later.
	Waiting bool
}

// RemovalDue says whether RemoveSome has work to do.
func (s *State) RemovalDue() bool {
	_, due := s.store.RemovalDue()
	return due
}

// BeginRemoval returns the compaction that RemoveSome carries out next. Who wants its checksum takes it
// from the newest view, see mvcc.View.HashCompaction.
func (s *State) BeginRemoval() (c mvcc.Compaction, due bool) { return s.store.BeginRemoval() }

// RemoveSome removes up to about limit revisions that compaction has made unreadable, in a batch of its
// own. With finish it completes the compaction once nothing is left.
func (s *State) RemoveSome(limit int, finish bool) (Removal, error) {
	below, due := s.store.RemovalDue()
	if !due {
		return Removal{}, nil
	}
	if s.readableFrom() < below {
		return Removal{Waiting: true}, nil
	}
	s.store.Begin(&s.batch)
	done := s.store.RemoveSome(limit, finish)
	_, err := s.commit()
	return Removal{Removed: done.Revisions, Empty: done.Empty, Done: done.Done, Finished: done.Finished}, err
}

// keptHashes is of how many compactions the checksum is kept, etcd's figure.
const keptHashes = 10

// KeepHash keeps the checksum of a compaction for HashKV, from the next turn or removal on. It belongs to
// the applier. A compaction is kept once.
func (s *State) KeepHash(h mvcc.Hash) {
	if n := len(s.hashes); n > 0 && s.hashes[n-1].Revision >= h.Revision {
		return
	}
	hashes := append(slices.Clone(s.hashes), h) // compactions come in order
	s.hashes = hashes[max(0, len(hashes)-keptHashes):]
}

// HashKV returns the checksum of the history up to a revision, 0 for the current one: the one kept of a
// compaction at that revision if there is one, which may be asked for although a later one has taken that
// history away. Errors: mvcc.ErrCompacted, mvcc.ErrFuture, ErrReplaced, the engine's.
func (v *View) HashKV(revision int64) (mvcc.Hash, error) {
	for _, h := range v.Hashes {
		if h.Revision == revision {
			return h, nil
		}
	}
	return v.Hash(revision)
}

// Hash is HashKV without the checksums that were kept. Errors: ErrReplaced too.
func (v *View) Hash(revision int64) (mvcc.Hash, error) {
	h, err := v.KV.Hash(revision)
	if v.Replaced() {
		return mvcc.Hash{}, ErrReplaced
	}
	return h, err
}

// Removed returns the revision of the last compaction that is complete, -1 for none. It belongs to the applier.
func (s *State) Removed() int64 { return s.store.Finished() }
