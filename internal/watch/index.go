package watch

// index finds the live watchers of a key. Watchers of equal spans share a set, so that a thousand
// watchers of one prefix are one place to look. It is guarded by the hub's lock.
type index struct {
	keys   map[string]*set
	ranges map[span]*set
	tree   tree
}

func newIndex() index {
	return index{keys: make(map[string]*set), ranges: make(map[span]*set)}
}

// set is the live watchers of one span.
type set struct {
	span     span
	watchers []*watcher

	// What the revision in hand means to the set; valid while rev is that revision.
	rev     int64
	matched []int32 // indexes into the revision's events
}

func (x *index) add(w *watcher) {
	s := x.find(w.span)
	if s == nil {
		s = &set{span: w.span}
		if w.span.single {
			x.keys[w.span.lo] = s
		} else {
			x.ranges[w.span] = s
			x.tree.insert(s)
		}
	}
	w.place = len(s.watchers)
	w.set = s
	s.watchers = append(s.watchers, w)
}

func (x *index) find(s span) *set {
	if s.single {
		return x.keys[s.lo]
	}
	return x.ranges[s]
}

func (x *index) remove(w *watcher) {
	s, last := w.set, len(w.set.watchers)-1
	s.watchers[w.place] = s.watchers[last]
	s.watchers[w.place].place = w.place
	s.watchers[last] = nil
	s.watchers = s.watchers[:last]
	w.set = nil
	if last > 0 {
		return
	}
	if s.span.single {
		delete(x.keys, s.span.lo)
	} else {
		delete(x.ranges, s.span)
		x.tree.remove(s)
	}
}

// visit calls fn for every set that covers the key.
func (x *index) visit(key []byte, fn func(*set)) {
	if s := x.keys[string(key)]; s != nil {
		fn(s)
	}
	x.tree.stab(x.tree.root, key, fn)
}

// tree is a treap of spans ordered by their lower end; each node knows the highest upper end below it,
// so that all spans around a key are found in O(log n + found). Ties are broken by upper end.
type tree struct {
	root *node
	seed uint64
}

type node struct {
	set         *set
	left, right *node
	priority    uint64
	maxHi       string
	maxOpen     bool
}

func spanLess(a, b *span) bool {
	switch {
	case a.lo != b.lo:
		return a.lo < b.lo
	case a.open != b.open:
		return b.open
	}
	return a.hi < b.hi
}

func (n *node) update() {
	n.maxHi, n.maxOpen = n.set.span.hi, n.set.span.open
	for _, c := range [...]*node{n.left, n.right} {
		if c != nil {
			n.maxHi = max(n.maxHi, c.maxHi)
			n.maxOpen = n.maxOpen || c.maxOpen
		}
	}
}

// next is Marsaglia's xorshift64: priorities need to look random, not to be secret.
func (t *tree) next() uint64 {
	if t.seed == 0 {
		t.seed = 0x9e3779b97f4a7c15
	}
	t.seed ^= t.seed << 13
	t.seed ^= t.seed >> 7
	t.seed ^= t.seed << 17
	return t.seed
}

func (t *tree) insert(s *set) {
	n := &node{set: s, priority: t.next()}
	left, right := split(t.root, &s.span)
	n.update()
	t.root = merge(merge(left, n), right)
}

func (t *tree) remove(s *set) { t.root = without(t.root, s) }

func without(n *node, s *set) *node {
	if n == nil {
		return nil
	}
	if n.set == s {
		return merge(n.left, n.right)
	}
	if spanLess(&s.span, &n.set.span) {
		n.left = without(n.left, s)
	} else {
		n.right = without(n.right, s)
	}
	n.update()
	return n
}

// split cuts a tree into the spans below s and the others.
func split(n *node, s *span) (below, rest *node) {
	if n == nil {
		return nil, nil
	}
	if spanLess(&n.set.span, s) {
		n.right, rest = split(n.right, s)
		n.update()
		return n, rest
	}
	below, n.left = split(n.left, s)
	n.update()
	return below, n
}

// merge joins two trees, all of a below all of b.
func merge(a, b *node) *node {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.priority > b.priority:
		a.right = merge(a.right, b)
		a.update()
		return a
	}
	b.left = merge(a, b.left)
	b.update()
	return b
}

func (t *tree) stab(n *node, key []byte, fn func(*set)) {
	for n != nil {
		if !n.maxOpen && n.maxHi <= string(key) {
			return
		}
		t.stab(n.left, key, fn)
		if n.set.span.lo > string(key) {
			return
		}
		if n.set.span.contains(key) {
			fn(n.set)
		}
		n = n.right
	}
}
