package sim

import (
	"container/heap"
	"time"
)

// schedule is what is going to happen, by simulated time since the start; at equal times, in the order of asking.
type schedule struct {
	now  time.Duration
	step uint64 // events that have happened
	seq  uint64
	heap eventHeap
}

type event struct {
	at  time.Duration
	seq uint64
	run func()
}

// after makes run happen when d has passed.
func (s *schedule) after(d time.Duration, run func()) {
	s.seq++
	heap.Push(&s.heap, event{at: s.now + max(d, 0), seq: s.seq, run: run})
}

// next makes the next event happen.
func (s *schedule) next() bool {
	if len(s.heap) == 0 {
		return false
	}
	e := heap.Pop(&s.heap).(event)
	s.now = e.at
	s.step++
	e.run()
	return true
}

type eventHeap []event

func (h eventHeap) Len() int      { return len(h) }
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h eventHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}
func (h *eventHeap) Push(e any) { *h = append(*h, e.(event)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*h = old[:len(old)-1]
	return e
}
