package watch

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestIndex compares the index with a look at every watcher, while watchers come and go.
func TestIndex(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	key := func() []byte { return fmt.Appendf(nil, "k%02d", rnd.IntN(40)) }
	x := newIndex()
	var all []*watcher
	for step := range 20_000 {
		if rnd.IntN(2) == 0 || len(all) == 0 {
			var end []byte
			switch rnd.IntN(5) {
			case 0:
				end = []byte{0}
			case 1, 2, 3:
				end = key()
			}
			span, ok := newSpan(key(), end)
			if !ok {
				continue
			}
			w := &watcher{id: int64(step), span: span}
			x.add(w)
			all = append(all, w)
		} else if len(all) > 100 || rnd.IntN(3) == 0 {
			i := rnd.IntN(len(all))
			x.remove(all[i])
			all = slices.Delete(all, i, i+1)
		}
		probe := key()
		var got, want []int64
		x.visit(probe, func(s *set) {
			for _, w := range s.watchers {
				got = append(got, w.id)
			}
		})
		for _, w := range all {
			if w.span.contains(probe) {
				want = append(want, w.id)
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("step %d: key %s: got %v, want %v", step, probe, got, want)
		}
	}
	for _, w := range all {
		x.remove(w)
	}
	if len(x.keys) != 0 || len(x.ranges) != 0 || x.tree.root != nil {
		t.Fatalf("not empty at the end: %d keys, %d ranges", len(x.keys), len(x.ranges))
	}
}

func TestSpanBounds(t *testing.T) {
	for _, c := range [][2]string{{"a", ""}, {"a", "\x00"}, {"a", "b"}, {"\x00", "\x00"}} {
		s, ok := newSpan([]byte(c[0]), []byte(c[1]))
		key, end := s.bounds()
		if !ok || string(key) != c[0] || string(end) != c[1] {
			t.Errorf("%q: got %q %q %v", c, key, end, ok)
		}
	}
}
