package node

import (
	"math"
	"sync/atomic"

	"github.com/dolmen-io/dolmen/internal/state"
	"github.com/dolmen-io/dolmen/internal/watch"
)

// replacements counts how often a snapshot of another member takes the state's place: up before it begins, and up again
// when it is done. Who compares sees whether what was read was of one state.
type replacements struct {
	count atomic.Uint64
	// done tells how far count has come with the replacement done.
	done *milestones
	// failed says that one has ended halfway: the engine holds one state, and views are of another.
	failed atomic.Bool
}

func newReplacements() *replacements { return &replacements{done: newMilestones(0)} }

func (r *replacements) begin() { r.count.Add(1) }

func (r *replacements) end(done bool) {
	if !done {
		r.failed.Store(true)
		r.done.reach(math.MaxUint64)
		return
	}
	r.done.reach(r.count.Add(1))
}

// history is the state as watchers read it.
type history struct {
	state    *state.State
	replaced *replacements
}

// Events implements watch.History. The engine is replaced before the views are, so a view may find less in it than it
// knows of: what a compaction has taken from the new one.
func (h history) Events(from, to int64, key, end []byte, fn func(watch.Event) bool) error {
	before := h.replaced.count.Load()
	if err := h.state.Events(from, to, key, end, fn); err != nil {
		return err
	}
	after := h.replaced.count.Load()
	if before == after && before%2 == 0 {
		return nil
	}
	done, forget := h.replaced.done.wait(after + after%2)
	defer forget()
	<-done
	if h.replaced.failed.Load() {
		return state.ErrReplaced
	}
	if _, compacted := h.state.Revisions(); from < compacted {
		return watch.ErrCompacted
	}
	return nil // a revision holds the same wherever it is still there
}

// Revisions implements watch.History.
func (h history) Revisions() (current, compacted int64) { return h.state.Revisions() }
