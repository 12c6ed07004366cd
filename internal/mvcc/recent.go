package mvcc

import (
	"bytes"
	"slices"
	"sort"
	"time"
)

// Pages after the first read at the revision of the first one, so the roots of about the last minute are
// kept. Not one for each revision: most transactions only overwrite, which changes no count, and where keys
// appear and disappear a root is kept every so many of these changes. The changes between two roots are
// listed, and a revision between them is answered from the nearer root and the few changes that lead from
// it to the revision.
//
//	past  [ moment 4 ][ moment 90 ][ moment 230 ]           View
//	         root        root         root                  root
//	           changes ->   changes ->    open changes  ->
//
// What the kept roots hold on to besides the newest tree is counted, see bounds. Over a bound, moments are
// joined where the fewest changes lie between them: reading there costs more, but nothing is forgotten. Only
// when that does not help the oldest is dropped. A revision before the oldest moment is answered by a walk
// over its range.
//
// keepFor is the age of revisions that reads must still be cheap at.
const keepFor = time.Minute

// bounds of what is kept for reading at recent revisions.
type bounds struct {
	// every is how many changes lie between two moments as long as no other bound is reached.
	every int
	// moments limits their number: the list of them is copied when one is added.
	moments int
	// between limits the changes between two, and so the cost of a read.
	between int
	// bytes limits the memory that only kept roots and changes hold on to.
	bytes int64
}

// defaultBounds are for a read to take in at most 64 changes, in a few microseconds, where up to 500 keys a
// second appear or disappear, and 1,200 at 10,000 a second; the copies of tree nodes are shared by as many.
func defaultBounds() bounds { return bounds{every: 128, moments: 256, between: 8192, bytes: 32 << 20} }

// change says that a key appeared or disappeared.
type change struct {
	it *item
	// code is twice the main revision, plus one if the key appeared.
	code int64
}

func (c change) main() int64    { return c.code >> 1 }
func (c change) appeared() bool { return c.code&1 != 0 }

// changeSize is the size of a change in bytes.
const changeSize = 16

// moment is the key space at the end of a transaction: the root then, and what changed from there to the
// next moment, in order. Moments are read by all and never changed; a list with a new one is a new list.
type moment struct {
	main    int64
	root    *node
	changes []change
}

// replaced is memory that left the tree: bytes of a node that was made in generation born. For the item of a
// key that compaction removed born is 0: it may have been in any of the moments before.
type replaced struct {
	born  uint64
	bytes int64
}

// keeping is what the owner knows of a moment besides.
type keeping struct {
	gen  uint64
	at   time.Time // zero until Expire has seen it
	left []replaced
}

// recent are the moments that are kept. Readers see past and open as a view took them over.
type recent struct {
	bounds bounds
	past   []moment
	open   []change // behind the last moment
	kept   []keeping
	bytes  int64
}

// note takes in that a key appeared or disappeared at main.
func (r *recent) note(it *item, main int64, appeared bool) {
	c := change{it: it, code: main << 1}
	if appeared {
		c.code++
	}
	if r.open == nil {
		r.open = make([]change, 0, r.bounds.every)
	}
	r.open = append(r.open, c)
	r.bytes += changeSize
}

// leave takes in what left the tree since the last moment.
func (r *recent) leave(left []replaced) {
	last := &r.kept[len(r.kept)-1]
	for _, l := range left {
		r.bytes += l.bytes
	}
	last.left = append(last.left, left...)
}

// keep adds a moment: the root of generation gen, which is that at main. If no key has appeared or
// disappeared since the last moment, the root takes the place of that one's.
func (r *recent) keep(main int64, root *node, gen uint64) {
	last := len(r.past) - 1
	same := last >= 0 && len(r.open) == 0
	if same {
		main = r.past[last].main
	}
	past := append(make([]moment, 0, len(r.past)+1), r.past...)
	if last >= 0 {
		past[last].changes = r.open
	}
	r.past = append(past, moment{main: main, root: root})
	r.open = nil
	r.kept = append(r.kept, keeping{gen: gen})
	switch {
	case same && last == 0:
		r.drop(1)
	case same:
		r.join(last)
	}
	for len(r.past) > 1 && (len(r.past) > r.bounds.moments || r.bytes > r.bounds.bytes) {
		r.shrink()
	}
}

// shrink joins two moments, or drops the oldest.
func (r *recent) shrink() {
	best, least := 0, r.bounds.between+1
	for i := 1; i < len(r.past)-1; i++ {
		if n := len(r.past[i-1].changes) + len(r.past[i].changes); n < least {
			best, least = i, n
		}
	}
	if best == 0 {
		r.drop(1)
		return
	}
	r.join(best)
}

// join removes moment i, which is neither the first nor the last. Its changes go to the one before it, and
// so does what that one reaches of what this one held on to. No reader may have the list of moments yet.
func (r *recent) join(i int) {
	r.past[i-1].changes = slices.Concat(r.past[i-1].changes, r.past[i].changes)
	r.past = slices.Delete(r.past, i, i+1)
	before := &r.kept[i-1]
	for _, l := range r.kept[i].left {
		if l.born <= before.gen {
			before.left = append(before.left, l)
		} else {
			r.bytes -= l.bytes
		}
	}
	r.kept = slices.Delete(r.kept, i, i+1)
}

