package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// Hash is a checksum over the history of the key space up to a revision.
type Hash struct {
	Sum uint32
	// Compacted is the compaction that the checksum takes into account, -1 for none; Revision is the one
	// it goes up to.
	Compacted, Revision int64
}

// hashing is a checksum under way: CRC-32C over the name of etcd's bucket and the stored revisions up to
// last, oldest first. Of those that the compaction at compacted may have taken away it counts what is
// kept of the key space at last, so members that have removed more or less agree, and so does etcd.
type hashing struct {
	crc             hash.Hash32
	root            *node
	compacted, last int64
	// kept says whether a version is what remains of its key when the key space at last is looked at.
	kept func(*version) bool
	// any says whether there is such a version. Where nothing is kept, etcd leaves nothing out: then all
	// that the compaction has left counts, and left says of a version whether it has.
	any  bool
	left func(*item, Revision) bool
}

func (v *View) newHashing(compacted, last int64, kept func(*version) bool, left func(*item, Revision) bool) *hashing {
	h := &hashing{
		crc: crc32.New(crc32.MakeTable(crc32.Castagnoli)), root: v.root,
		compacted: compacted, last: last, kept: kept, left: left,
	}
	_, _ = h.crc.Write([]byte("key"))
	v.root.ascend(span{open: true}, false, func(it *item) bool {
		ver := it.at(last)
		h.any = ver != nil && kept(ver)
		return !h.any
	})
	return h
}

// add takes in one stored revision. more is false behind the last one that counts.
func (h *hashing) add(key, value []byte) (more bool, err error) {
	rev, tombstone, err := ParseEngineKey(key)
	if err != nil || rev.Main > h.last {
		return false, err
	}
	if rev.Main == h.compacted && tombstone {
		return true, nil // versions of etcd differ in whether a compaction leaves it
	}
	if rev.Main <= h.compacted {
		kv, err := DecodeKeyValue(value)
		if err != nil {
			return false, fmt.Errorf("revision %d.%d: %w", rev.Main, rev.Sub, err)
		}
		if !h.counts(h.root.get(kv.Key), rev) {
			return true, nil
		}
	}
	_, _ = h.crc.Write(key)
	_, _ = h.crc.Write(value)
	return true, nil
}

func (h *hashing) counts(it *item, rev Revision) bool {
	if !h.any {
		return h.left(it, rev)
	}
	if it == nil {
		return false
	}
	ver := it.at(h.last)
	return ver != nil && ver.rev() == rev && h.kept(ver)
}

func (h *hashing) sum() Hash {
	return Hash{Sum: h.crc.Sum32(), Compacted: h.compacted, Revision: h.last}
}

// Hash computes the checksum that members compare, over the history up to revision (0 for the current
// one). It reads the whole history. Errors: ErrCompacted, ErrFuture, the engine's.
func (v *View) Hash(revision int64) (Hash, error) {
	switch {
	case revision > 0 && revision < v.compacted:
		return Hash{}, ErrCompacted
	case revision > v.current:
		return Hash{}, ErrFuture
	case revision == 0: // one below is, as in etcd, before all history
		revision = v.current
	}
	sn, err := v.eng.Snapshot()
	if err != nil {
		return Hash{}, fmt.Errorf("mvcc: hash: %w", err)
	}
	h := v.newHashing(v.compacted, revision,
		func(ver *version) bool { return !ver.tombstone() },
		func(it *item, rev Revision) bool {
			if it == nil {
				return false
			}
			ver := it.liveAt(v.compacted)
			return ver != nil && ver.rev() == rev
		})
	var failed error
	err = sn.Scan(nil, engine.RevisionsEnd, false, func(key, value []byte) bool {
		var more bool
		more, failed = h.add(key, value)
		return more && failed == nil
	})
	if err = errors.Join(err, failed, sn.Close()); err != nil {
		return Hash{}, fmt.Errorf("mvcc: hash: %w", err)
	}
	return h.sum(), nil
}

// CompactionHash is the checksum of a compaction: of everything that happened since the one before, and
// of what this one keeps of what the one before had left. It is computed beside the removal, from an
// engine snapshot taken before that, in steps. Until Close it holds the snapshot and the index as it was
// then, so at most one more index. It has one user.
type CompactionHash struct {
	h    *hashing
	sn   engine.Snapshot
	next []byte
}

// HashCompaction begins the checksum of a compaction. It must be called before the first revision of it
// is removed, on a view that knows of it, and no later compaction may begin to remove before it is done.
func (v *View) HashCompaction(c Compaction) (*CompactionHash, error) {
	sn, err := v.eng.Snapshot()
	if err != nil {
		return nil, fmt.Errorf("mvcc: hash compaction %d: %w", c.Revision, err)
	}
	h := v.newHashing(c.Previous, c.Revision,
		func(ver *version) bool { return !ver.tombstone() || ver.main == c.Revision },
		func(*item, Revision) bool { return true })
	return &CompactionHash{h: h, sn: sn}, nil
}

// stepBytes bounds a step of a checksum where values are large: about what a disk reads in 10 ms.
const stepBytes = 4 << 20

// Some goes on for up to limit revisions, or a few MiB. done says that the checksum is complete.
func (c *CompactionHash) Some(limit int) (done bool, err error) {
	var failed error
	n, size, cut := 0, 0, false
	err = c.sn.Scan(c.next, engine.RevisionsEnd, false, func(key, value []byte) bool {
		if cut = n >= limit || size >= stepBytes; cut {
			c.next = bytes.Clone(key)
			return false
		}
		n++
		size += len(key) + len(value)
		var more bool
		more, failed = c.h.add(key, value)
		return more && failed == nil
	})
	if err = errors.Join(err, failed); err != nil {
		return false, fmt.Errorf("mvcc: hash compaction %d: %w", c.h.last, err)
	}
	return !cut, nil
}

// Sum returns the checksum of what was taken in so far.
func (c *CompactionHash) Sum() Hash { return c.h.sum() }

// Close releases the engine snapshot.
func (c *CompactionHash) Close() error { return c.sn.Close() }
