package mvcc

import (
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

// Hash computes the checksum that members compare: CRC-32C over the name of etcd's bucket and every
// stored revision up to revision (0 for the current one), leaving out what the last compaction makes
// removable. Members that have removed more or less of that agree, and so does etcd on the same history.
//
// It reads the whole history. Errors: ErrCompacted, ErrFuture, the engine's.
func (v *View) Hash(revision int64) (Hash, error) {
	switch {
	case revision > 0 && revision < v.compacted:
		return Hash{}, ErrCompacted
	case revision > v.current:
		return Hash{}, ErrFuture
	case revision <= 0:
		revision = v.current
	}
	sn, err := v.eng.Snapshot()
	if err != nil {
		return Hash{}, fmt.Errorf("mvcc: hash: %w", err)
	}
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	_, _ = h.Write([]byte("key"))
	var failed error
	err = sn.Scan(nil, engine.RevisionsEnd, false, func(key, value []byte) bool {
		var more bool
		more, failed = v.hashOne(h, revision, key, value)
		return more && failed == nil
	})
	if err = errors.Join(err, failed, sn.Close()); err != nil {
		return Hash{}, fmt.Errorf("mvcc: hash: %w", err)
	}
	return Hash{Sum: h.Sum32(), Compacted: v.compacted, Revision: revision}, nil
}

// hashOne adds one stored revision, unless it is one that compaction may have removed. more is false
// behind the last revision that counts.
func (v *View) hashOne(h hash.Hash32, last int64, key, value []byte) (more bool, err error) {
	rev, tombstone, err := ParseEngineKey(key)
	if err != nil || rev.Main > last {
		return false, err
	}
	if rev.Main <= v.compacted {
		kv, err := DecodeKeyValue(value)
		if err != nil {
			return false, fmt.Errorf("revision %d.%d: %w", rev.Main, rev.Sub, err)
		}
		it := v.root.get(kv.Key)
		if it == nil || tombstone {
			return true, nil
		}
		if kept := it.liveAt(last); kept == nil || kept.rev != rev {
			return true, nil
		}
	}
	_, _ = h.Write(key)
	_, _ = h.Write(value)
	return true, nil
}
