package mvcc

import (
	"encoding/binary"
	"errors"
	"sync/atomic"
	"unsafe"
)

// item is a key and its versions. The chain grows at its head by the applier and is cut at its tail by
// compaction, both with one atomic store, while readers walk it. The head always has bytes that begin with
// the key, so the item needs no copy of it.
type item struct {
	head atomic.Pointer[version]
}

func newItem(v *version) *item {
	it := &item{}
	it.head.Store(v)
	return it
}

// key returns the key, a part of the newest version's bytes: who keeps it for longer than those copies it.
func (it *item) key() []byte { return keyOf(it.head.Load().bytes()) }

// keyOf returns the key of an encoded KeyValue that this package has encoded or checked.
func keyOf(kv []byte) []byte {
	switch {
	case len(kv) == 0 || kv[0] != fieldKey<<3|2:
		return nil
	case kv[1] < 0x80:
		return kv[2 : 2+int(kv[1])]
	}
	n, width := binary.Uvarint(kv[1:])
	return kv[1+width : 1+width+int(n)]
}

// version is what a key was from one revision on: 32 bytes, because there is one for each key and each
// revision of it. All fields but prev are fixed once it is reachable.
//
// What data points to depends on the kind, and is what the version is asked for besides its revision. Of a
// resident version it is the encoded KeyValue, which says all of it; of a tombstone the encoded key, as the
// engine holds it; of a version whose value is read from the engine a summary, see summarize.
type version struct {
	main int64
	sub  uint32
	// state is the length of data and the kind.
	state uint32
	data  *byte
	prev  atomic.Pointer[version]
}

// Kinds of versions, in the upper bits of state.
const (
	kindResident  = 0 << 30
	kindTombstone = 1 << 30
	kindStripped  = 2 << 30
	kindMask      = 3 << 30

	// maxStored is how long the bytes of a version can be: less than 1 GiB, which no request comes near.
	maxStored = 1<<30 - 1
)

// errTooLarge says that a key with its value, or a transaction, is larger than a version can say.
var errTooLarge = errors.New("mvcc: too large")

// newVersion makes a version of bytes that it keeps.
func newVersion(rev Revision, kind uint32, data []byte) (*version, error) {
	if len(data) > maxStored || rev.Sub > int64(^uint32(0)) {
		return nil, errTooLarge
	}
	return &version{main: rev.Main, sub: uint32(rev.Sub), state: kind | uint32(len(data)), data: unsafe.SliceData(data)}, nil
}

func (v *version) rev() Revision   { return Revision{Main: v.main, Sub: int64(v.sub)} }
func (v *version) kind() uint32    { return v.state & kindMask }
func (v *version) tombstone() bool { return v.kind() == kindTombstone }
func (v *version) bytes() []byte   { return unsafe.Slice(v.data, v.state&^kindMask) }

// kv returns the encoded KeyValue, nil for a tombstone and for a version that is read from the engine.
func (v *version) kv() []byte {
	if v.kind() != kindResident {
		return nil
	}
	return v.bytes()
}

// summary is what is known of a version without its value.
type summary struct {
	// create is the revision at which this life of the key began, ver counts its changes from 1. A
	// tombstone has ver 0.
	create, ver, lease int64
	// size is the length of the stored bytes, whether they are resident or not.
	size int64
}

func (v *version) summary() (s summary) {
	b := v.bytes()
	switch v.kind() {
	case kindTombstone:
		return summary{size: int64(len(b))}
	case kindStripped:
		for _, field := range []*int64{&s.create, &s.ver, &s.lease, &s.size} {
			n, width := binary.Uvarint(b)
			*field, b = int64(n), b[width:]
		}
		return s
	}
	if len(b) == 0 {
		// The entry with which "snapshot restore --bump-revision" moves the revision on. Etcd has it in its index
		// as a change of the key without a name, where compaction and hash find it and no read does.
		return summary{create: v.main, ver: 1}
	}
	kv, _ := DecodeKeyValue(b) // checked when it was loaded, or encoded here
	return summary{create: kv.Create, ver: kv.Ver, lease: kv.LeaseID, size: int64(len(b))}
}

// stripped returns a copy of a resident version with its summary in the place of its bytes.
func (v *version) stripped() *version {
	s := v.summary()
	var b [4 * binary.MaxVarintLen64]byte
	n := 0
	for _, field := range []int64{s.create, s.ver, s.lease, s.size} {
		n += binary.PutUvarint(b[n:], uint64(field))
	}
	data := append(make([]byte, 0, n), b[:n]...)
	c := &version{main: v.main, sub: v.sub, state: kindStripped | uint32(n), data: unsafe.SliceData(data)}
	c.prev.Store(v.prev.Load())
	return c
}

// exists says whether the newest version is one that reads find.
func (it *item) exists() bool {
	v := it.head.Load()
	return v.kind() == kindResident && len(v.bytes()) > 0
}

// oldest returns the end of the chain.
func (it *item) oldest() *version {
	v := it.head.Load()
	for p := v.prev.Load(); p != nil; p = v.prev.Load() {
		v = p
	}
	return v
}

// size is the memory in bytes of an item whose only version is a tombstone.
func (it *item) size() int64 {
	return int64(unsafe.Sizeof(*it)+unsafe.Sizeof(version{})) + int64(len(it.head.Load().bytes()))
}

// at returns the newest version at or before main, nil if the key did not exist yet. The result may be
// a tombstone.
func (it *item) at(main int64) *version {
	v := it.head.Load()
	for v != nil && v.main > main {
		v = v.prev.Load()
	}
	return v
}

// liveAt is like at but gives nil for a tombstone.
func (it *item) liveAt(main int64) *version {
	if v := it.at(main); v != nil && !v.tombstone() {
		return v
	}
	return nil
}

// strip replaces the versions below the head by copies without their bytes, as far down as they still
// have some. It is called once the engine holds them. Readers that already hold the old record keep
// its bytes; new ones ask the engine.
func (it *item) strip() { it.head.Load().stripBelow() }

func (v *version) stripBelow() {
	p := v
	for {
		v := p.prev.Load()
		if v != nil && v.tombstone() {
			p = v // it has only its key, but what it deleted may have more
			continue
		}
		if v == nil || v.kind() == kindStripped {
			return
		}
		s := v.stripped()
		p.prev.Store(s)
		p = s
	}
}
