package watch

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"
)

// The reasons of refused watches, which clients know by their text.
const (
	reasonCompacted   = "etcdserver: mvcc: required revision has been compacted"
	reasonDuplicateID = "mvcc: duplicate watch ID provided on the WatchStream"
	reasonEmptyRange  = "mvcc: watcher range is empty"
	reasonTooMany     = "mvcc: too many watches on one stream, open another stream"
)

// NoWatch is the watch ID of responses that belong to no single watch: refusals and manual progress.
const NoWatch = -1

// CreateRequest asks for a watch. The fields mean what etcd's WatchCreateRequest says.
type CreateRequest struct {
	// ID is the watch's ID on its stream, 0 to have one assigned.
	ID int64
	// Key and End are a range: an empty key is the smallest key "\0"; an empty end means the single key,
	// "\0" no upper limit. They are copied.
	Key, End []byte
	// Start is the first revision wanted, 0 for those after the current one.
	Start int64
	// NoPut and NoDelete filter events out.
	NoPut, NoDelete bool
	// PrevKV and Fragment are handed back in every response of the watch.
	PrevKV, Fragment bool
	// ProgressNotify asks for a response without events now and then while there are none.
	ProgressNotify bool
}

// Response is what goes to the client. Its events are shared and immutable.
type Response struct {
	// WatchID is the watch, or NoWatch.
	WatchID int64
	// Revision is for the response's header. It is 0, and must go out as 0, for a watch that a
	// compaction ended.
	Revision int64
	// Created and Canceled together are a refusal, for the Reason given.
	Created, Canceled bool
	// CompactRevision is set when a compaction ended the watch.
	CompactRevision int64
	Reason          string
	Events          []Event
	// PrevKV says that the watch wants Event.Prev, Fragment that a large response is to be split.
	PrevKV, Fragment bool
}

// Stream is the watches of one client stream. One goroutine calls Next and sends what it returns;
// another may call the rest. Create, Refuse, Cancel and Progress block while Options.QueueControls of
// their responses wait to be sent, so a client that does not read is not read from.
type Stream struct {
	hub      *Hub
	interval time.Duration
	controls chan struct{} // a slot for every control response queued
	wake     chan struct{}
	done     chan struct{}

	mu struct {
		sync.Mutex
		closed   bool
		waiting  bool // Next sleeps
		watchers map[int64]*watcher
		nextID   int64

		queue          []entry // queue[head:] wait
		head           int
		responses      int // queued, control responses left out
		bytes          int // of queued events
		pushed, popped uint64

		laggards []*watcher // oldest barrier first, those in turn behind
		unsynced int        // watchers lagging or compacted
		queued   bool       // it is the queue's turn, not the laggards'
		floor    int64      // highest revision in a header that did not come from dispatching

		future   map[int64]*watcher // start was above the current revision
		notify   map[int64]*watcher
		due      []*watcher // ticked, progress not queued yet
		nextTick time.Time
	}
}

type entry struct {
	Response
	bytes   int
	control bool
}

// NewStream opens a stream. It must be closed.
func (h *Hub) NewStream() *Stream {
	// The fractions of multiples of the golden ratio are spread evenly: streams that are opened together
	// do not tick together, and no random source is needed.
	_, jitter := math.Modf(float64(h.streams.Add(1)) * math.Phi)
	interval := h.opts.ProgressInterval
	interval += time.Duration(jitter * float64(interval) / 10)
	s := &Stream{
		hub:      h,
		interval: interval,
		controls: make(chan struct{}, h.opts.QueueControls),
		wake:     make(chan struct{}, 1),
		done:     make(chan struct{}),
	}
	s.mu.watchers = make(map[int64]*watcher)
	s.mu.nextTick = time.Now().Add(interval)
	h.stats.streams.Add(1)
	return s
}

