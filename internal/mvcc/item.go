package mvcc

import (
	"sync/atomic"
	"unsafe"
)

// item is a key and its versions. The key never changes; the chain grows at its head by the applier
// and is cut at its tail by compaction, both with one atomic store, while readers walk it.
type item struct {
	key  []byte
	head atomic.Pointer[version]
}

// version is what a key was from one revision on. All fields but prev are fixed once it is reachable.
type version struct {
	rev Revision
	// create is the revision at which this life of the key began, ver counts its changes from 1. A
	// tombstone has ver 0.
	create, ver, lease int64
	// size is the length of the stored bytes, whether they are resident or not.
	size int64
	// kv is the encoded KeyValue, nil for a tombstone and for versions that are read from the engine.
	kv   []byte
	prev atomic.Pointer[version]
}

// size is the memory in bytes of an item whose only version is a tombstone.
func (it *item) size() int64 {
	return int64(unsafe.Sizeof(*it)+unsafe.Sizeof(version{})) + int64(len(it.key))
}

func (v *version) tombstone() bool { return v.ver == 0 }

// at returns the newest version at or before main, nil if the key did not exist yet. The result may be
// a tombstone.
func (it *item) at(main int64) *version {
	v := it.head.Load()
	for v != nil && v.rev.Main > main {
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
func (it *item) strip() {
	p := it.head.Load()
	for {
		v := p.prev.Load()
		if v != nil && v.tombstone() {
			p = v // it has no bytes, but what it deleted may have
			continue
		}
		if v == nil || v.kv == nil {
			return
		}
		s := &version{rev: v.rev, create: v.create, ver: v.ver, lease: v.lease, size: v.size}
		s.prev.Store(v.prev.Load())
		p.prev.Store(s)
		p = s
	}
}
