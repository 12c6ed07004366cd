package watch

import (
	"sort"
	"sync"
)

// eventOverhead is what an event costs in memory besides its bytes: the struct and its share of a group.
const eventOverhead = 128

// cost is the memory that events hold on to, in bytes.
func cost(events []Event) int {
	n := 0
	for i := range events {
		e := &events[i]
		n += len(e.Key) + len(e.KV) + len(e.Prev) + eventOverhead
	}
	return n
}

// group is all events of one revision. It is immutable and shared.
type group struct {
	rev    int64
	bytes  int
	events []Event
}

// ring holds the newest revisions, bounded in bytes: every revision in [low, high], complete. The
// applier appends, the hub and readers that fell behind a little copy groups out.
type ring struct {
	limit int

	mu struct {
		sync.Mutex
		groups []group // groups[head:] are in the ring, ascending
		head   int
		bytes  int
		low    int64
		high   int64
	}
}

func newRing(limit int, high int64) *ring {
	r := &ring{limit: limit}
	r.mu.low, r.mu.high = high+1, high
	return r
}

// append adds events, whose revisions are above all earlier ones, and moves the upper end to high. A
// revision that is skipped was made elsewhere, in a snapshot that this member received: what is
// continuous then begins anew, and watchers find the rest in the history.
func (r *ring) append(events []Event, high int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(events) > 0 {
		n := 1
		for n < len(events) && events[n].Main == events[0].Main {
			n++
		}
		g := group{rev: events[0].Main, bytes: cost(events[:n]), events: events[:n:n]}
		events = events[n:]
		if g.rev <= r.mu.high {
			continue // published before
		}
		if g.rev != r.mu.high+1 {
			r.drop(len(r.mu.groups) - r.mu.head)
			r.mu.low = g.rev
		}
		r.mu.groups = append(r.mu.groups, g)
		r.mu.bytes += g.bytes
		r.mu.high = g.rev
	}
	if high > r.mu.high {
		r.drop(len(r.mu.groups) - r.mu.head)
		r.mu.low, r.mu.high = high+1, high
	}
	for r.mu.bytes > r.limit {
		r.drop(1)
	}
}

// drop removes the oldest n groups.
func (r *ring) drop(n int) {
	for i := r.mu.head; i < r.mu.head+n; i++ {
		g := &r.mu.groups[i]
		r.mu.bytes -= g.bytes
		r.mu.low = g.rev + 1
		*g = group{}
	}
	r.mu.head += n
	// Moving what is left once half of the slice is free costs each group one move on average.
	if 2*r.mu.head > len(r.mu.groups) {
		kept := copy(r.mu.groups, r.mu.groups[r.mu.head:])
		clear(r.mu.groups[kept:])
		r.mu.groups, r.mu.head = r.mu.groups[:kept], 0
	}
}

// read appends up to limit groups from revision from on to buf. low and high are the revisions that the
// ring holds; if from < low, nothing is read.
func (r *ring) read(from int64, limit int, buf []group) (groups []group, low, high int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	low, high = r.mu.low, r.mu.high
	if from < low || from > high {
		return buf, low, high
	}
	live := r.mu.groups[r.mu.head:]
	i := sort.Search(len(live), func(i int) bool { return live[i].rev >= from })
	return append(buf, live[i:min(i+limit, len(live))]...), low, high
}
