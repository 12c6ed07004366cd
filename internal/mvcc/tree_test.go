package mvcc

import (
	"bytes"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// invariants checks everything below n, whose keys must lie in [lo, hi), nil for no limit, and returns the
// depth, which must be the same everywhere.
func invariants(t *testing.T, n *node, lo, hi []byte, gen uint64) (depth int) {
	t.Helper()
	require.LessOrEqual(t, n.gen, gen, "a node from the future")
	inside := func(key []byte) {
		require.True(t, bytes.Compare(key, lo) >= 0 && (hi == nil || bytes.Compare(key, hi) < 0), "%q outside of [%q, %q)", key, lo, hi)
	}
	if n.leaf() {
		require.LessOrEqual(t, len(n.items), maxItems)
		require.Zero(t, n.bits>>uint(len(n.items)), "bits behind the last item")
		require.Equal(t, bits.OnesCount64(n.bits), n.live)
		require.True(t, slices.IsSortedFunc(n.items, func(a, b *item) int { return bytes.Compare(a.key(), b.key()) }))
		require.Len(t, n.hints, len(n.items))
		for i, it := range n.items {
			inside(it.key())
			rest, ok := bytes.CutPrefix(it.key(), []byte(n.prefix))
			require.True(t, ok)
			require.Equal(t, hintOf(rest), n.hints[i])
		}
		return 1
	}
	require.Empty(t, n.items)
	require.LessOrEqual(t, len(n.children), maxItems)
	require.Len(t, n.seps, len(n.children)-1)
	require.Equal(t, n.sumLive(), n.live)
	require.True(t, slices.IsSorted(n.seps))
	for i, c := range n.children {
		from, to := lo, hi
		if i > 0 {
			from = []byte(n.seps[i-1])
			inside(from)
		}
		if i < len(n.seps) {
			to = []byte(n.seps[i])
		}
		d := invariants(t, c, from, to, gen)
		require.True(t, depth == 0 || depth == d, "leaves at depths %d and %d", depth, d)
		depth = d
	}
	return depth + 1
}

// bare is an item that has only a key.
func bare(key string) *item {
	v, err := newVersion(Revision{Main: 1}, kindTombstone, (&KeyValue{Key: []byte(key)}).Encode())
	if err != nil {
		panic(err)
	}
	return newItem(v)
}

// treeModel is a tree beside a sorted slice of its keys.
type treeModel struct {
	*tree
	keys   []string
	exists map[string]bool
}

func (m *treeModel) toggle(key string) {
	i, found := slices.BinarySearch(m.keys, key)
	if !found {
		m.insert(bare(key), true)
		m.keys = slices.Insert(m.keys, i, key)
		m.exists[key] = true
		return
	}
	m.exists[key] = !m.exists[key]
	m.setExists([]byte(key), m.exists[key])
}

func (m *treeModel) drop(key string) {
	i, found := slices.BinarySearch(m.keys, key)
	if !found || m.exists[key] {
		return
	}
	m.remove([]byte(key))
	m.keys = slices.Delete(m.keys, i, i+1)
	delete(m.exists, key)
}

func (m *treeModel) live() (keys []string) {
	for _, k := range m.keys {
		if m.exists[k] {
			keys = append(keys, k)
		}
	}
	return keys
}

// image is what a published root must look like for ever.
type image struct {
	root      *node
	all, live []string
}

func collect(n *node, sp span, existing bool, most int) (keys []string) {
	n.ascend(sp, existing, func(it *item) bool {
		keys = append(keys, string(it.key()))
		return len(keys) < most
	})
	return keys
}

func (im image) check(t *testing.T, rng *rand.Rand) {
	t.Helper()
	everything := span{open: true}
	require.Equal(t, im.all, collect(im.root, everything, false, 1<<30))
	require.Equal(t, im.live, collect(im.root, everything, true, 1<<30))
	require.Equal(t, len(im.live), im.root.count(everything))
	for range 10 {
		lo, hi := treeKey(rng.IntN(7000)), treeKey(rng.IntN(7000))
		from, to := sort.SearchStrings(im.live, lo), sort.SearchStrings(im.live, hi)
		require.Equal(t, from, im.root.rank([]byte(lo)))
		sp := newSpan([]byte(lo), []byte(hi))
		require.Equal(t, max(to-from, 0), im.root.count(sp))
		want := im.live[from:max(from, to)]
		want = want[:min(len(want), 7)]
		require.Equal(t, slices.Clone(want), append([]string{}, collect(im.root, sp, true, 7)...)[:len(want)])
		it := im.root.get([]byte(lo))
		_, found := slices.BinarySearch(im.all, lo)
		require.Equal(t, found, it != nil)
		if first := im.root.first([]byte(lo)); first != nil {
			require.Equal(t, im.all[sort.SearchStrings(im.all, lo)], string(first.key()))
		} else {
			require.Equal(t, len(im.all), sort.SearchStrings(im.all, lo))
		}
	}
}

// Keys come in order, at random and from the end; they vanish and come back, and are dropped again in
// runs, so that nodes split, empty and merge. Roots that were published stay as they were.
func TestTreeAgainstSlice(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 4))
			m := &treeModel{tree: newTree(), exists: map[string]bool{}}
			var old []image
			deepest := 0
			for step := range 60 {
				m.run(rng, step)
				require.Equal(t, len(m.keys), m.size)
				deepest = max(deepest, invariants(t, m.root, nil, nil, m.gen))
				now := image{m.publish(), slices.Clone(m.keys), m.live()}
				now.check(t, rng)
				if old = append(old, now); len(old) > 6 {
					old = slices.Delete(old, rng.IntN(3), 4)
				}
				old[rng.IntN(len(old))].check(t, rng)
			}
			require.GreaterOrEqual(t, deepest, 3, "the tree never grew")
			for _, k := range slices.Clone(m.keys) {
				if m.exists[k] {
					m.toggle(k)
				}
				m.drop(k)
			}
			require.Equal(t, 1, invariants(t, m.root, nil, nil, m.gen), "an empty tree is one leaf")
			for _, im := range old {
				im.check(t, rng)
			}
		})
	}
}

