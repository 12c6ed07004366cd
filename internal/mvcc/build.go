package mvcc

import (
	"bytes"
	"iter"
	"slices"
	"sort"
)

// fillItems is how full the nodes of a tree are that is built as a whole: as full as nodes are that grew by
// keys in random order, so that the keys which come next do not split each of them.
const fillItems = 48

// joinParts makes the tree of parts of the history, oldest first, and returns the keys that exist and have a
// lease, in order. Stretches of the key space are joined beside each other.
func joinParts(parts []*part, p Parallel) (*tree, []*item) {
	leases := slices.ContainsFunc(parts, func(p *part) bool { return p.leases })
	if len(parts) == 1 {
		t := parts[0].tree
		return t, leasedOf(leases, func(yield func(*item) bool) { t.root.ascend(span{open: true}, true, yield) })
	}
	bounds := keyBounds(parts)
	type stretch struct {
		leaves []*node
		leased []*item
	}
	done := make([]stretch, len(bounds)+1)
	tasks := make([]func(), len(done))
	for i := range done {
		tasks[i] = func() {
			sources := make([][]*item, len(parts))
			for j, part := range parts {
				from, to := 0, len(part.items)
				if i > 0 {
					from = part.position(bounds[i-1])
				}
				if i < len(bounds) {
					to = part.position(bounds[i])
				}
				sources[j] = part.items[from:max(from, to)]
			}
			items := joinItems(sources)
			done[i].leaves = buildLeaves(items)
			done[i].leased = leasedOf(leases, slices.Values(items))
		}
	}
	p.run(tasks)
	var leaves []*node
	var leased []*item
	for _, s := range done {
		leaves = append(leaves, s.leaves...)
		leased = append(leased, s.leased...)
	}
	return buildTree(leaves), leased
}

// leasedOf returns the items that exist and have a lease, if there may be some.
func leasedOf(some bool, items iter.Seq[*item]) (leased []*item) {
	if !some {
		return nil
	}
	for it := range items {
		if it.exists() && it.head.Load().summary().lease != 0 {
			leased = append(leased, it)
		}
	}
	return leased
}

// keyBounds divides the key space into as many stretches as there are parts, by the largest of them.
func keyBounds(parts []*part) (bounds [][]byte) {
	largest := slices.MaxFunc(parts, func(a, b *part) int { return len(a.items) - len(b.items) }).items
	for i := 1; i < len(parts) && len(largest) >= len(parts); i++ {
		bounds = append(bounds, largest[len(largest)*i/len(parts)].key())
	}
	return bounds
}

// position returns how many of the part's keys are below key.
func (p *part) position(key []byte) int {
	return sort.Search(len(p.items), func(i int) bool { return bytes.Compare(p.items[i].key(), key) >= 0 })
}

// joinItems merges keys of several parts, oldest part first, in order. Of a key that is in several, the chains
// are joined, and what another part has overwritten loses its bytes.
func joinItems(sources [][]*item) []*item {
	total := 0
	keys := make([][]byte, len(sources)) // the next key of each
	for i, items := range sources {
		if total += len(items); len(items) > 0 {
			keys[i] = items[0].key()
		}
	}
	joined := make([]*item, 0, total)
	for {
		var it *item
		var key []byte
		for i := len(sources) - 1; i >= 0; i-- { // newest first
			if len(sources[i]) > 0 && (it == nil || bytes.Compare(keys[i], key) < 0) {
				it, key = sources[i][0], keys[i]
			}
		}
		if it == nil {
			return joined
		}
		for i := len(sources) - 1; i >= 0; i-- {
			if len(sources[i]) == 0 || !bytes.Equal(keys[i], key) {
				continue
			}
			if older := sources[i][0]; older != it {
				last := it.oldest()
				last.prev.Store(older.head.Load())
				last.stripBelow()
			}
			if sources[i] = sources[i][1:]; len(sources[i]) > 0 {
				keys[i] = sources[i][0].key()
			}
		}
		joined = append(joined, it)
	}
}

// evenly calls fn for the parts of 0..n that are as long as each other and no longer than fillItems.
func evenly(n int, fn func(from, to int)) {
	groups := (n + fillItems - 1) / fillItems
	for i := range groups {
		fn(n*i/groups, n*(i+1)/groups)
	}
}

// buildLeaves makes leaves of items in order.
func buildLeaves(items []*item) (leaves []*node) {
	evenly(len(items), func(from, to int) {
		n := &node{gen: 1, items: slices.Clone(items[from:to]), hints: make([]uint32, to-from)}
		for i, it := range n.items {
			if it.exists() {
				n.live++
				n.bits |= 1 << i
			}
		}
		low, high := n.items[0].key(), n.items[len(n.items)-1].key()
		n.setPrefix(string(low[:common(low, high)]))
		leaves = append(leaves, n)
	})
	return leaves
}

// buildTree makes a tree of leaves in order.
func buildTree(leaves []*node) *tree {
	t := newTree()
	if len(leaves) == 0 {
		return t
	}
	seps := make([]string, len(leaves)-1)
	for i, n := range leaves {
		t.size += len(n.items)
		if i > 0 {
			seps[i-1] = separator(leaves[i-1].items[len(leaves[i-1].items)-1].key(), n.items[0].key())
		}
	}
	level := leaves
	for len(level) > 1 {
		var up []*node
		var between []string
		evenly(len(level), func(from, to int) {
			n := &node{gen: 1, children: slices.Clone(level[from:to]), seps: slices.Clone(seps[from : to-1])}
			n.live = n.sumLive()
			up = append(up, n)
			if to < len(level) {
				between = append(between, seps[to-1])
			}
		})
		level, seps = up, between
	}
	t.root = level[0]
	return t
}
