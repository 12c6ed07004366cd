package sim

import (
	"errors"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// contentSum is a checksum of an engine's content that follows each batch: the sum of what each pair of key and value
// hashes to. Revisions are apart from the tables, because a compaction removes them at each member's own pace.
type contentSum struct{ revisions, tables uint64 }

// add follows a batch that is about to be committed.
func (s *contentSum) add(before engine.Engine, b *engine.Batch) error {
	changed := map[string][]byte{} // by this batch; nil if deleted
	old := func(key []byte) ([]byte, error) {
		if v, ok := changed[string(key)]; ok {
			return v, nil
		}
		v, err := before.Get(key)
		if errors.Is(err, engine.ErrNotFound) {
			return nil, nil
		}
		return v, err
	}
	set := func(key, value []byte) error {
		v, err := old(key)
		if err != nil {
			return err
		}
		if v != nil {
			s.change(key, -pairSum(key, v))
		}
		if value != nil {
			s.change(key, pairSum(key, value))
		}
		changed[string(key)] = value
		return nil
	}
	for _, op := range b.Ops() {
		var err error
		switch op.Kind {
		case engine.OpPut:
			value := op.Value
			if value == nil {
				value = []byte{}
			}
			err = set(op.Key, value)
		case engine.OpDelete:
			err = set(op.Key, nil)
		case engine.OpDeleteRange:
			err = s.deleteRange(before, changed, op, set)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *contentSum) deleteRange(before engine.Engine, changed map[string][]byte, op engine.Op, set func(key, value []byte) error) error {
	doomed := map[string]bool{}
	for key := range changed {
		if key >= string(op.Key) && key < string(op.Value) {
			doomed[key] = true
		}
	}
	sn, err := before.Snapshot()
	if err != nil {
		return err
	}
	err = sn.Scan(op.Key, op.Value, false, func(key, _ []byte) bool {
		doomed[string(key)] = true
		return true
	})
	for key := range doomed { // a sum has no order
		err = errors.Join(err, set([]byte(key), nil))
	}
	return errors.Join(err, sn.Close())
}

func (s *contentSum) change(key []byte, by uint64) {
	if key[0] < engine.TableMeta {
		s.revisions += by
	} else {
		s.tables += by
	}
}

// pairSum is FNV-1a over the key's length, key and value, mixed at the end so that sums of it do not cancel out.
func pairSum(key, value []byte) uint64 {
	const offset, prime = 14695981039346656037, 1099511628211
	h := (offset ^ uint64(len(key))) * prime
	for _, b := range key {
		h = (h ^ uint64(b)) * prime
	}
	for _, b := range value {
		h = (h ^ uint64(b)) * prime
	}
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
