package sim

import (
	"time"
)

// startNemesis begins what goes wrong in the world. It may do so to all members at a time: safety never depends on how
// many are well, and progress is asked for only in the long run, because everything that goes wrong ends after a while.
func (w *world) startNemesis() {
	w.net.loss, w.net.slow, w.net.twin = w.rng.IntN(4), w.rng.IntN(6), w.rng.IntN(4)
	w.after(w.between(time.Second, 3*time.Second), w.disturb)
}

// disturb does one bad thing, and the next one after a while.
func (w *world) disturb() {
	if w.settled {
		return
	}
	w.after(w.between(w.shape.pace/10, w.shape.pace), w.disturb)
	switch pick(w, w.shape.faults) {
	case crashing:
		w.crashOne(w.victim(), w.between(50*time.Millisecond, 5*time.Second))
	case powerCut:
		w.crashAll()
	case shuttingDown:
		w.shutDown(w.victim(), w.between(50*time.Millisecond, 3*time.Second))
	case partitioning:
		w.partition()
	case slowing:
		w.slowDown(w.victim())
	case pausing:
		w.pause(w.victim())
	case transferring:
		w.transfer()
	case losing:
		w.badNetwork()
	}
}

// victim is the leader in half of all cases.
func (w *world) victim() *member {
	if w.chance(50) {
		for _, m := range w.members {
			if m.up && m.primary {
				return m
			}
		}
	}
	return pick(w, w.members)
}

func (w *world) crashOne(m *member, away time.Duration) {
	if !m.up {
		return
	}
	if err := m.crash(); err != nil {
		w.violated("failure", "%s: %v", m.name, err)
		return
	}
	w.after(away, m.restart)
}

// shutDown stops a member as an operator does: everything becomes durable first.
func (w *world) shutDown(m *member, away time.Duration) {
	if !m.up {
		return
	}
	if err := m.close(); err != nil {
		w.violated("failure", "%s cannot stop: %v", m.name, err)
		return
	}
	w.after(away, m.restart)
}

// crashAll is a power cut.
func (w *world) crashAll() {
	for _, m := range w.members {
		w.crashOne(m, w.between(50*time.Millisecond, 2*time.Second))
	}
}

// partition cuts links for a while: those of one member, one way or both, or those between two halves.
func (w *world) partition() {
	var cut []link
	one := w.victim()
	way := w.rng.IntN(4)
	half := map[uint64]bool{}
	for _, m := range w.members {
		half[m.id] = w.chance(50)
	}
	for _, a := range w.members {
		for _, b := range w.members {
			separate := false
			switch way {
			case 0:
				separate = a == one || b == one
			case 1:
				separate = a == one
			case 2:
				separate = b == one
			case 3:
				separate = half[a.id] != half[b.id]
			}
			if separate && a != b {
				cut = append(cut, link{a.id, b.id})
			}
		}
	}
	for _, l := range cut {
		w.net.cut[l] = true
	}
	w.note("partition %d of %s", way, one.name)
	w.after(w.between(100*time.Millisecond, 6*time.Second), func() {
		for _, l := range cut {
			delete(w.net.cut, l)
		}
		w.note("partition %d of %s ends", way, one.name)
	})
}

func (w *world) slowDown(m *member) {
	if w.shape.hangs && w.chance(50) {
		m.hungDisk = w.now + w.between(500*time.Millisecond, 8*time.Second)
		w.note("the disk of %s hangs until %v", m.name, m.hungDisk)
		return
	}
	m.slowDisk = w.now + w.between(500*time.Millisecond, 5*time.Second)
	w.note("the disk of %s is slow until %v", m.name, m.slowDisk)
}

func (w *world) pause(m *member) {
	m.paused = w.now + w.between(100*time.Millisecond, 4*time.Second)
	w.note("%s stands still until %v", m.name, m.paused)
}

// transfer asks the leader to hand over to any member.
func (w *world) transfer() {
	to := pick(w, w.members)
	for _, m := range w.members {
		if m.up && m.primary {
			w.note("%s is asked to hand over to %s", m.name, to.name)
			m.in(0, func() { m.node.TransferLeader(to.id) })
		}
	}
}

func (w *world) badNetwork() {
	loss, slow, twin := w.net.loss, w.net.slow, w.net.twin
	w.net.loss, w.net.slow, w.net.twin = w.rng.IntN(30), w.rng.IntN(40), w.rng.IntN(20)
	w.note("the network loses %d%%, delays %d%%, doubles %d%%", w.net.loss, w.net.slow, w.net.twin)
	w.after(w.between(500*time.Millisecond, 3*time.Second), func() { w.net.loss, w.net.slow, w.net.twin = loss, slow, twin })
}

// heal ends everything bad.
func (w *world) heal() {
	clear(w.net.cut)
	w.net.loss, w.net.slow, w.net.twin = 0, 0, 0
	for _, m := range w.members {
		m.paused, m.slowDisk, m.hungDisk = 0, 0, 0
		m.restart()
	}
}
