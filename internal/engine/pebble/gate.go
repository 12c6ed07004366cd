package pebble

import (
	"sync"
	"sync/atomic"
)

// closedBit of gate.state says that the gate is closed; the other bits count who is inside.
const closedBit = 1 << 62

// gate lets calls in until it is closed and tells when the last of them has left. Pebble panics when it
// is used after Close, and an RWMutex would stop a call made within a scan while Close waits for the
// scan.
type gate struct {
	state atomic.Int64
	once  sync.Once
	empty chan struct{}
}

func newGate() *gate { return &gate{empty: make(chan struct{})} }

// enter reports whether the caller may go on; it must leave then.
func (g *gate) enter() bool {
	if g.state.Add(1) >= closedBit {
		g.leave()
		return false
	}
	return true
}

func (g *gate) leave() {
	if g.state.Add(-1) == closedBit {
		g.once.Do(func() { close(g.empty) })
	}
}

// close keeps everyone out from now on, and reports whether it was this call that did. The channel empty
// is closed when all have left.
func (g *gate) close() bool {
	old := g.state.Or(closedBit)
	if old >= closedBit {
		return false
	}
	if old == 0 {
		g.once.Do(func() { close(g.empty) })
	}
	return true
}
