package auth

import (
	"bytes"
	"sync"

	"go.etcd.io/etcd/pkg/v3/adt"
)

// shape is a user's permissions as etcd holds them, intervals in a tree. It decides about ranges that are
// upside down or empty. They read and write nothing, but who is refused one is refused the transaction around
// it, so members must agree, and what etcd's search finds of such a range depends on the shape of the tree.
// Honest clients do not ask, so the trees are made when somebody does.
type shape struct {
	held []*role // in the order of their names

	once        sync.Once
	read, write adt.IntervalTree
}

// isUpsideDown reports whether a range has an end that is not after its key.
func isUpsideDown(key, end []byte) bool {
	return len(end) > 0 && !isOpen(end) && bytes.Compare(key, end) >= 0
}

func (s *shape) build() {
	s.read, s.write = adt.NewIntervalTree(), adt.NewIntervalTree()
	for _, r := range s.held {
		for _, p := range r.permissions {
			end := p.End
			if isOpen(end) {
				end = nil // the largest there is
			}
			i := adt.NewBytesAffineInterval(p.Key, end)
			if len(p.End) == 0 {
				i = adt.NewBytesAffinePoint(p.Key)
			}
			if p.Access == Read || p.Access == ReadWrite {
				s.read.Insert(i, nil)
			}
			if p.Access == Write || p.Access == ReadWrite {
				s.write.Insert(i, nil)
			}
		}
	}
}

// allows decides about an access to a range that is upside down.
func (s *shape) allows(key, end []byte, access Access) bool {
	s.once.Do(s.build)
	i := adt.NewBytesAffineInterval(bytes.Clone(key), bytes.Clone(end)) // copies, so that no other check's range must be on the heap
	return (access == Write || s.read.Contains(i)) && (access == Read || s.write.Contains(i))
}
