package watch

// filter says which kinds of events a watch does not want.
type filter uint8

const (
	filterPut filter = 1 << iota
	filterDelete
)

func (f filter) passes(e *Event) bool {
	if e.Delete {
		return f&filterDelete == 0
	}
	return f&filterPut == 0
}

// state is where a watcher is.
type state uint8

const (
	live      state = iota // in the index; dispatching serves it
	lagging                // in its stream's list; Next serves it
	compacted              // ended by a compaction; keeps its ID until the client cancels it, as in etcd
	gone                   // cancelled or closed
)

// watcher is one watch. What never changes needs no lock.
type watcher struct {
	stream   *Stream
	id       int64
	span     span
	start    int64
	filter   filter
	prevKV   bool
	fragment bool
	notify   bool

	// state is guarded by Stream.mu. It becomes and stops being live under Hub.mu as well.
	state state
	// next is the lowest revision not given to the watcher. While live it is guarded by Hub.mu; while
	// lagging by Stream.mu, and only Next's goroutine moves it.
	next int64

	// Under Hub.mu: where the index has it.
	set   *set
	place int

	// Under Stream.mu.
	barrier uint64 // responses that were queued when it fell behind: they go out first
	sent    bool   // an event was queued or returned since the last progress tick
}

// response returns a response of the watch with events.
func (w *watcher) response(rev int64, events []Event) Response {
	return Response{WatchID: w.id, Revision: rev, Events: events, PrevKV: w.prevKV, Fragment: w.fragment}
}

// collector gathers the events of one catch-up response.
type collector struct {
	w         *watcher
	compacted int64
	revisions int // room left
	bytes     int // room left
	rev       int64
	events    []Event
	seen      int
	// next is where the next response starts if the room was used up, else 0.
	next    int64
	aborted bool
}

// add takes one event in revision order and reports whether more are wanted.
func (c *collector) add(e *Event) bool {
	if c.seen++; c.seen%1024 == 0 {
		select {
		case <-c.w.stream.done:
			c.aborted = true
			return false
		default:
		}
	}
	if !c.w.span.contains(e.Key) {
		return true
	}
	if e.Main != c.rev {
		if c.revisions == 0 || c.bytes <= 0 {
			c.next = e.Main
			return false
		}
		c.rev = e.Main
		c.revisions--
	}
	if !c.w.filter.passes(e) {
		return true
	}
	c.bytes -= len(e.Key) + len(e.KV) + len(e.Prev) + eventOverhead
	c.events = append(c.events, *e)
	if e.Main <= c.compacted {
		// What was there before the compacted revision is gone, even if the ring still remembers it:
		// every member answers the same.
		c.events[len(c.events)-1].Prev = nil
	}
	return true
}
