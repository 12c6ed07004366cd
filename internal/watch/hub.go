package watch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrCompacted is what a History returns when it was asked for events below the compacted revision.
	ErrCompacted = errors.New("watch: revision has been compacted")
	// ErrClosed says that the stream was closed.
	ErrClosed = errors.New("watch: stream is closed")
)

// History reads committed events by revision. All methods may be called from any goroutine.
//
// Errors other than ErrCompacted are failures: they end the stream that read, or the hub.
type History interface {
	// Events calls fn for the events with from <= Main <= to, ordered by Main, then Sub, until fn
	// returns false. key and end are a range as clients give it (end empty: the single key; "\0":
	// no upper limit); events outside of it may be given to fn too. Revisions above the current one
	// have no events. It returns ErrCompacted, before or after some calls of fn, when events at from or
	// above are missing because of a compaction.
	Events(from, to int64, key, end []byte, fn func(Event) bool) error

	// Revisions returns the newest published revision and the compacted one, -1 before any compaction.
	// It is cheap and does not block. Neither ever goes back.
	Revisions() (current, compacted int64)
}

// Options are the hub's bounds. A zero field gets its default.
type Options struct {
	// RingBytes is the memory that the newest events may take so that those who are a little behind
	// need not read the engine. Default 32 MiB.
	RingBytes int
	// QueueResponses and QueueBytes bound the responses that wait on one stream. A watch whose response
	// does not fit reads the history later, at its client's pace. Defaults 128, as in etcd, and 4 MiB.
	// One response may be larger than QueueBytes if it waits alone.
	QueueResponses int
	QueueBytes     int
	// QueueControls bounds the created, cancelled and progress responses that wait on one stream; over
	// it Create, Refuse, Cancel and Progress block. Default 64.
	QueueControls int
	// StreamWatches bounds the watches of one stream. Default 1,048,576.
	StreamWatches int
	// BatchRevisions and BatchBytes bound one catch-up response. Defaults 1000, as in etcd, and 16 MiB;
	// a revision is never split.
	BatchRevisions int
	BatchBytes     int
	// ProgressInterval is the time between progress notifications of watches that asked for them.
	// Default 10 min, at least 100 ms; every stream adds up to 10 % of its own.
	ProgressInterval time.Duration
}

const minProgressInterval = 100 * time.Millisecond

func (o Options) withDefaults() Options {
	o.RingBytes = cmp.Or(o.RingBytes, 32<<20)
	o.QueueResponses = cmp.Or(o.QueueResponses, 128)
	o.QueueBytes = cmp.Or(o.QueueBytes, 4<<20)
	o.QueueControls = cmp.Or(o.QueueControls, 64)
	o.StreamWatches = cmp.Or(o.StreamWatches, 1<<20)
	o.BatchRevisions = cmp.Or(o.BatchRevisions, 1000)
	o.BatchBytes = cmp.Or(o.BatchBytes, 16<<20)
	o.ProgressInterval = max(cmp.Or(o.ProgressInterval, 10*time.Minute), minProgressInterval)
	return o
}

const (
	// dispatchGroups is how many revisions are dispatched under one hold of the hub's lock. It bounds
	// how long Create and Cancel wait when a thousand watchers want each of them.
	dispatchGroups = 32
	// scanFactor times BatchRevisions is how many revisions one step of a catch-up looks at, so that a
	// watch of a rare key does not hold up the others on its stream.
	scanFactor = 10
)

// Hub delivers events to all watches of a member. The rule that makes delivery exact: a watcher has one
// number, next, the lowest revision it has not been given. Dispatching and catching up both skip what is
// below it and both move it, and a watcher is live, that is in the index, only while next is above what
// was dispatched. So whoever hands it over cannot lose or repeat an event.
type Hub struct {
	opts    Options
	history History
	ring    *ring
	wake    chan struct{}
	streams atomic.Uint64 // ever opened: spreads the progress ticks
	stats   counters

	// Lock order: Hub.mu, Stream.mu, ring.mu.
	mu struct {
		sync.Mutex
		index      index
		dispatched int64 // every live watcher was given its events up to this revision; Run alone moves it
		awaiting   []awaited
		touched    []*set
	}
}

// awaited is a progress request that came before all its events were dispatched.
type awaited struct {
	stream *Stream
	target int64
}

// New returns a hub that starts after the history's current revision. It delivers while Run runs.
func New(h History, opts Options) *Hub {
	current, _ := h.Revisions()
	hub := &Hub{
		opts:    opts.withDefaults(),
		history: h,
		wake:    make(chan struct{}, 1),
	}
	hub.ring = newRing(hub.opts.RingBytes, current)
	hub.mu.index = newIndex()
	hub.mu.dispatched = current
	return hub
}

// Publish hands over the events of a turn in revision order, every event of a revision in one call.
// current is the newest revision; where it is above the last event's, or events leave out revisions, a
// snapshot has taken this member further, and watchers read the rest from the history.
//
// It is called from one goroutine, after the state with these revisions can be read. It does not wait
// for any watcher. The hub keeps the slice, which must not change any more.
func (h *Hub) Publish(events []Event, current int64) {
	h.ring.append(events, current)
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// Run dispatches published events until ctx ends, and returns nil then. An error is a failure of the
// history.
func (h *Hub) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.wake:
		}
		if err := h.drain(ctx); err != nil {
			return fmt.Errorf("watch: dispatch: %w", err)
		}
	}
}