// drop removes the n oldest moments, of which one must remain. No reader may have the list of moments yet.
func (r *recent) drop(n int) {
	for i := range n {
		r.bytes -= changeSize * int64(len(r.past[i].changes))
		for _, l := range r.kept[i].left {
			r.bytes -= l.bytes
		}
	}
	r.past = slices.Delete(r.past, 0, n)
	r.kept = slices.Delete(r.kept, 0, n)
}

// expire drops the moments that no revision of the last minute needs, and says whether there were some.
func (r *recent) expire(now time.Time) bool {
	for i := len(r.kept) - 1; i >= 0 && r.kept[i].at.IsZero(); i-- {
		r.kept[i].at = now
	}
	old := 0 // the oldest one answers for revisions up to the next
	for old+1 < len(r.kept) && now.Sub(r.kept[old+1].at) > keepFor {
		old++
	}
	if old == 0 {
		return false
	}
	r.past = slices.Clone(r.past)
	r.drop(old)
	return true
}

// Expire forgets what only reads at revisions of more than a minute ago need: those cost more from then on.
// It says whether it forgot something, which the next Publish lets go of. It is to be called every few
// seconds, between turns; without it, the bounds of number and memory remain. View.Recent says how much there is.
func (s *Store) Expire(now time.Time) bool {
	s.keepIfDue()
	if len(s.recent.open) > 0 || len(s.recent.kept[len(s.recent.kept)-1].left) > 0 {
		s.keep() // or the root before these changes would be kept for as long as no others follow
	}
	return s.recent.expire(now)
}

// Recent returns how many roots are kept for reads at recent revisions, and the bytes of memory that only
// they and the changes between them hold on to.
func (v *View) Recent() (roots int, bytes int64) { return len(v.past), v.recentBytes }

// keep adds the tree as it is now to the moments.
func (s *Store) keep() {
	gen := s.tree.gen
	s.recent.keep(s.current, s.tree.publish(), gen)
	s.tree.kept = gen
}

// keepIfDue adds the tree as it is now to the moments if many keys have changed since the last one, or if a
// compaction has removed so many that the last one holds on to too much.
func (s *Store) keepIfDue() {
	s.recent.leave(s.tree.takeReplaced())
	if len(s.recent.open) >= s.recent.bounds.every || s.recent.bytes > s.recent.bounds.bytes {
		s.keep()
	}
}

// exactly is how the key space at a revision follows from a root: the changes lead from the root's
// revision forward to it, or undone from it back.
type exactly struct {
	root    *node
	changes []change
	undo    bool
}

// exactlyAt returns the nearest root to a revision; ok is false for revisions before all that is kept.
func (v *View) exactlyAt(main int64) (e exactly, ok bool) {
	i := sort.Search(len(v.past), func(i int) bool { return v.past[i].main > main }) - 1
	if i < 0 {
		return e, false
	}
	between, next := v.open, v.root
	if i+1 < len(v.past) {
		between, next = v.past[i].changes, v.past[i+1].root
	}
	n := sort.Search(len(between), func(i int) bool { return between[i].main() > main })
	if n <= len(between)-n {
		return exactly{root: v.past[i].root, changes: between[:n]}, true
	}
	return exactly{root: next, changes: between[n:], undo: true}, true
}

// count returns how many keys of the span exist.
func (e *exactly) count(sp span) int {
	n := e.root.count(sp)
	for _, c := range e.changes {
		if !sp.contains(c.it.key()) {
			continue
		}
		if c.appeared() != e.undo {
			n++
		} else {
			n--
		}
	}
	return n
}

// ascend calls fn for the keys of the span that exist at main, in order, until it returns false.
func (e *exactly) ascend(sp span, main int64, fn func(*item, *version) bool) {
	missing := e.missing(sp, main)
	more := true
	e.root.ascend(sp, true, func(it *item) bool {
		for len(missing) > 0 && bytes.Compare(missing[0].key(), it.key()) < 0 {
			if more = fn(missing[0], missing[0].liveAt(main)); !more {
				return false
			}
			missing = missing[1:]
		}
		if len(missing) > 0 && missing[0] == it {
			missing = missing[1:]
		}
		if v := it.liveAt(main); v != nil {
			more = fn(it, v)
		}
		return more
	})
	for ; more && len(missing) > 0; missing = missing[1:] {
		more = fn(missing[0], missing[0].liveAt(main))
	}
}

// missing returns the keys of the span that exist at main and perhaps not at the root, in order.
func (e *exactly) missing(sp span, main int64) (items []*item) {
	for _, c := range e.changes {
		if c.appeared() != e.undo && sp.contains(c.it.key()) && c.it.liveAt(main) != nil {
			items = append(items, c.it)
		}
	}
	slices.SortFunc(items, func(a, b *item) int { return bytes.Compare(a.key(), b.key()) })
	return slices.Compact(items)
}
