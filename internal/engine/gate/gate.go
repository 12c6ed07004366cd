// Package gate has what engines on a library share: it keeps calls out once an engine closes and tells when those under way have
// ended, and it keeps the figures that many ask for.
package gate

import (
	"sync"
	"sync/atomic"
)

// closedBit of Gate.state says that the gate is closed; the other bits count who is inside.
const closedBit = 1 << 62

// Gate lets calls in until it is closed and tells when the last of them has left. Libraries crash or panic
// when they are used after their close, and an RWMutex would stop a call made within a scan while Close
// waits for the scan.
type Gate struct {
	state atomic.Int64
	once  sync.Once
	empty chan struct{}
}

// New returns an open gate.
func New() *Gate { return &Gate{empty: make(chan struct{})} }

// Enter reports whether the caller may go on; it must leave then.
func (g *Gate) Enter() bool {
	if g.state.Add(1) >= closedBit {
		g.Leave()
		return false
	}
	return true
}

// Leave ends what Enter allowed.
func (g *Gate) Leave() {
	if g.state.Add(-1) == closedBit {
		g.once.Do(func() { close(g.empty) })
	}
}

// Close keeps everyone out from now on, and reports whether it was this call that did.
func (g *Gate) Close() bool {
	old := g.state.Or(closedBit)
	if old >= closedBit {
		return false
	}
	if old == 0 {
		g.once.Do(func() { close(g.empty) })
	}
	return true
}

// Empty returns a channel that is closed when the gate is closed and all have left.
func (g *Gate) Empty() <-chan struct{} { return g.empty }
