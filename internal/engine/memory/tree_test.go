package memory

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func emptyVersion() *version { return &version{root: &node{}} }

// checkTree holds a tree to its invariants and returns its depth.
func checkTree(t *testing.T, n *node, lo, hi []byte, root bool) int {
	t.Helper()
	require.LessOrEqual(t, n.len(), maxEntries)
	if n.leaf() {
		for i, e := range n.entries {
			require.True(t, i == 0 || bytes.Compare(n.entries[i-1].key, e.key) < 0, "leaf in order")
			require.True(t, bytes.Compare(lo, e.key) <= 0 && (hi == nil || bytes.Compare(e.key, hi) < 0), "key within the bounds above")
		}
		return 1
	}
	require.Len(t, n.bounds, len(n.children))
	require.True(t, !root || len(n.children) > 1, "the root branches")
	depth := 0
	for i, c := range n.children {
		require.NotZero(t, c.len(), "no child is empty")
		from, to := lo, hi
		if i > 0 {
			from = n.bounds[i]
		}
		if i+1 < len(n.children) {
			to = n.bounds[i+1]
		}
		d := checkTree(t, c, from, to, false)
		require.True(t, i == 0 || d == depth, "all leaves at one depth")
		depth = d
	}
	return depth + 1
}

func checkVersion(t *testing.T, v *version, model map[string]string) {
	t.Helper()
	checkTree(t, v.root, nil, nil, true)
	count, size := v.root.weigh()
	require.Equal(t, count, v.count)
	require.Equal(t, size, v.size)
	keys := slices.Sorted(maps.Keys(model))
	var got []string
	v.root.ascend(nil, nil, func(k, val []byte) bool {
		require.Equal(t, model[string(k)], string(val))
		got = append(got, string(k))
		return true
	})
	require.Equal(t, keys, got)
	slices.Reverse(keys)
	got = nil
	v.root.descend(nil, nil, func(k, _ []byte) bool { got = append(got, string(k)); return true })
	require.Equal(t, keys, got)
}

func TestTreeAgainstModel(t *testing.T) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 1))
		v, model := emptyVersion(), map[string]string{}
		old, oldModel := v, map[string]string{}
		key := func() string { return fmt.Sprintf("%05d", rng.IntN(5000)) }
		for step := range 400 {
			e := v.edit()
			// The share of deletions swings, so that the tree grows large and shrinks to nothing.
			deletions := 20 + 70*((step/80)%2)
			for range rng.IntN(80) {
				k := key()
				switch {
				case rng.IntN(100) >= deletions:
					model[k] = fmt.Sprint(step)
					e.put([]byte(k), []byte(model[k]))
				case rng.IntN(20) > 0:
					delete(model, k)
					e.delete([]byte(k))
				default:
					hi := fmt.Sprintf("%05d", rng.IntN(5000))
					maps.DeleteFunc(model, func(x, _ string) bool { return k <= x && x < hi })
					e.deleteRange([]byte(k), []byte(hi))
				}
			}
			v = e.publish()
			if step%20 == 0 {
				checkVersion(t, v, model)
				checkVersion(t, old, oldModel)
				old, oldModel = v, maps.Clone(model)
			}
			lo, hi := key(), key()
			want := slices.Sorted(maps.Keys(model))
			want = slices.DeleteFunc(want, func(x string) bool { return x < lo || x >= hi })
			var up, down []string
			v.root.ascend([]byte(lo), []byte(hi), func(k, _ []byte) bool { up = append(up, string(k)); return true })
			v.root.descend([]byte(lo), []byte(hi), func(k, _ []byte) bool { down = append(down, string(k)); return true })
			slices.Reverse(down)
			require.True(t, slices.Equal(want, up), "seed %d step %d: %v %v", seed, step, want, up)
			require.True(t, slices.Equal(want, down), "seed %d step %d: %v %v", seed, step, want, down)
		}
	}
}

// Revisions are appended right below the tables. The leaves they leave behind must be full.
func TestTreeAppendBeforeTables(t *testing.T) {
	e := emptyVersion().edit()
	for i := range 16 {
		e.put([]byte{0x80, byte(i)}, nil)
	}
	v := e.publish()
	const n = 20_000
	for i := range n {
		e := v.edit()
		e.put(fmt.Appendf(nil, "%08d", i), []byte("v"))
		v = e.publish()
	}
	leaves := 0
	var walk func(*node)
	walk = func(n *node) {
		if n.leaf() {
			leaves++
		}
		for _, c := range n.children {
			walk(c)
		}
	}
	walk(v.root)
	require.LessOrEqual(t, leaves, n/maxEntries+5)
	require.Equal(t, n+16, v.count)
}
