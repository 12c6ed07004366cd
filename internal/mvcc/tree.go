package mvcc

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"
	"sort"
	"strings"
	"unsafe"
)

// Node sizes. A leaf has at most 64 items so that one word says which of them exist; inner nodes are
// wide because they are copied only when keys appear or disappear. A node is merged with a neighbour
// when both together fill no more than mergeItems, well below the maximum so that a split does not
// follow at once.
const (
	maxItems   = 64
	mergeItems = 40
)

// node is a leaf (items) or an inner node (children and separators). A node belongs to the generation
// it was made in; a younger tree copies it before a change. Everything reachable from a published root
// is thus immutable.
//
// A key is three steps away from its leaf: item, version, bytes. So a leaf has, of each key, the four bytes
// behind what all of its keys begin with: they almost always decide a search.
type node struct {
	gen uint64
	// live counts the items below that exist at this root's revision.
	live int
	// bits says for each item of a leaf whether it exists.
	bits  uint64
	items []*item
	// prefix is what the keys of a leaf all begin with, or a part of it; hints are the four bytes behind it,
	// big-endian, with zeros behind the end of a key.
	prefix string
	hints  []uint32
	// children[i] holds the keys in [seps[i-1], seps[i]). Separators are no longer than it takes.
	children []*node
	seps     []string
}

func (n *node) leaf() bool { return n.children == nil }

// hintOf returns the hint of a key without its prefix.
func hintOf(rest []byte) uint32 {
	if len(rest) >= 4 {
		return binary.BigEndian.Uint32(rest)
	}
	var b [4]byte
	copy(b[:], rest)
	return binary.BigEndian.Uint32(b[:])
}

// find returns the position of the first item of a leaf with a key >= key, and whether it is equal.
func (n *node) find(key []byte) (int, bool) {
	head := key[:min(len(key), len(n.prefix))]
	if c := strings.Compare(unsafe.String(unsafe.SliceData(head), len(head)), n.prefix); c != 0 {
		if c < 0 {
			return 0, false
		}
		return len(n.items), false
	}
	hint := hintOf(key[len(n.prefix):])
	lo, _ := slices.BinarySearch(n.hints, hint)
	hi := lo
	for hi < len(n.hints) && n.hints[hi] == hint {
		hi++
	}
	i, found := sort.Find(hi-lo, func(i int) int { return bytes.Compare(key, n.items[lo+i].key()) })
	return lo + i, found
}

// setPrefix makes what the leaf's keys begin with its prefix, as far as known says they begin alike, and
// renews the hints.
func (n *node) setPrefix(prefix string) {
	n.prefix = prefix
	for i, it := range n.items {
		n.hints[i] = hintOf(it.key()[len(prefix):])
	}
}

