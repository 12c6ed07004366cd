package robustness

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// network is the wires between members, as its proxies carry them: of each ordered pair it knows whether bytes pass and
// how late. All methods may run at once.
type network struct {
	mu struct {
		sync.Mutex
		names   map[string]string // by member id in hexadecimal, as it is in the header X-Server-From
		wires   map[wire]condition
		changed chan struct{} // closed and replaced at each change
	}
}

// wire is the way from one member to another, by their names.
type wire struct{ from, to string }

// condition is what happens to the bytes on a wire; nothing, in the zero value.
type condition struct {
	cut   bool
	delay time.Duration
}

func newNetwork() *network {
	n := &network{}
	n.mu.names, n.mu.wires, n.mu.changed = map[string]string{}, map[wire]condition{}, make(chan struct{})
	return n
}

// know tells the network which member has an id. Until then what comes from it counts as from nobody in particular.
func (n *network) know(id uint64, name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.names[fmt.Sprintf("%x", id)] = name
	n.tell()
}

// tell wakes who waits for a change. The caller holds the lock.
func (n *network) tell() {
	close(n.mu.changed)
	n.mu.changed = make(chan struct{})
}

// set changes the way from one member to another.
func (n *network) set(from, to string, c condition) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c == (condition{}) {
		delete(n.mu.wires, wire{from, to})
	} else {
		n.mu.wires[wire{from, to}] = c
	}
	n.tell()
}

// heal makes all wires good.
func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.mu.wires)
	n.tell()
}

// part cuts both ways between each of some members and each of the others.
func (n *network) part(some, others []string) {
	for _, a := range some {
		for _, b := range others {
			n.set(a, b, condition{cut: true})
			n.set(b, a, condition{cut: true})
		}
	}
}

// on returns the condition between a dialler, given by its id, and a member, in the direction asked for, and a channel that
// is closed when it may have changed. A dialler that is not known shares the member's fate: its bytes pass while any
// wire of the member in that direction is good.
func (n *network) on(dialler, member string, toMember bool) (condition, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	others := []string{n.mu.names[dialler]}
	if others[0] == "" {
		others = others[:0]
		for _, name := range n.mu.names {
			if name != member && !slices.Contains(others, name) {
				others = append(others, name)
			}
		}
	}
	var best condition
	for i, other := range others {
		w := wire{member, other}
		if toMember {
			w = wire{other, member}
		}
		if c := n.mu.wires[w]; i == 0 || best.cut && !c.cut {
			best = c
		}
	}
	return best, n.mu.changed
}

// String names the wires that are not good.
func (n *network) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []string
	for w, c := range n.mu.wires {
		text := fmt.Sprintf("%s>%s", w.from, w.to)
		if c.cut {
			text += " cut"
		}
		if c.delay > 0 {
			text += fmt.Sprintf(" +%v", c.delay)
		}
		all = append(all, text)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
