package watch

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// Progress asks for one response for all watches of the stream, with WatchID NoWatch and the current
// revision, after all their events up to it. There is none if a watch is catching up, was ended by a
// compaction or starts at a later revision, or if the stream has no watch.
//
// Errors: ErrClosed, or the context's error.
func (s *Stream) Progress(ctx context.Context) error {
	if err := s.acquire(ctx); err != nil {
		return err
	}
	h := s.hub
	current, _ := h.history.Revisions()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !s.answerProgress(current, h.mu.dispatched) {
		h.mu.awaiting = append(h.mu.awaiting, awaited{s, current})
	}
	return nil
}

// answerProgress settles a progress request made when target was the current revision. It returns false
// if that has to wait until more is dispatched. Hub.mu is held.
func (s *Stream) answerProgress(target, dispatched int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed || len(s.mu.watchers) == 0 || s.mu.unsynced > 0 {
		s.release()
		return true
	}
	if dispatched < max(target, s.mu.floor) {
		return false
	}
	for id, w := range s.mu.future {
		if w.start > dispatched {
			s.release()
			return true
		}
		delete(s.mu.future, id)
	}
	s.pushControl(Response{WatchID: NoWatch, Revision: dispatched})
	return true
}

// addNotify makes a watcher take part in progress ticks.
func (s *Stream) addNotify(w *watcher) {
	if s.mu.notify == nil {
		s.mu.notify = make(map[int64]*watcher)
	}
	if len(s.mu.notify) == 0 {
		// Nobody looked at the ticks that went by.
		if late := time.Since(s.mu.nextTick); late >= 0 {
			s.mu.nextTick = s.mu.nextTick.Add(late - late%s.interval + s.interval)
		}
	}
	s.mu.notify[w.id] = w
}

// tick queues progress notifications when they are due: for each watch that asked for them and had no
// event since the last tick. What does not fit into the queue is queued as soon as it does.
func (s *Stream) tick(now time.Time) {
	s.mu.Lock()
	if len(s.mu.notify) > 0 && !now.Before(s.mu.nextTick) {
		late := now.Sub(s.mu.nextTick)
		s.mu.nextTick = s.mu.nextTick.Add(late - late%s.interval + s.interval)
		s.mu.due = s.mu.due[:0]
		for _, w := range s.mu.notify {
			if !w.sent {
				s.mu.due = append(s.mu.due, w)
			}
			w.sent = false
		}
		slices.SortFunc(s.mu.due, func(a, b *watcher) int { return cmp.Compare(a.id, b.id) })
	}
	room := len(s.mu.due) > 0 && s.mu.responses < s.hub.opts.QueueResponses
	s.mu.Unlock()
	if !room {
		return
	}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	rev := s.hub.mu.dispatched
	n := 0
	for ; n < len(s.mu.due) && s.mu.responses < s.hub.opts.QueueResponses; n++ {
		w := s.mu.due[n]
		if w.state != live || w.sent || rev < max(w.start, s.mu.floor) {
			continue
		}
		s.mu.responses++
		s.push(entry{Response: Response{WatchID: w.id, Revision: rev}})
	}
	s.mu.due = s.mu.due[n:]
}