// common returns how many bytes a and b begin with alike.
func common(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// separator returns a copy of the shortest beginning of next that is above last, the key before it.
func separator(last, next []byte) string { return string(next[:common(last, next)+1]) }

// child returns the position of the child whose range holds key.
func (n *node) child(key []byte) int {
	return sort.Search(len(n.seps), func(i int) bool { return string(key) < n.seps[i] })
}

// tree is the working copy of the index. Only its owner may use it; roots from publish are for all.
type tree struct {
	root *node
	gen  uint64
	size int

	// kept is the generation of the last root that is kept, 0 for none; replaced is what left the tree since
	// and is held on to by it.
	kept     uint64
	replaced []replaced
}

func newTree() *tree { return &tree{root: &node{gen: 1}, gen: 1} }

// leaves notes that n is no longer part of the tree.
func (t *tree) leaves(n *node) {
	if n.gen <= t.kept {
		t.replaced = append(t.replaced, replaced{n.gen, n.size()})
	}
}

// takeReplaced returns what has left the tree, and forgets it; the result is valid until the next change.
func (t *tree) takeReplaced() []replaced {
	r := t.replaced
	t.replaced = t.replaced[:0]
	return r
}

// size is the node's own memory in bytes.
func (n *node) size() int64 {
	return int64(unsafe.Sizeof(*n)) + 8*int64(cap(n.items)+cap(n.children)) +
		4*int64(cap(n.hints)) + 16*int64(cap(n.seps))
}

// publish returns the current root and makes everything below it immutable.
func (t *tree) publish() *node {
	t.gen++
	return t.root
}

// own returns n, or a copy of it that belongs to the current generation.
func (t *tree) own(n *node) *node {
	if n.gen == t.gen {
		return n
	}
	t.leaves(n)
	c := &node{gen: t.gen, live: n.live, bits: n.bits, prefix: n.prefix}
	if n.leaf() {
		c.items = append(make([]*item, 0, max(len(n.items)+1, 8)), n.items...)
		c.hints = append(make([]uint32, 0, max(len(n.items)+1, 8)), n.hints...)
	} else {
		c.children = append(make([]*node, 0, len(n.children)+1), n.children...)
		c.seps = append(make([]string, 0, len(n.seps)+1), n.seps...)
	}
	return c
}

func (t *tree) get(key []byte) *item { return t.root.get(key) }

// get returns the item under key, nil if there is none.
func (n *node) get(key []byte) *item {
	for !n.leaf() {
		n = n.children[n.child(key)]
	}
	if i, ok := n.find(key); ok {
		return n.items[i]
	}
	return nil
}

// insert adds an item whose key is not in the tree, as one that exists or not.
func (t *tree) insert(it *item, exists bool) {
	t.size++
	root, right, sep := t.insertAt(t.root, it.key(), it, exists)
	if right != nil {
		root = &node{gen: t.gen, live: root.live + right.live, children: []*node{root, right}, seps: []string{sep}}
	}
	t.root = root
}

func (t *tree) insertAt(n *node, key []byte, it *item, exists bool) (_, right *node, sep string) {
	n = t.own(n)
	if n.leaf() {
		i, _ := n.find(key)
		target := n
		if len(n.items) == maxItems {
			right, sep = t.splitLeaf(n, i)
			if string(key) >= sep {
				target, i = right, i-len(n.items)
			}
		}
		target.insertItem(i, key, it, exists)
		target.live = bits.OnesCount64(target.bits)
		return n, right, sep
	}
	c := n.child(key)
	left, r, s := t.insertAt(n.children[c], key, it, exists)
	n.children[c] = left
	if exists {
		n.live++
	}
	if r == nil {
		return n, nil, ""
	}
	n.children = slices.Insert(n.children, c+1, r)
	n.seps = slices.Insert(n.seps, c, s)
	if len(n.children) <= maxItems {
		return n, nil, ""
	}
	right, sep = t.splitInner(n)
	return n, right, sep
}

func (n *node) insertItem(i int, key []byte, it *item, exists bool) {
	if c := common(key, []byte(n.prefix)); c < len(n.prefix) {
		n.setPrefix(n.prefix[:c])
	}
	n.items = slices.Insert(n.items, i, it)
	n.hints = slices.Insert(n.hints, i, hintOf(key[len(n.prefix):]))
	low := n.bits & (1<<i - 1)
	n.bits = low | (n.bits&^(1<<i-1))<<1
	if exists {
		n.bits |= 1 << i
	}
}

// splitLeaf moves the upper part of a full leaf into a new one. Keys that arrive in ascending order,
// as most do, leave full leaves behind: then only the last item moves.
func (t *tree) splitLeaf(n *node, at int) (right *node, sep string) {
	cut := maxItems / 2
	if at == maxItems {
		cut = maxItems - 1
	}
	right = &node{
		gen: t.gen, bits: n.bits >> cut,
		items: append(make([]*item, 0, maxItems), n.items[cut:]...),
		hints: make([]uint32, maxItems-cut, maxItems),
	}
	clear(n.items[cut:])
	n.items, n.hints = n.items[:cut], n.hints[:cut]
	n.bits &= 1<<cut - 1
	n.live, right.live = bits.OnesCount64(n.bits), bits.OnesCount64(right.bits)
	first := right.items[0].key()
	sep = separator(n.items[cut-1].key(), first)
	for _, half := range []*node{n, right} {
		low, high := half.items[0].key(), half.items[len(half.items)-1].key()
		half.setPrefix(string(low[:common(low, high)]))
	}
	return right, sep
}

func (t *tree) splitInner(n *node) (right *node, sep string) {
	cut := len(n.children) / 2
	right = &node{
		gen:      t.gen,
		children: append(make([]*node, 0, maxItems+1), n.children[cut:]...),
		seps:     append(make([]string, 0, maxItems), n.seps[cut:]...),
	}
	sep = n.seps[cut-1]
	clear(n.children[cut:])
	n.children = n.children[:cut]
	n.seps = n.seps[:cut-1]
	n.live, right.live = n.sumLive(), right.sumLive()
	return right, sep
}

func (n *node) sumLive() (sum int) {
	for _, c := range n.children {
		sum += c.live
	}
	return sum
}

// setExists flips whether the item under key exists. The key must be in the tree and in the other state.
func (t *tree) setExists(key []byte, exists bool) {
	delta := 1
	if !exists {
		delta = -1
	}
	t.root = t.own(t.root)
	n := t.root
	for {
		n.live += delta
		if n.leaf() {
			i, _ := n.find(key)
			n.bits ^= 1 << i
			return
		}
		c := n.child(key)
		n.children[c] = t.own(n.children[c])
		n = n.children[c]
	}
}

// remove takes out an item that does not exist any more.
func (t *tree) remove(key []byte) {
	t.size--
	t.root = t.removeAt(t.root, key)
	for !t.root.leaf() && len(t.root.children) == 1 {
		t.root = t.root.children[0]
	}
}

func (t *tree) removeAt(n *node, key []byte) *node {
	n = t.own(n)
	if n.leaf() {
		i, _ := n.find(key)
		low := n.bits & (1<<i - 1)
		n.bits = low | (n.bits>>1)&^(1<<i-1)
		if t.kept > 0 {
			t.replaced = append(t.replaced, replaced{0, n.items[i].size()})
		}
		n.items = slices.Delete(n.items, i, i+1)
		n.hints = slices.Delete(n.hints, i, i+1)
		return n
	}
	c := n.child(key)
	n.children[c] = t.removeAt(n.children[c], key)
	switch {
	case c > 0 && t.merge(n, c-1):
	case c+1 < len(n.children):
		t.merge(n, c)
	}
	return n
}

// merge joins child i and i+1 if they are small together, and says whether it did.
func (t *tree) merge(n *node, i int) bool {
	l, r := n.children[i], n.children[i+1]
	if len(l.items)+len(r.items) > mergeItems || len(l.children)+len(r.children) > mergeItems {
		return false
	}
	l = t.own(l)
	t.leaves(r)
	if l.leaf() {
		l.bits |= r.bits << len(l.items)
		l.items = append(l.items, r.items...)
		l.hints = append(l.hints, r.hints...)
		l.setPrefix(l.prefix[:common([]byte(l.prefix), []byte(r.prefix))])
	} else {
		l.seps = append(append(l.seps, n.seps[i]), r.seps...)
		l.children = append(l.children, r.children...)
	}
	l.live += r.live
	n.children[i] = l
	n.children = slices.Delete(n.children, i+1, i+2)
	n.seps = slices.Delete(n.seps, i, i+1)
	return true
}

// rank returns how many existing keys are below key, in O(log n).
func (n *node) rank(key []byte) (below int) {
	for !n.leaf() {
		c := n.child(key)
		for _, left := range n.children[:c] {
			below += left.live
		}
		n = n.children[c]
	}
	i, _ := n.find(key)
	return below + bits.OnesCount64(n.bits&(1<<i-1))
}

// span is a range of keys as requests give it, in the form that comparisons need.
type span struct {
	lo, hi []byte // hi is not used when unbounded
	open   bool   // no upper limit
}

// newSpan reads key and end by the protocol's rules: no end means just key, an end of one zero byte
// means all keys from key on, anything else [key, end).
func newSpan(key, end []byte) span {
	switch {
	case len(end) == 0:
		return span{lo: key, hi: append(key[:len(key):len(key)], 0)}
	case len(end) == 1 && end[0] == 0:
		return span{lo: key, open: true}
	}
	return span{lo: key, hi: end}
}

func (s span) below(key []byte) bool       { return s.open || bytes.Compare(key, s.hi) < 0 }
func (s span) belowString(key string) bool { return s.open || key < string(s.hi) }
func (s span) empty() bool                 { return !s.open && bytes.Compare(s.lo, s.hi) >= 0 }

// contains says whether key lies in the span.
func (s span) contains(key []byte) bool { return bytes.Compare(key, s.lo) >= 0 && s.below(key) }

// count returns how many existing keys lie in the span, in O(log n).
func (n *node) count(s span) int {
	if s.empty() {
		return 0
	}
	if s.open {
		return n.live - n.rank(s.lo)
	}
	return n.rank(s.hi) - n.rank(s.lo)
}

// ascend calls fn for the items of the span in key order until it returns false. With existing set,
// only for those that exist at this root's revision, skipping whole subtrees that hold none.
func (n *node) ascend(s span, existing bool, fn func(*item) bool) bool {
	if existing && n.live == 0 {
		return true
	}
	if n.leaf() {
		i, _ := n.find(s.lo)
		for ; i < len(n.items); i++ {
			if !s.below(n.items[i].key()) {
				return false
			}
			if existing && n.bits&(1<<i) == 0 {
				continue
			}
			if !fn(n.items[i]) {
				return false
			}
		}
		return true
	}
	for c := n.child(s.lo); c < len(n.children); c++ {
		if c > 0 && !s.belowString(n.seps[c-1]) {
			return false
		}
		in := s
		if c < len(n.seps) && s.belowString(n.seps[c]) {
			in.open = true // all of the child is below the end, so no key of it needs to be looked at
		}
		if !n.children[c].ascend(in, existing, fn) {
			return false
		}
	}
	return true
}
