package watch

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Next returns the next response to send, waiting for one. It takes turns between what is queued and the
// watches that are catching up, which read the history here: at the pace of the client that is behind,
// and of no one else.
//
// Errors: ErrClosed, the context's error, or a failure of the history. Only one goroutine may call it.
func (s *Stream) Next(ctx context.Context) (Response, error) {
	for {
		if err := ctx.Err(); err != nil {
			return Response{}, err
		}
		s.mu.Lock()
		if len(s.mu.notify) > 0 || len(s.mu.due) > 0 {
			s.mu.Unlock()
			s.tick(time.Now())
			s.mu.Lock()
		}
		if s.mu.closed {
			s.mu.Unlock()
			return Response{}, ErrClosed
		}
		w := s.laggard()
		switch {
		case w != nil && (!s.mu.queued || s.pendingEntries() == 0):
			s.mu.queued = true
			from := w.next
			s.mu.Unlock()
			r, ok, err := s.catchUp(w, from)
			if err != nil {
				return Response{}, err
			}
			if ok {
				s.hub.stats.events.Add(int64(len(r.Events)))
				return r, nil
			}
		case s.pendingEntries() > 0:
			s.mu.queued = false
			e := s.pop()
			s.mu.Unlock()
			s.hub.stats.events.Add(int64(len(e.Events)))
			return e.Response, nil
		default:
			s.mu.waiting = true
			var tick time.Duration
			if len(s.mu.notify) > 0 {
				tick = max(1, time.Until(s.mu.nextTick))
			}
			s.mu.Unlock()
			s.sleep(ctx, tick)
		}
	}
}

// sleep waits for something to do; tick 0 means no tick is due.
func (s *Stream) sleep(ctx context.Context, tick time.Duration) {
	var ticked <-chan time.Time
	if tick > 0 {
		t := time.NewTimer(tick)
		defer t.Stop()
		ticked = t.C
	}
	select {
	case <-s.wake:
	case <-s.done:
	case <-ctx.Done():
	case <-ticked:
	}
}

func (s *Stream) pendingEntries() int { return len(s.mu.queue) - s.mu.head }

func (s *Stream) pop() entry {
	e := s.mu.queue[s.mu.head]
	s.mu.queue[s.mu.head] = entry{}
	s.mu.head++
	if s.mu.head == len(s.mu.queue) {
		s.mu.queue, s.mu.head = s.mu.queue[:0], 0
	}
	s.mu.popped++
	s.mu.bytes -= e.bytes
	if e.control {
		s.release()
	} else {
		s.mu.responses--
		s.hub.stats.pending.Add(-int64(len(e.Events)))
	}
	return e
}

// laggard returns the watcher whose turn it is to catch up, nil if there is none or if responses that
// were queued before it fell behind have to go first.
func (s *Stream) laggard() *watcher {
	for len(s.mu.laggards) > 0 && s.mu.laggards[0].state != lagging {
		s.mu.laggards = s.mu.laggards[1:]
	}
	if len(s.mu.laggards) == 0 || s.mu.laggards[0].barrier > s.mu.popped {
		return nil
	}
	return s.mu.laggards[0]
}

// catchUp takes one step for the first laggard, whose lowest revision not given is from. ok is false if
// the step has no response.
func (s *Stream) catchUp(w *watcher, from int64) (r Response, ok bool, err error) {
	current, compactedRev := s.hub.history.Revisions()
	if from < compactedRev {
		return s.compact(w, compactedRev)
	}
	c := collector{
		w: w, compacted: compactedRev,
		revisions: s.hub.opts.BatchRevisions, bytes: s.hub.opts.BatchBytes,
	}
	to := min(current, from+scanFactor*int64(s.hub.opts.BatchRevisions)-1)
	err = s.collect(&c, from, to)
	switch {
	case errors.Is(err, ErrCompacted):
		// A compaction came between. Unless it is visible now, the history contradicts itself.
		if _, now := s.hub.history.Revisions(); from < now {
			return s.compact(w, now)
		}
		return Response{}, false, fmt.Errorf("watch: read events from revision %d: %w", from, err)
	case err != nil:
		return Response{}, false, fmt.Errorf("watch: read events from revision %d: %w", from, err)
	case c.aborted:
		return Response{}, false, ErrClosed
	}
	next := to + 1
	if c.next != 0 {
		next = c.next
	}
	if !s.caughtUp(w, max(next, from), current, len(c.events) > 0) || len(c.events) == 0 {
		return Response{}, false, nil
	}
	return w.response(current, c.events), true, nil
}

// collect reads events in [from, to] into c, from the ring if it has them.
func (s *Stream) collect(c *collector, from, to int64) error {
	var buf [64]group
	for from <= to {
		groups, _, _ := s.hub.ring.read(from, len(buf), buf[:0])
		if len(groups) == 0 {
			key, end := c.w.span.bounds()
			return s.hub.history.Events(from, to, key, end, func(e Event) bool { return c.add(&e) })
		}
		for i := range groups {
			if groups[i].rev > to {
				return nil
			}
			for j := range groups[i].events {
				if !c.add(&groups[i].events[j]) {
					return nil
				}
			}
			from = groups[i].rev + 1
		}
	}
	return nil
}

// caughtUp notes that a laggard was given everything below next, and makes it live if that is all that
// was dispatched. It returns false if the watch is gone meanwhile.
func (s *Stream) caughtUp(w *watcher, next, current int64, sent bool) bool {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed || w.state != lagging {
		return false
	}
	w.next = next
	if sent {
		w.sent = true
		s.mu.floor = max(s.mu.floor, current)
	}
	s.mu.laggards = append(s.mu.laggards[1:], w)
	if next <= s.hub.mu.dispatched || next <= current {
		return true
	}
	s.mu.laggards = s.mu.laggards[:len(s.mu.laggards)-1]
	s.mu.unsynced--
	s.hub.stats.slow.Add(-1)
	w.state = live
	s.hub.mu.index.add(w)
	return true
}

// compact ends a laggard whose events are gone. It keeps its ID, as in etcd, until it is cancelled.
func (s *Stream) compact(w *watcher, rev int64) (Response, bool, error) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed || w.state != lagging {
		return Response{}, false, nil
	}
	s.mu.laggards = s.mu.laggards[1:]
	s.hub.stats.slow.Add(-1)
	s.hub.stats.watchers.Add(-1)
	w.state = compacted
	return Response{WatchID: w.id, Canceled: true, CompactRevision: rev}, true, nil
}
