package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/dolmen-io/dolmen/internal/engine"
)

func isNotFound(err error) bool { return errors.Is(err, engine.ErrNotFound) }

// Attachment is a key that was found attached to a lease.
type Attachment struct {
	Lease int64
	Key   []byte
}

// Parallel says how a load is divided. The zero value does all of it in place. The result is the same.
type Parallel struct {
	// Parts is how many parts the history is read in, at most maxParts.
	Parts int
	// Run runs tasks, in any order and also at once, and returns when all have ended; nil for one after the other.
	Run func(tasks []func())
}

// maxParts bounds the parts: joining them looks at each of them for each key.
const maxParts = 16

func (p Parallel) run(tasks []func()) {
	if p.Run != nil {
		p.Run(tasks)
		return
	}
	for _, task := range tasks {
		task()
	}
}

// Load builds a store from what the engine holds. attach is called for each existing key with a lease,
// in key order. progress is called now and then with the number of revisions read; both may be nil.
//
// A compaction that had been accepted but not completed is taken up again by RemoveSome.
func Load(eng engine.Engine, progress func(revisions int64), attach func(Attachment)) (*Store, error) {
	return LoadParallel(eng, Parallel{}, progress, attach)
}

// LoadParallel is Load in parts that run beside each other. progress must allow for that.
func LoadParallel(
	eng engine.Engine, p Parallel, progress func(revisions int64), attach func(Attachment),
) (_ *Store, err error) {
	sn, err := eng.Snapshot()
	if err != nil {
		return nil, fmt.Errorf("mvcc: load: %w", err)
	}
	defer func() { err = errors.Join(err, sn.Close()) }()
	s := &Store{eng: eng, current: 1, recent: recent{bounds: defaultBounds()}}
	if s.finished, err = compactionMark(sn, finishedKey); err != nil {
		return nil, fmt.Errorf("mvcc: load: finished compaction: %w", err)
	}
	scheduled, err := compactionMark(sn, scheduledKey)
	if err != nil {
		return nil, fmt.Errorf("mvcc: load: scheduled compaction: %w", err)
	}
	s.compacted = max(s.finished, scheduled)
	parts, err := readParts(sn, p, progress)
	if err != nil {
		return nil, fmt.Errorf("mvcc: load: %w", err)
	}
	for _, part := range parts {
		s.current = max(s.current, part.current)
		s.bytes += part.bytes
	}
	var leased []*item
	s.tree, leased = joinParts(parts, p)
	s.keys = int64(s.tree.root.live)
	s.current = max(s.current, s.compacted)
	s.keep()
	if attach != nil {
		for _, it := range leased {
			attach(Attachment{Lease: it.head.Load().summary().lease, Key: it.key()})
		}
	}
	return s, nil
}

// progressEvery is how many revisions lie between two reports of a load.
const progressEvery = 500_000

// part is a stretch of history that was read: its keys with the versions they have in it.
type part struct {
	// tree has the keys; once they are to be joined with those of other parts, items has them, in order.
	tree  *tree
	items []*item
	// leases says that a version in it has a lease.
	leases  bool
	current int64
	bytes   int64
}

// readParts divides the history into stretches of as many revisions, oldest first, and reads them.
func readParts(sn engine.Snapshot, p Parallel, progress func(int64)) ([]*part, error) {
	bounds, err := stretches(sn, min(max(p.Parts, 1), maxParts))
	if err != nil {
		return nil, err
	}
	parts := make([]*part, len(bounds)-1)
	errs := make([]error, len(parts))
	tasks := make([]func(), len(parts))
	var read atomic.Int64
	for i := range parts {
		parts[i] = &part{tree: newTree()}
		tasks[i] = func() {
			errs[i] = parts[i].read(sn, bounds[i], bounds[i+1], func() {
				if n := read.Add(1); progress != nil && n%progressEvery == 0 {
					progress(n)
				}
			})
			if len(parts) > 1 {
				parts[i].list()
			}
		}
	}
	p.run(tasks)
	return parts, errors.Join(errs...)
}

// stretches returns the n+1 engine keys that divide the history, or fewer if it is short.
func stretches(sn engine.Snapshot, n int) ([][]byte, error) {
	var ends [2]Revision
	for i, newestFirst := range []bool{false, true} {
		var failed error
		err := sn.Scan(nil, engine.RevisionsEnd, newestFirst, func(key, _ []byte) bool {
			var err error
			if ends[i], _, err = ParseEngineKey(key); err != nil {
				failed = fmt.Errorf("%w: %w", ErrDamaged, err)
			}
			return false
		})
		if err = errors.Join(err, failed); err != nil {
			return nil, err
		}
	}
	first, span := ends[0].Main, ends[1].Main-ends[0].Main
	bounds := [][]byte{nil}
	for i := 1; i < n && span/int64(n) > 0; i++ {
		bounds = append(bounds, Revision{Main: first + span/int64(n)*int64(i)}.EngineKey(false))
	}
	return append(bounds, engine.RevisionsEnd), nil
}

// read reads the revisions of [lo, hi), oldest first, and calls done after each.
func (p *part) read(sn engine.Snapshot, lo, hi []byte, done func()) error {
	var failed error
	err := sn.Scan(lo, hi, false, func(key, value []byte) bool {
		if failed = p.add(key, value); failed != nil {
			return false
		}
		done()
		return true
	})
	return errors.Join(err, failed)
}

// list puts the part's keys in a list, in the place of its tree.
func (p *part) list() {
	p.items = make([]*item, 0, p.tree.size)
	p.tree.root.ascend(span{open: true}, false, func(it *item) bool {
		p.items = append(p.items, it)
		return true
	})
	p.tree = nil
}

// add takes in a revision, which is newer than those before.
func (p *part) add(key, value []byte) error {
	rev, tombstone, err := ParseEngineKey(key)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	kv, err := DecodeKeyValue(value)
	if err != nil {
		return fmt.Errorf("%w: value of revision %d.%d is not a KeyValue", ErrDamaged, rev.Main, rev.Sub)
	}
	p.current = rev.Main
	p.bytes += int64(len(key) + len(value))
	p.leases = p.leases || kv.LeaseID != 0
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
	it := p.tree.get(kv.Key)
	if it == nil {
		it = newItem(v)
		p.tree.insert(it, it.exists())
		return nil
	}
	existed := it.exists()
	v.prev.Store(it.head.Load())
	it.head.Store(v)
	it.strip()
	if it.exists() != existed {
		p.tree.setExists(kv.Key, !existed)
	}
	return nil
}
