package lease

import (
	"slices"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// store is an engine.Snapshot over a map; commit applies a batch to it.
type store map[string][]byte

func (s store) commit(b *engine.Batch) {
	for _, op := range b.Ops() {
		switch op.Kind {
		case engine.OpPut:
			s[string(op.Key)] = op.Value
		case engine.OpDelete:
			delete(s, string(op.Key))
		}
	}
	b.Reset()
}

func (s store) Get(key []byte) ([]byte, error) {
	if v, ok := s[string(key)]; ok {
		return v, nil
	}
	return nil, engine.ErrNotFound
}

func (s store) Scan(lo, hi []byte, _ bool, fn func(k, v []byte) bool) error {
	if s == nil {
		return engine.ErrClosed
	}
	var keys []string
	for k := range s {
		if k >= string(lo) && k < string(hi) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		if !fn([]byte(k), s[k]) {
			break
		}
	}
	return nil
}

func (s store) Close() error { return nil }