// acquire waits for a slot for a control response.
func (s *Stream) acquire(ctx context.Context) error {
	select {
	case <-s.done: // a closed stream refuses even if it has room
		return ErrClosed
	default:
	}
	select {
	case s.controls <- struct{}{}:
		return nil
	case <-s.done:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Stream) release() { <-s.controls }

// Create adds a watch, or refuses it with the reason in a response. The created response comes before
// the watch's events, and responses come in the order of the requests. Permissions are the caller's: it
// checks them first, by the range as the client sent it, except for a negative Start, which etcd refuses
// before it looks at who asks.
//
// Errors: ErrClosed, or the context's error.
func (s *Stream) Create(ctx context.Context, req CreateRequest) error {
	if req.Start < 0 {
		return s.Refuse(ctx, reasonCompacted)
	}
	span, ok := newSpan(req.Key, req.End)
	if !ok {
		return s.Refuse(ctx, reasonEmptyRange)
	}
	if err := s.acquire(ctx); err != nil {
		return err
	}
	w := &watcher{
		stream: s, id: req.ID, span: span, start: req.Start,
		prevKV: req.PrevKV, fragment: req.Fragment, notify: req.ProgressNotify,
	}
	if req.NoPut {
		w.filter |= filterPut
	}
	if req.NoDelete {
		w.filter |= filterDelete
	}
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		s.release()
		return ErrClosed
	}
	current, _ := h.history.Revisions()
	if reason := s.assign(w); reason != "" {
		s.pushControl(refusal(current, reason))
		return nil
	}
	s.pushControl(Response{WatchID: w.id, Revision: current, Created: true})
	s.register(w, current)
	return nil
}

// assign gives the watcher its ID, or a reason why it cannot have one.
func (s *Stream) assign(w *watcher) (reason string) {
	if len(s.mu.watchers) >= s.hub.opts.StreamWatches {
		return reasonTooMany
	}
	if w.id == 0 {
		for s.mu.watchers[s.mu.nextID] != nil {
			s.mu.nextID++
		}
		w.id = s.mu.nextID
		s.mu.nextID++
	} else if s.mu.watchers[w.id] != nil {
		return reasonDuplicateID
	}
	s.mu.watchers[w.id] = w
	return ""
}

// register makes a new watcher live, or lagging if it starts in the past. Its created response is queued.
func (s *Stream) register(w *watcher, current int64) {
	h := s.hub
	h.stats.watchers.Add(1)
	s.mu.floor = max(s.mu.floor, current)
	if w.notify {
		s.addNotify(w)
	}
	if w.start > current {
		if s.mu.future == nil {
			s.mu.future = make(map[int64]*watcher)
		}
		s.mu.future[w.id] = w
	}
	if w.start != 0 && w.start <= current {
		s.lag(w, w.start)
		return
	}
	w.next = max(current+1, w.start)
	h.mu.index.add(w)
}

// Refuse answers a request for a watch that the caller turns down, for example because of a permission.
// Errors: ErrClosed, or the context's error.
func (s *Stream) Refuse(ctx context.Context, reason string) error {
	if err := s.acquire(ctx); err != nil {
		return err
	}
	current, _ := s.hub.history.Revisions()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		s.release()
		return ErrClosed
	}
	s.pushControl(refusal(current, reason))
	return nil
}

func refusal(current int64, reason string) Response {
	return Response{WatchID: NoWatch, Revision: current, Created: true, Canceled: true, Reason: reason}
}

// Cancel ends a watch; the cancelled response is its last one. There is no response for an unknown ID.
// A watch that a compaction ended is known until it is cancelled.
//
// Errors: ErrClosed, or the context's error.
func (s *Stream) Cancel(ctx context.Context, id int64) error {
	if err := s.acquire(ctx); err != nil {
		return err
	}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		s.release()
		return ErrClosed
	}
	w := s.mu.watchers[id]
	if w == nil {
		s.release()
		return nil
	}
	s.discard(w)
	current, _ := s.hub.history.Revisions()
	s.pushControl(Response{WatchID: id, Revision: current, Canceled: true})
	return nil
}

