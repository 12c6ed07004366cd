package mvcc

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/dolmen-io/dolmen/internal/engine"
)

func isNotFound(err error) bool { return errors.Is(err, engine.ErrNotFound) }

// Attachment is a key that was found attached to a lease.
type Attachment struct {
	Lease int64
	Key   []byte
}

// Load builds a store from what the engine holds. attach is called for each existing key with a lease,
// in key order. progress is called now and then with the number of revisions read; both may be nil.
//
// A compaction that had been accepted but not completed is taken up again by RemoveSome.
func Load(eng engine.Engine, progress func(revisions int64), attach func(Attachment)) (_ *Store, err error) {
	sn, err := eng.Snapshot()
	if err != nil {
		return nil, fmt.Errorf("mvcc: load: %w", err)
	}
	defer func() { err = errors.Join(err, sn.Close()) }()
	s := &Store{eng: eng, tree: newTree(), current: 1, recent: recent{bounds: defaultBounds()}}
	if s.finished, err = compactionMark(sn, finishedKey); err != nil {
		return nil, fmt.Errorf("mvcc: load: finished compaction: %w", err)
	}
	scheduled, err := compactionMark(sn, scheduledKey)
	if err != nil {
		return nil, fmt.Errorf("mvcc: load: scheduled compaction: %w", err)
	}
	s.compacted = max(s.finished, scheduled)
	if err := s.loadRevisions(sn, progress); err != nil {
		return nil, err
	}
	s.current = max(s.current, s.compacted)
	s.keep()
	if attach != nil {
		s.tree.root.ascend(span{open: true}, true, func(it *item) bool {
			if lease := it.head.Load().summary().lease; lease != 0 {
				attach(Attachment{Lease: lease, Key: it.key()})
			}
			return true
		})
	}
	return s, nil
}

// progressEvery is how many revisions lie between two reports of a load.
const progressEvery = 500_000

func (s *Store) loadRevisions(sn engine.Snapshot, progress func(int64)) error {
	var n int64
	var failed error
	err := sn.Scan(nil, engine.RevisionsEnd, false, func(key, value []byte) bool {
		if failed = s.loadOne(key, value); failed != nil {
			return false
		}
		if n++; progress != nil && n%progressEvery == 0 {
			progress(n)
		}
		return true
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("mvcc: load: %w", err)
	}
	return nil
}

func (s *Store) loadOne(key, value []byte) error {
	rev, tombstone, err := ParseEngineKey(key)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	kv, err := DecodeKeyValue(value)
	if err != nil {
		return fmt.Errorf("%w: value of revision %d.%d is not a KeyValue", ErrDamaged, rev.Main, rev.Sub)
	}
	s.current = rev.Main
	s.bytes += int64(len(key) + len(value))
	kind := uint32(kindTombstone)
	if !tombstone {
		kind = kindResident
		if len(value) > 0 && (kv.Ver <= 0 || kv.Create <= 0 || kv.Mod != rev.Main) {
			return fmt.Errorf("%w: revision %d.%d holds version %d, created %d, modified %d",
				ErrDamaged, rev.Main, rev.Sub, kv.Ver, kv.Create, kv.Mod)
		}
	}
	if !bytes.Equal(keyOf(value), kv.Key) {
		return fmt.Errorf("%w: value of revision %d.%d does not begin with its key", ErrDamaged, rev.Main, rev.Sub)
	}
	v, err := newVersion(rev, kind, bytes.Clone(value))
	if err != nil {
		return fmt.Errorf("%w: revision %d.%d: %w", ErrDamaged, rev.Main, rev.Sub, err)
	}
	it := s.tree.get(kv.Key)
	if it == nil {
		it = newItem(v)
		exists := !tombstone && len(value) > 0
		s.tree.insert(it, exists)
		if exists {
			s.keys++
		}
		return nil
	}
	old := it.head.Load()
	v.prev.Store(old)
	it.head.Store(v)
	it.strip()
	switch {
	case old.tombstone() && !tombstone:
		s.tree.setExists(kv.Key, true)
		s.keys++
	case !old.tombstone() && tombstone:
		s.tree.setExists(kv.Key, false)
		s.keys--
	}
	return nil
}