// drain dispatches all that is published.
func (h *Hub) drain(ctx context.Context) error {
	buf := make([]group, 0, dispatchGroups)
	from := h.dispatchedTo() + 1
	for ctx.Err() == nil {
		groups, low, high := h.ring.read(from, dispatchGroups, buf[:0])
		if from > high {
			return nil
		}
		var last int64
		switch {
		case from >= low:
			last = groups[len(groups)-1].rev
		default:
			var err error
			groups, last, err = h.readHistory(from, low-1)
			if errors.Is(err, ErrCompacted) {
				h.strand(from, low-1)
				from = low
				continue
			}
			if err != nil {
				return err
			}
		}
		h.dispatch(groups, last)
		from = last + 1
		clear(buf)
	}
	return nil
}

func (h *Hub) dispatchedTo() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.dispatched
}

// readHistory reads what fell out of the ring before it was dispatched: once for all watchers, which is
// cheaper than to let each read it. It reads as much as one catch-up response may hold.
func (h *Hub) readHistory(from, to int64) (groups []group, last int64, err error) {
	to = min(to, from+int64(h.opts.BatchRevisions)-1)
	last = to
	var events []Event
	bytes := 0
	err = h.history.Events(from, to, all, all, func(e Event) bool {
		if n := len(events); n > 0 && events[n-1].Main != e.Main {
			g := group{rev: events[0].Main, bytes: cost(events), events: events}
			groups, events = append(groups, g), nil
			if bytes += g.bytes; bytes > h.opts.BatchBytes {
				last = g.rev
				return false
			}
		}
		events = append(events, e)
		return true
	})
	if len(events) > 0 {
		groups = append(groups, group{rev: events[0].Main, bytes: cost(events), events: events})
	}
	return groups, last, err
}

// strand sends every live watcher that may have missed events in [from, to] to catch up by itself: there
// it learns what the compaction means to it.
func (h *Hub) strand(from, to int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.mu.index.keys {
		h.strandSet(s, from, to)
	}
	for _, s := range h.mu.index.ranges {
		h.strandSet(s, from, to)
	}
	h.advance(to)
}

func (h *Hub) strandSet(s *set, from, to int64) {
	for i := len(s.watchers) - 1; i >= 0; i-- {
		w := s.watchers[i]
		if w.next > to {
			continue
		}
		h.mu.index.remove(w)
		w.stream.mu.Lock()
		w.stream.lag(w, max(w.next, from))
		w.stream.mu.Unlock()
	}
}

// dispatch gives groups, which are complete up to the revision last, to the live watchers.
func (h *Hub) dispatch(groups []group, last int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range groups {
		h.dispatchGroup(&groups[i])
	}
	h.advance(last)
}

// advance moves dispatched and answers progress requests that waited for it.
func (h *Hub) advance(to int64) {
	h.mu.dispatched = to
	kept := h.mu.awaiting[:0]
	for _, a := range h.mu.awaiting {
		if !a.stream.answerProgress(a.target, to) {
			kept = append(kept, a)
		}
	}
	clear(h.mu.awaiting[len(kept):])
	h.mu.awaiting = kept
}

func (h *Hub) dispatchGroup(g *group) {
	touched := h.mu.touched[:0]
	for i := range g.events {
		h.mu.index.visit(g.events[i].Key, func(s *set) {
			if s.rev != g.rev {
				s.rev, s.matched = g.rev, s.matched[:0]
				touched = append(touched, s)
			}
			s.matched = append(s.matched, int32(i))
		})
	}
	for _, s := range touched {
		h.dispatchSet(g, s)
	}
	clear(touched)
	h.mu.touched = touched[:0]
}

// dispatchSet gives a set's events of one revision to its watchers. The events are selected once for
// each combination of filters and shared by all who want that.
func (h *Hub) dispatchSet(g *group, s *set) {
	var made [4]bool
	var variants [4]batch
	// From the end: a watcher that leaves the set is replaced by the last one, which has been served.
	for i := len(s.watchers) - 1; i >= 0; i-- {
		w := s.watchers[i]
		if w.next > g.rev {
			continue
		}
		f := w.filter
		if !made[f] {
			made[f], variants[f] = true, selectEvents(g, s.matched, f)
		}
		if len(variants[f].events) > 0 && !w.stream.offer(w, g.rev, &variants[f]) {
			h.mu.index.remove(w)
		}
	}
	// A set that once matched a huge transaction must not remember it for ever.
	if cap(s.matched) > 1024 {
		s.matched = nil
	}
}

// batch is events that many watchers share, and what they cost.
type batch struct {
	events []Event
	bytes  int
}

// selectEvents returns the matched events of a group that pass a filter; it copies none if they are
// neighbours.
func selectEvents(g *group, matched []int32, f filter) batch {
	if f == 0 {
		if len(matched) == len(g.events) {
			return batch{g.events, g.bytes}
		}
		first, n := matched[0], int32(len(matched))
		if matched[n-1] == first+n-1 {
			events := g.events[first : first+n : first+n]
			return batch{events, cost(events)}
		}
	}
	var events []Event
	for _, i := range matched {
		if f.passes(&g.events[i]) {
			events = append(events, g.events[i])
		}
	}
	return batch{events, cost(events)}
}