// discard forgets a watcher. Both locks are held.
func (s *Stream) discard(w *watcher) {
	switch w.state {
	case live:
		s.hub.mu.index.remove(w)
		s.hub.stats.watchers.Add(-1)
	case lagging:
		// It stays in the list of laggards until its turn comes: no search, and the list cannot grow by
		// cancelled ones, since each cost the client two responses and Next clears one at each.
		s.mu.unsynced--
		s.hub.stats.slow.Add(-1)
		s.hub.stats.watchers.Add(-1)
	case compacted:
		s.mu.unsynced--
	}
	w.state = gone
	delete(s.mu.watchers, w.id)
	delete(s.mu.future, w.id)
	delete(s.mu.notify, w.id)
}

// closeChunk is how many watchers Close removes under one hold of the hub's lock.
const closeChunk = 1024

// Close ends all watches and makes Next return. It may be called more than once.
func (s *Stream) Close() {
	s.mu.Lock()
	if s.mu.closed {
		s.mu.Unlock()
		return
	}
	s.mu.closed = true
	close(s.done)
	for _, e := range s.mu.queue[s.mu.head:] {
		s.hub.stats.pending.Add(-int64(len(e.Events)))
	}
	s.mu.queue, s.mu.head = nil, 0
	s.mu.laggards, s.mu.due = nil, nil
	watchers := make([]*watcher, 0, len(s.mu.watchers))
	for _, w := range s.mu.watchers {
		watchers = append(watchers, w)
	}
	s.mu.Unlock()
	for chunk := range slices.Chunk(watchers, closeChunk) {
		s.hub.mu.Lock()
		s.mu.Lock()
		for _, w := range chunk {
			s.discard(w)
		}
		s.mu.Unlock()
		s.hub.mu.Unlock()
	}
	s.hub.stats.streams.Add(-1)
}

// offer queues a live watcher's events of one revision. It returns false if they do not fit; then the
// watcher lags and the caller takes it out of the index. Hub.mu is held.
func (s *Stream) offer(w *watcher, rev int64, b *batch) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		// Close takes it out; until then it only must not queue.
		return true
	}
	opts := &s.hub.opts
	if s.mu.responses >= opts.QueueResponses || (s.mu.bytes > 0 && s.mu.bytes+b.bytes > opts.QueueBytes) {
		s.lag(w, rev)
		return false
	}
	w.next = rev + 1
	w.sent = true
	s.mu.responses++
	s.hub.stats.pending.Add(int64(len(b.events)))
	s.push(entry{Response: w.response(rev, b.events), bytes: b.bytes})
	return true
}

// lag lets a watcher catch up from the revision next on. Both locks are held, and the watcher is not in
// the index.
func (s *Stream) lag(w *watcher, next int64) {
	w.state = lagging
	w.next = next
	w.barrier = s.mu.pushed
	if s.mu.closed {
		w.state = gone
		s.hub.stats.watchers.Add(-1)
		return
	}
	s.mu.laggards = append(s.mu.laggards, w)
	s.mu.unsynced++
	s.hub.stats.slow.Add(1)
	s.notifyNext()
}

func (s *Stream) pushControl(r Response) { s.push(entry{Response: r, control: true}) }

func (s *Stream) push(e entry) {
	// Moving what waits to the front keeps the slice at twice what can wait at most.
	if s.mu.head > 0 && len(s.mu.queue) == cap(s.mu.queue) {
		n := copy(s.mu.queue, s.mu.queue[s.mu.head:])
		clear(s.mu.queue[n:])
		s.mu.queue, s.mu.head = s.mu.queue[:n], 0
	}
	s.mu.queue = append(s.mu.queue, e)
	s.mu.bytes += e.bytes
	s.mu.pushed++
	s.notifyNext()
}

func (s *Stream) notifyNext() {
	if !s.mu.waiting {
		return
	}
	s.mu.waiting = false
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
