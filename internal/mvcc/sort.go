package mvcc

import (
	"bytes"
	"cmp"
	"sort"
)

// byTarget sorts what a range found. Equal elements come in whatever order sort.Sort leaves them in from
// key order: etcd does the same with the same library, so the answers agree.
type byTarget struct {
	list []found
	less func(a, b *found) bool
}

func (s byTarget) Len() int           { return len(s.list) }
func (s byTarget) Swap(i, j int)      { s.list[i], s.list[j] = s.list[j], s.list[i] }
func (s byTarget) Less(i, j int) bool { return s.less(&s.list[i], &s.list[j]) }

// sort orders list as asked. A target other than the key without an order sorts ascending.
func (r reader) sort(list []found, o *RangeOptions) error {
	if o.Target == SortByKey && o.Order != SortDescend {
		return nil
	}
	var less func(a, b *found) bool
	switch o.Target {
	case SortByVersion:
		less = func(a, b *found) bool { return cmp.Less(a.v.summary().ver, b.v.summary().ver) }
	case SortByCreate:
		less = func(a, b *found) bool { return cmp.Less(a.v.summary().create, b.v.summary().create) }
	case SortByMod:
		less = func(a, b *found) bool { return cmp.Less(a.v.main, b.v.main) }
	case SortByValue:
		values := make(map[*item][]byte, len(list))
		for i := range list {
			b, err := r.load(&list[i])
			if err != nil {
				return err
			}
			kv, err := DecodeKeyValue(b)
			if err != nil {
				return err
			}
			values[list[i].it] = kv.Value
		}
		less = func(a, b *found) bool { return bytes.Compare(values[a.it], values[b.it]) < 0 }
	default:
		less = func(a, b *found) bool { return bytes.Compare(a.it.key(), b.it.key()) < 0 }
	}
	var by sort.Interface = byTarget{list, less}
	if o.Order == SortDescend {
		by = sort.Reverse(by)
	}
	sort.Sort(by)
	return nil
}