// treeKey names keys so that some share much, some nothing, and some are where another ends.
func treeKey(k int) string {
	switch {
	case k < 3500:
		return fmt.Sprintf("%05d", k)
	case k%3 == 0:
		return strings.Repeat("q", k%50) + fmt.Sprintf("%05d", k)
	case k%3 == 1:
		return fmt.Sprintf("p/shared-by-all-of-these/%05d", k)
	}
	return fmt.Sprintf("p/shared-by-all-of-these/%05d\x00", k-1)
}

// run makes one run of changes: the more steps have passed, the more are removals.
func (m *treeModel) run(rng *rand.Rand, step int) {
	start, n := rng.IntN(7000), 50+rng.IntN(400)
	shrink := rng.IntN(60) < step
	order := rng.IntN(3)
	for i := range n {
		k := start + i
		switch order {
		case 1:
			k = start - i
		case 2:
			k = rng.IntN(7000)
		}
		key := treeKey(max(k, 0))
		if !shrink {
			m.toggle(key)
			continue
		}
		if m.exists[key] {
			m.toggle(key)
		}
		m.drop(key)
	}
}

// Keys that come in ascending order leave full leaves behind.
func TestTreeFillsInOrder(t *testing.T) {
	tr := newTree()
	const n = 10_000
	for i := range n {
		tr.insert(bare(fmt.Sprintf("%08d", i)), true)
	}
	invariants(t, tr.root, nil, nil, tr.gen)
	leaves := 0
	var walk func(n *node)
	walk = func(n *node) {
		if n.leaf() {
			leaves++
		}
		for _, c := range n.children {
			walk(c)
		}
	}
	walk(tr.root)
	require.LessOrEqual(t, leaves, n/(maxItems-1)+1)
}

func TestSpan(t *testing.T) {
	for _, tc := range []struct {
		key, end string
		in, out  []string
		empty    bool
	}{
		{"b", "", []string{"b"}, []string{"a", "b\x00", "c"}, false},
		{"b", "\x00", []string{"b", "z", "\xff\xff"}, []string{"a"}, false},
		{"b", "d", []string{"b", "c", "c\xff"}, []string{"a", "d"}, false},
		{"d", "b", nil, []string{"a", "b", "c", "d", "e"}, true},
		{"b", "b", nil, []string{"b"}, true},
		{"\x00", "\x00", []string{"\x00", "z"}, nil, false},
	} {
		sp := newSpan([]byte(tc.key), []byte(tc.end))
		require.Equal(t, tc.empty, sp.empty())
		for _, k := range tc.in {
			require.True(t, sp.contains([]byte(k)), "%q in %+v", k, tc)
		}
		for _, k := range tc.out {
			require.False(t, sp.contains([]byte(k)), "%q in %+v", k, tc)
		}
	}
}
