package node

import (
	"container/heap"
	"sync"

	"github.com/dolmen-io/dolmen/internal/state"
)

// call is a request of this member on its way through the log. It ends with a result or with an error
// that says that the request never got there, whichever comes first.
type call struct {
	done chan answer
}

type answer struct {
	result state.Result
	err    error
}

func (c *call) finish(a answer) {
	select {
	case c.done <- a:
	default: // has its answer
	}
}

// pending is the requests of this member that are on their way, by ID. Consensus bounds how many there
// can be: each is in its queue, in the log, or about to be applied.
type pending struct {
	mu struct {
		sync.Mutex
		calls   map[uint64]*call
		stopped error
	}
}

func newPending() *pending {
	p := &pending{}
	p.mu.calls = map[uint64]*call{}
	return p
}

// add registers a request. After stop it returns stop's error.
func (p *pending) add(id uint64) (*call, error) {
	c := &call{done: make(chan answer, 1)}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.stopped != nil {
		return nil, p.mu.stopped
	}
	p.mu.calls[id] = c
	return c, nil
}

// remove forgets a request whose proposer does not wait any more, or that never got into the log.
func (p *pending) remove(id uint64) *call {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.mu.calls[id]
	delete(p.mu.calls, id)
	return c
}

// finish hands the outcomes of a turn to those who wait for them.
func (p *pending) finish(outcomes []state.Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range outcomes {
		id := outcomes[i].ID
		if c := p.mu.calls[id]; c != nil {
			delete(p.mu.calls, id)
			c.finish(answer{result: outcomes[i].Result})
		}
	}
}

// stop fails everything that waits, and everything that comes later.
func (p *pending) stop(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.stopped = err
	for _, c := range p.mu.calls {
		c.finish(answer{err: err})
	}
	clear(p.mu.calls)
}

// size returns how many requests are on their way.
func (p *pending) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.mu.calls)
}

// milestones lets goroutines wait until a number that only grows has reached a value. Anybody can wait for a
// value that never comes, so those who wait cost nothing until it is their turn.
type milestones struct {
	mu struct {
		sync.Mutex
		reached uint64
		waiting waiters
	}
}

// waiter is one who waits; at is its place among the others, negative once it does not wait any more.
type waiter struct {
	value uint64
	ch    chan struct{}
	at    int
}

func newMilestones(reached uint64) *milestones {
	m := &milestones{}
	m.mu.reached = reached
	return m
}

// wait returns a channel that is closed once value is reached. cancel must be called when nobody waits
// for it any more.
func (m *milestones) wait(value uint64) (reached <-chan struct{}, cancel func()) {
	w := &waiter{value: value, ch: make(chan struct{})}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.reached >= value {
		close(w.ch)
		return w.ch, func() {}
	}
	heap.Push(&m.mu.waiting, w)
	return w.ch, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if w.at >= 0 {
			heap.Remove(&m.mu.waiting, w.at)
		}
	}
}

// reach says that value is reached.
func (m *milestones) reach(value uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.reached = max(m.mu.reached, value)
	for len(m.mu.waiting) > 0 && m.mu.waiting[0].value <= m.mu.reached {
		close(heap.Pop(&m.mu.waiting).(*waiter).ch)
	}
}

// waiters is a heap.Interface, the lowest value first.
type waiters []*waiter

func (w waiters) Len() int           { return len(w) }
func (w waiters) Less(i, j int) bool { return w[i].value < w[j].value }
func (w waiters) Swap(i, j int) {
	w[i], w[j] = w[j], w[i]
	w[i].at, w[j].at = i, j
}

// Push implements heap.Interface.
func (w *waiters) Push(x any) {
	x.(*waiter).at = len(*w)
	*w = append(*w, x.(*waiter))
}

// Pop implements heap.Interface.
func (w *waiters) Pop() any {
	last := (*w)[len(*w)-1]
	(*w)[len(*w)-1] = nil
	*w = (*w)[:len(*w)-1]
	last.at = -1
	return last
}
