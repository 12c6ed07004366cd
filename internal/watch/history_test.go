package watch

import (
	"fmt"
	"sync"
)

// history is a member's state as far as watches see it: all events by revision, in memory.
type history struct {
	mu        sync.Mutex
	revisions map[int64][]Event
	current   int64
	compacted int64
	reads     int
	fail      error
}

func newHistory() *history {
	return &history{revisions: map[int64][]Event{}, current: 1, compacted: -1}
}

// commit makes the next revision of changes "key=value" or "-key" and returns its events.
func (h *history) commit(changes ...string) []Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.current++
	var events []Event
	for i, c := range changes {
		e := Event{Main: h.current, Sub: int64(i)}
		if c[0] == '-' {
			e.Delete = true
			e.Key = []byte(c[1:])
		} else {
			for j := range c {
				if c[j] == '=' {
					e.Key, e.KV = []byte(c[:j]), []byte(c[j+1:])
					break
				}
			}
		}
		e.Prev = fmt.Appendf(nil, "before %d", h.current)
		events = append(events, e)
	}
	h.revisions[h.current] = events
	return events
}

func (h *history) compact(rev int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if rev <= h.compacted {
		return
	}
	h.compacted = rev
	for r := range h.revisions {
		if r < rev {
			delete(h.revisions, r)
		}
	}
}

func (h *history) Revisions() (current, compacted int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.current, h.compacted
}

func (h *history) Events(from, to int64, _, _ []byte, fn func(Event) bool) error {
	h.mu.Lock()
	h.reads++
	fail := h.fail
	h.mu.Unlock()
	if fail != nil {
		return fail
	}
	for rev := from; rev <= to; rev++ {
		h.mu.Lock()
		events, lost := h.revisions[rev], rev < h.compacted
		h.mu.Unlock()
		if lost {
			return ErrCompacted
		}
		for _, e := range events {
			if !fn(e) {
				return nil
			}
		}
	}
	return nil
}
