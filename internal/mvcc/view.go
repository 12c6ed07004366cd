package mvcc

import (
	"errors"
	"fmt"
	"math"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// SortOrder and SortTarget have the values of the protocol's enums.
type (
	// SortOrder is none, ascending or descending.
	SortOrder int32
	// SortTarget is what a range is sorted by.
	SortTarget int32
)

// Sort orders.
const (
	SortNone SortOrder = iota
	SortAscend
	SortDescend
)

// Sort targets.
const (
	SortByKey SortTarget = iota
	SortByVersion
	SortByCreate
	SortByMod
	SortByValue
)

// RangeOptions say what to read. The zero value of each field but Key asks for nothing special.
type RangeOptions struct {
	// Key and End are the range: no End for one key, an End of one zero byte for all keys from Key on.
	Key, End []byte
	// Revision to read at; 0 or less for the newest.
	Revision int64
	// Limit on the number of results, 0 for none.
	Limit     int64
	CountOnly bool
	KeysOnly  bool
	// KeysLease has answers without values carry the lease. Etcd answers those from its index, which does
	// not know leases, except when it must read the values to sort by them.
	KeysLease bool
	Order     SortOrder
	Target    SortTarget
	// Filters by revision, both ends inclusive, 0 for no filter.
	MinMod, MaxMod, MinCreate, MaxCreate int64
}

func (o *RangeOptions) filtered() bool {
	return o.MinMod != 0 || o.MaxMod != 0 || o.MinCreate != 0 || o.MaxCreate != 0
}

// RangeResult is what a range found.
type RangeResult struct {
	// KVs are encoded KeyValues, shared and immutable.
	KVs [][]byte
	// Count is the number of keys in the range at that revision, whatever limit and filters say.
	Count int64
	More  bool
	// Revision is the store's current revision, for the header.
	Revision int64
}

// View is the key space at the end of one turn. It never changes, and reading it takes no lock.
type View struct {
	eng                engine.Engine
	root               *node
	current, compacted int64
	finished           int64
	keys, bytes        int64

	// past are the moments that are kept, open the changes from the last one to the view's root.
	past        []moment
	open        []change
	recentBytes int64
}

// Current returns the revision of the view.
func (v *View) Current() int64 { return v.current }

// Compacted returns the revision of the last compaction the view knows of, -1 before any.
func (v *View) Compacted() int64 { return v.compacted }

// Finished returns the revision of the last compaction whose removal is complete, -1 before any.
func (v *View) Finished() int64 { return v.finished }

// Keys returns the number of keys that exist.
func (v *View) Keys() int64 { return v.keys }

// Bytes returns the bytes of keys and values of every revision that is not yet removed.
func (v *View) Bytes() int64 { return v.bytes }

// Range reads a range at o.Revision. It returns ErrFuture and ErrCompacted for revisions that cannot be
// read; other errors are the engine's.
func (v *View) Range(o RangeOptions) (RangeResult, error) {
	res := RangeResult{Revision: v.current}
	at := v.current
	switch {
	case o.Revision > v.current:
		return res, ErrFuture
	case o.Revision > 0 && o.Revision < v.compacted:
		return res, ErrCompacted
	case o.Revision > 0:
		at = o.Revision
	}
	r := reader{v: v, at: at}
	if len(o.End) == 0 {
		return r.point(o, res)
	}
	sp := newSpan(o.Key, o.End)
	if sp.empty() {
		return res, nil
	}
	if at == v.current {
		r.from, r.counted = exactly{root: v.root}, true
	} else {
		r.from, r.counted = v.exactlyAt(at)
	}
	if r.counted {
		res.Count = int64(r.from.count(sp))
		if o.CountOnly || res.Count == 0 {
			return res, nil
		}
	}
	return r.span(sp, o, res)
}

// reader reads a view at one revision.
type reader struct {
	v  *View
	at int64
	// from gives counts and ranges at the revision, unless it is too long ago. Then the whole range is walked
	// to count.
	from    exactly
	counted bool
}

// found is a key with its version at the reader's revision.
type found struct {
	it *item
	v  *version
	kv []byte
}

func (r reader) point(o RangeOptions, res RangeResult) (RangeResult, error) {
	it := r.v.root.get(o.Key)
	if it == nil {
		return res, nil
	}
	v := it.liveAt(r.at)
	if v == nil {
		return res, nil
	}
	res.Count = 1
	if o.CountOnly || !passes(&o, v) {
		return res, nil
	}
	f := found{it: it, v: v}
	kv, err := r.encoded(&o, &f)
	if err != nil {
		return res, err
	}
	res.KVs = [][]byte{kv}
	return res, nil
}

func (r reader) span(sp span, o RangeOptions, res RangeResult) (RangeResult, error) {
	fetch := int64(0) // how many to collect at most, 0 for all
	keyOrder := o.Order == SortNone || o.Order == SortAscend && o.Target == SortByKey
	if o.Limit > 0 && o.Limit < math.MaxInt64 && keyOrder && !o.filtered() {
		fetch = o.Limit + 1
	}
	var list []found
	if r.counted {
		list = make([]found, 0, min(capacity(fetch), res.Count))
		r.from.ascend(sp, r.at, func(it *item, v *version) bool {
			list = append(list, found{it: it, v: v})
			return int64(len(list)) != fetch
		})
	} else {
		r.v.root.ascend(sp, false, func(it *item) bool {
			if v := it.liveAt(r.at); v != nil {
				if res.Count++; !o.CountOnly && (fetch == 0 || int64(len(list)) < fetch) {
					list = append(list, found{it: it, v: v})
				}
			}
			return true
		})
	}
	list = filter(list, &o)
	if err := r.sort(list, &o); err != nil {
		return res, err
	}
	if o.Limit > 0 && int64(len(list)) > o.Limit {
		list = list[:o.Limit]
		res.More = true
	}
	if len(list) == 0 {
		return res, nil
	}
	res.KVs = make([][]byte, len(list))
	for i := range list {
		kv, err := r.encoded(&o, &list[i])
		if err != nil {
			return res, err
		}
		res.KVs[i] = kv
	}
	return res, nil
}

// capacity keeps a limit that a client may choose freely from deciding an allocation.
func capacity(fetch int64) int64 {
	const most = 1 << 20
	if fetch <= 0 || fetch > most {
		return most
	}
	return fetch
}

func passes(o *RangeOptions, v *version) bool {
	if o.MaxMod != 0 && v.main > o.MaxMod || o.MinMod != 0 && v.main < o.MinMod {
		return false
	}
	if o.MaxCreate == 0 && o.MinCreate == 0 {
		return true
	}
	create := v.summary().create
	return (o.MaxCreate == 0 || create <= o.MaxCreate) && (o.MinCreate == 0 || create >= o.MinCreate)
}

func filter(list []found, o *RangeOptions) []found {
	if !o.filtered() {
		return list
	}
	kept := list[:0]
	for _, f := range list {
		if passes(o, f.v) {
			kept = append(kept, f)
		}
	}
	return kept
}

// encoded returns the bytes that answer for one key.
func (r reader) encoded(o *RangeOptions, f *found) ([]byte, error) {
	if !o.KeysOnly {
		return r.load(f)
	}
	s := f.v.summary()
	kv := KeyValue{Key: f.it.key(), Create: s.create, Mod: f.v.main, Ver: s.ver}
	if o.KeysLease {
		kv.LeaseID = s.lease
	}
	return kv.Encode(), nil
}

func (r reader) load(f *found) ([]byte, error) {
	if f.kv != nil {
		return f.kv, nil
	}
	if f.kv = f.v.kv(); f.kv != nil {
		return f.kv, nil
	}
	kv, err := r.v.eng.Get(f.v.rev().EngineKey(false))
	if errors.Is(err, engine.ErrNotFound) {
		// A compaction has passed this revision since the view was published.
		return nil, ErrCompacted
	}
	if err != nil {
		return nil, fmt.Errorf("mvcc: read revision %d.%d: %w", f.v.main, f.v.sub, err)
	}
	f.kv = kv
	return kv, nil
}

// Lease returns the lease of an existing key at the view's revision.
func (v *View) Lease(key []byte) (lease int64, exists bool) {
	if it := v.root.get(key); it != nil {
		if ver := it.liveAt(v.current); ver != nil {
			return ver.summary().lease, true
		}
	}
	return 0, false
}
