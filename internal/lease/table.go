package lease

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"go.etcd.io/etcd/server/v3/lease/leasepb"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// Table holds the granted leases and the keys attached to each.
//
// The applier alone calls what changes it: Grant, Revoke, Checkpoint, Attach, Detach, Changes and Bytes. Get,
// Exists, Keys and Len may be called from any goroutine; they may see half a turn, which is what a
// question about "now" can always see.
//
// Which lease a key hangs on is known by the key's newest version in mvcc, so it is not kept here a
// second time, and the keys of a lease are not stored: at a start the owner attaches them again from
// the newest versions.
type Table struct {
	minTTL  int64
	changes []Change // of this turn; the applier's alone
	bytes   int64    // keys and values of all stored leases; the applier's alone

	mu struct {
		sync.RWMutex
		leases map[int64]*entry
	}
}

type entry struct {
	ttl       int64
	remaining int64
	size      int // of the stored lease, key and value
	keys      keySet
}

// Load reads all leases from the engine. minTTL is the shortest time to live granted, in seconds: a
// lease must outlive an election, so members use 1.5 election timeouts, rounded up. The loaded leases
// are reported by the first call of Changes, ordered by ID.
//
// Errors: ErrCorrupt, or what the engine reports; both are failures.
func Load(s engine.Snapshot, minTTL int64) (*Table, error) {
	t := &Table{minTTL: minTTL}
	t.mu.leases = make(map[int64]*entry)
	var bad error
	lo, hi := engine.TableRange(engine.TableLease)
	err := s.Scan(lo, hi, false, func(k, v []byte) bool {
		var l Lease
		if l, bad = decode(k, v); bad != nil {
			return false
		}
		l.TTL = max(l.TTL, minTTL)
		t.mu.leases[l.ID] = &entry{ttl: l.TTL, remaining: l.Remaining, size: len(k) + len(v)}
		t.bytes += int64(len(k) + len(v))
		t.changes = append(t.changes, Change{Granted, l})
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("lease: load: %w", err)
	}
	if bad != nil {
		return nil, bad
	}
	return t, nil
}

// Grant adds a lease of at least ttl seconds and returns the time to live it got.
//
// Errors: ErrNotFound for the ID 0, which means "no lease" everywhere; ErrTTLTooLarge; ErrExists.
func (t *Table) Grant(b *engine.Batch, id, ttl int64) (int64, error) {
	if id == 0 {
		return 0, ErrNotFound
	}
	if ttl > MaxTTL {
		return 0, ErrTTLTooLarge
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.leases[id] != nil {
		return 0, ErrExists
	}
	l := Lease{ID: id, TTL: max(ttl, t.minTTL)}
	size, err := persist(b, l)
	if err != nil {
		return 0, err
	}
	t.mu.leases[id] = &entry{ttl: l.TTL, size: size}
	t.bytes += int64(size)
	t.changes = append(t.changes, Change{Granted, l})
	return l.TTL, nil
}

// Revoke removes a lease and returns its keys in ascending order: every member must delete them in the
// same order. The caller deletes them in the same batch. Error: ErrNotFound.
func (t *Table) Revoke(b *engine.Batch, id int64) ([]string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.mu.leases[id]
	if e == nil {
		return nil, ErrNotFound
	}
	delete(t.mu.leases, id)
	t.bytes -= int64(e.size)
	b.Delete(engineKey(id))
	t.changes = append(t.changes, Change{Revoked, Lease{ID: id}})
	return e.keys.sorted(), nil
}

// Checkpoint notes that a lease had remaining seconds left; 0 takes the note back. A lease that is gone
// by now is skipped: the checkpoint was proposed before the revocation was applied.
func (t *Table) Checkpoint(b *engine.Batch, id, remaining int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.mu.leases[id]
	if e == nil {
		return nil
	}
	l := Lease{ID: id, TTL: e.ttl, Remaining: remaining}
	size, err := persist(b, l)
	if err != nil {
		return err
	}
	t.bytes += int64(size - e.size)
	e.remaining, e.size = remaining, size
	t.changes = append(t.changes, Change{Checkpointed, l})
	return nil
}

// Attach hangs a key on a lease. A key that hung on another one must be detached from it first.
// Error: ErrNotFound.
func (t *Table) Attach(id int64, key string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.mu.leases[id]
	if e == nil {
		return ErrNotFound
	}
	e.keys.add(key)
	return nil
}

// Detach takes a key off a lease; a key that does not hang on it is no error. Error: ErrNotFound.
func (t *Table) Detach(id int64, key string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.mu.leases[id]
	if e == nil {
		return ErrNotFound
	}
	e.keys.remove(key)
	return nil
}

// Changes returns what changed since the last call, in order, and forgets it. The applier hands it on
// once a turn.
func (t *Table) Changes() []Change {
	c := t.changes
	t.changes = nil
	return c
}

// Get returns a lease and whether it exists.
func (t *Table) Get(id int64) (Lease, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	e := t.mu.leases[id]
	if e == nil {
		return Lease{}, false
	}
	return Lease{ID: id, TTL: e.ttl, Remaining: e.remaining}, true
}

// Exists reports whether the lease exists.
func (t *Table) Exists(id int64) bool {
	_, ok := t.Get(id)
	return ok
}

// Keys returns the keys that hang on a lease in ascending order, none for an unknown lease.
func (t *Table) Keys(id int64) []string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	e := t.mu.leases[id]
	if e == nil {
		return nil
	}
	return e.keys.sorted()
}

// Bytes returns the size of all stored leases, keys and values. It belongs to the applier.
func (t *Table) Bytes() int64 { return t.bytes }

// Len returns the number of leases.
func (t *Table) Len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.mu.leases)
}

