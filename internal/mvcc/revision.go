package mvcc

import (
	"encoding/binary"
	"fmt"
)

// Lengths of encoded revisions: 8 bytes main, '_', 8 bytes sub, and 't' behind those of deletes.
const (
	revisionLen  = 17
	tombstoneLen = revisionLen + 1

	revisionSeparator = '_'
	tombstoneMark     = 't'
)

// Revision is a point in history. Main counts transactions from 1, Sub the changes inside one from 0.
type Revision struct{ Main, Sub int64 }

// appendKey appends the engine key of the revision, etcd's own encoding, to b.
func (r Revision) appendKey(b []byte, tombstone bool) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(r.Main))
	b = append(b, revisionSeparator)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Sub))
	if tombstone {
		b = append(b, tombstoneMark)
	}
	return b
}

// EngineKey returns the key under which the engine holds this revision.
func (r Revision) EngineKey(tombstone bool) []byte {
	return r.appendKey(make([]byte, 0, tombstoneLen), tombstone)
}

// ParseEngineKey is the inverse of EngineKey. Keys of other shapes are an error that says what is wrong.
func ParseEngineKey(k []byte) (r Revision, tombstone bool, err error) {
	switch {
	case len(k) != revisionLen && len(k) != tombstoneLen:
		return r, false, fmt.Errorf("mvcc: revision key %x is %d bytes long, want %d or %d", k, len(k), revisionLen, tombstoneLen)
	case k[8] != revisionSeparator:
		return r, false, fmt.Errorf("mvcc: revision key %x has no separator at byte 8", k)
	case len(k) == tombstoneLen && k[revisionLen] != tombstoneMark:
		return r, false, fmt.Errorf("mvcc: revision key %x ends in 0x%02x, want 't'", k, k[revisionLen])
	}
	r.Main = int64(binary.BigEndian.Uint64(k))
	r.Sub = int64(binary.BigEndian.Uint64(k[9:]))
	if r.Main < 0 || r.Sub < 0 {
		return r, false, fmt.Errorf("mvcc: revision key %x is negative", k)
	}
	return r, len(k) == tombstoneLen, nil
}
