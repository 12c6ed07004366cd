package sim

import "time"

// shape is what a seed's world is like. Seeds differ in it on purpose: what goes wrong rarely beside everything else goes
// wrong often where it is alone.
type shape struct {
	members int
	clients int
	keys    int // over which clients meet: few, so that they do
	// flushEvery is after how many entries an engine is flushed, keep how many stay in memory for members that lag:
	// little, so that a member that was away for a moment gets a snapshot.
	flushEvery int
	keep       uint64
	pace       time.Duration // the longest pause between two faults
	faults     []fault       // each as often as it is likely
	hangs      bool          // disks that are slow may stand still
}

func (w *world) drawShape() shape {
	s := shape{
		members:    pick(w, []int{3, 3, 5}),
		clients:    3 + w.rng.IntN(10),
		keys:       2 + w.rng.IntN(9),
		flushEvery: pick(w, []int{20, 60, 150}),
		keep:       pick(w, []uint64{0, 10, 40}),
		pace:       w.between(1500*time.Millisecond, 6*time.Second),
		hangs:      w.seed%2 == 0, // not drawn, so that it changes nothing else
	}
	for f, most := range faultWeights {
		least := 1
		if w.chance(40) && fault(f) != transferring && fault(f) != crashing {
			least, most = 0, 0
		}
		for range least + w.rng.IntN(most+1) {
			s.faults = append(s.faults, fault(f))
		}
	}
	return s
}

// fault is a kind of what goes wrong.
type fault int

const (
	crashing fault = iota
	powerCut
	shuttingDown
	partitioning
	slowing
	pausing
	transferring
	losing
)

// faultWeights is how much more often than others each may be at most. A seed does without most of those that it need
// not have; changes of the leader and members that fall behind each has.
var faultWeights = [...]int{crashing: 25, powerCut: 3, shuttingDown: 6, partitioning: 25, slowing: 10, pausing: 10, transferring: 15, losing: 10}
