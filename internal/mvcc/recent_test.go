package mvcc

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// nodes adds the nodes below n to set.
func (n *node) nodes(set map[*node]bool) {
	if set[n] {
		return
	}
	set[n] = true
	for _, c := range n.children {
		c.nodes(set)
	}
}

// check holds the moments against what they promise: their order and bounds, and that the bytes which are
// counted are those of the nodes that only they reach. newest is the root published last.
func (r *recent) check(t *testing.T, newest *node) {
	t.Helper()
	require.Len(t, r.kept, len(r.past))
	require.NotEmpty(t, r.past)
	require.Less(t, len(r.open), r.bounds.every)
	require.LessOrEqual(t, len(r.past), r.bounds.moments)
	require.True(t, r.bytes <= r.bounds.bytes || len(r.past) == 1, "%d bytes", r.bytes)
	changes, items, nodes := int64(len(r.open)), int64(0), int64(0)
	for i, m := range r.past {
		changes += int64(len(m.changes))
		from, to := m.main, int64(1<<62)
		if i+1 < len(r.past) {
			to = r.past[i+1].main
			require.Less(t, from, to)
		}
		for _, c := range m.changes {
			require.True(t, from < c.main() && c.main() <= to, "change at %d between %d and %d", c.main(), from, to)
		}
		for _, l := range r.kept[i].left {
			if l.born == 0 {
				items += l.bytes
			} else {
				nodes += l.bytes
			}
		}
	}
	require.Equal(t, changeSize*changes+items+nodes, r.bytes)
	now, all := map[*node]bool{}, map[*node]bool{}
	newest.nodes(now)
	for _, m := range r.past {
		m.root.nodes(all)
	}
	pinned := int64(0)
	for n := range all {
		if !now[n] {
			pinned += n.size()
		}
	}
	require.Equal(t, pinned, nodes)
}

func (s *scenario) runRecent(d *datadriven.TestData) (string, bool) {
	switch d.Cmd {
	case "bounds":
		s.store.recent.bounds = bounds{
			every: number(d, "every"), moments: number(d, "moments"), between: number(d, "between"), bytes: int64(number(d, "bytes")),
		}
		return "", true
	case "expire":
		s.now = s.now.Add(time.Duration(number(d, "after")) * time.Second)
		forgot := s.store.Expire(s.now)
		s.view = s.store.Publish()
		return fmt.Sprintf("forgot %v\n%s", forgot, s.moments()), true
	case "recent":
		return s.moments(), true
	case "way":
		e, ok := s.view.exactlyAt(int64(number(d, "rev")))
		if !ok {
			return "walked\n", true
		}
		way := map[bool]string{false: "forward", true: "undone"}[e.undo]
		return fmt.Sprintf("a root of %d keys, %s%s\n", e.root.live, way, formatChanges(e.changes)), true
	}
	return "", false
}

func (s *scenario) moments() string {
	var b strings.Builder
	for _, m := range s.view.past {
		fmt.Fprintf(&b, "%d:%s\n", m.main, formatChanges(m.changes))
	}
	fmt.Fprintf(&b, "open:%s\n", formatChanges(s.view.open))
	roots, _ := s.view.Recent()
	require.Len(s.t, s.view.past, roots)
	return b.String()
}

func formatChanges(changes []change) string {
	var b strings.Builder
	for _, c := range changes {
		sign := map[bool]string{false: "-", true: "+"}[c.appeared()]
		fmt.Fprintf(&b, " %d%s%s", c.main(), sign, c.it.key())
	}
	return b.String()
}

// What kept roots hold on to stays within its bound while a compaction takes most of the keys out of the tree,
// and goes when they are a minute old.
func TestRecentMemoryIsBounded(t *testing.T) {
	const n = 20_000
	s, eng := filled(t, n)
	s.recent.bounds.bytes = 1 << 20
	batch := &engine.Batch{}
	turn := func(change func(txn *Txn)) {
		batch.Reset()
		s.Begin(batch)
		txn := s.Txn()
		change(txn)
		txn.End()
		require.NoError(t, eng.Commit(batch))
		s.Publish()
	}
	rng := rand.New(rand.NewPCG(3, 3))
	most := int64(0)
	for range n {
		turn(func(txn *Txn) {
			_, err := txn.DeleteRange(benchKey(rng.IntN(n)), nil)
			require.NoError(t, err)
		})
		most = max(most, s.recent.bytes)
	}
	require.LessOrEqual(t, most, int64(1<<20))
	require.Greater(t, most, int64(1<<19), "nothing to bound")
	require.NoError(t, s.Compact(s.Current()))
	for {
		if _, due := s.RemovalDue(); !due {
			break
		}
		turn(func(*Txn) { s.RemoveSome(500, true) })
		require.LessOrEqual(t, s.recent.bytes, int64(1<<20))
	}
	s.recent.check(t, s.tree.root)
	start := time.Unix(1000, 0)
	s.Expire(start)
	s.Expire(start.Add(keepFor + time.Second))
	roots, bytes := s.Publish().Recent()
	require.Equal(t, 1, roots)
	require.Zero(t, bytes)
}

// aged is a store of 100,000 keys, and a revision after which thirty seconds of writes came, 1,000 a second,
// of which a tenth makes keys appear and disappear.
func aged(tb testing.TB) (*View, int64) {
	const n = 100_000
	s, eng := filled(tb, n)
	rev := s.Publish().Current()
	now := time.Unix(0, 0)
	rng := rand.New(rand.NewPCG(3, 4))
	batch := &engine.Batch{}
	var v *View
	for i := range 3000 {
		batch.Reset()
		s.Begin(batch)
		for j := range 10 {
			txn := s.Txn()
			key := benchKey(rng.IntN(n))
			var err error
			switch {
			case j > 0:
				_, err = txn.Put(key, key, 0)
			case i%2 == 0:
				_, err = txn.DeleteRange(key, nil)
			default:
				_, err = txn.Put(fmt.Appendf(key, "-%d", i), key, 0)
			}
			require.NoError(tb, err)
			txn.End()
		}
		require.NoError(tb, eng.Commit(batch))
		if now = now.Add(10 * time.Millisecond); i%500 == 0 {
			s.Expire(now)
		}
		v = s.Publish()
	}
	return v, rev
}

// The page and the count that a reader of pages asks for at the revision of its first page, half a minute later.
func BenchmarkAged(b *testing.B) {
	v, rev := aged(b)
	read := func(b *testing.B, o RangeOptions, want int64) {
		b.ReportAllocs()
		for b.Loop() {
			if res, err := v.Range(o); err != nil || res.Count != want {
				b.Fatal(res.Count, err)
			}
		}
	}
	page := RangeOptions{Key: benchKey(40_000), End: []byte{0}, Limit: 500, KeysOnly: true, Revision: rev}
	count := RangeOptions{Key: benchKey(0), End: []byte{0}, CountOnly: true, Revision: rev}
	b.Run("page", func(b *testing.B) { read(b, page, 60_000) })
	b.Run("count", func(b *testing.B) { read(b, count, 100_000) })
	page.Revision += 15_000
	_, total := v.Recent()
	b.Run("page-between", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if res, err := v.Range(page); err != nil || len(res.KVs) != 500 {
				b.Fatal(res.Count, err)
			}
		}
		b.ReportMetric(float64(total), "kept-B")
	})
}