// A stored lease:
//
//	+------------+-------------+    +---------------------------------------+
//	| TableLease | ID, 8 B BE  | -> | leasepb.Lease{ID, TTL, RemainingTTL}  |
//	+------------+-------------+    +---------------------------------------+
func engineKey(id int64) []byte {
	return binary.BigEndian.AppendUint64([]byte{engine.TableLease}, uint64(id))
}

// persist stores a lease and returns the size of its key and value.
func persist(b *engine.Batch, l Lease) (size int, err error) {
	v, err := proto.Marshal(&leasepb.Lease{ID: l.ID, TTL: l.TTL, RemainingTTL: l.Remaining})
	if err != nil {
		return 0, fmt.Errorf("lease: encode lease %016x: %w", uint64(l.ID), err)
	}
	k := engineKey(l.ID)
	b.Put(k, v)
	return len(k) + len(v), nil
}

func decode(k, v []byte) (Lease, error) {
	if len(k) != 9 {
		return Lease{}, fmt.Errorf("%w: key %x is not 9 bytes long", ErrCorrupt, k)
	}
	id := int64(binary.BigEndian.Uint64(k[1:]))
	var p leasepb.Lease
	if err := proto.Unmarshal(v, &p); err != nil {
		return Lease{}, fmt.Errorf("%w: lease %016x: %w", ErrCorrupt, uint64(id), err)
	}
	if p.ID != id || id == 0 || p.TTL > MaxTTL {
		return Lease{}, fmt.Errorf("%w: lease %016x holds ID %016x and time to live %d s",
			ErrCorrupt, uint64(id), uint64(p.ID), p.TTL)
	}
	return Lease{ID: id, TTL: p.TTL, Remaining: p.RemainingTTL}, nil
}

// fewKeys is where a keySet turns from a slice into a map. Most leases carry one or two keys, and a
// million maps would cost ten times the leases themselves; a scan of eight strings costs less than a
// map's hash.
const fewKeys = 8

// keySet is a set of keys: a slice while small, a map from then on.
type keySet struct {
	few  []string
	many map[string]struct{}
}

func (s *keySet) add(key string) {
	if s.many != nil {
		s.many[key] = struct{}{}
		return
	}
	if slices.Contains(s.few, key) {
		return
	}
	if len(s.few) < fewKeys {
		s.few = append(s.few, key)
		return
	}
	s.many = make(map[string]struct{}, 2*fewKeys)
	for _, k := range s.few {
		s.many[k] = struct{}{}
	}
	s.many[key] = struct{}{}
	s.few = nil
}

func (s *keySet) remove(key string) {
	if s.many != nil {
		delete(s.many, key)
		if len(s.many) == 0 {
			s.many = nil
		}
		return
	}
	if i := slices.Index(s.few, key); i >= 0 {
		s.few = slices.Delete(s.few, i, i+1)
	}
}

func (s *keySet) sorted() []string {
	if s.many == nil {
		keys := slices.Clone(s.few)
		slices.Sort(keys)
		return keys
	}
	keys := make([]string, 0, len(s.many))
	for k := range s.many {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
