package sim

import (
	"go.etcd.io/raft/v3/raftpb"

	"github.com/dolmen-io/dolmen/internal/state"
)

// checks are all checkers. They see what every member does and what every client is told, and change nothing.
type checks struct {
	log       logCheck
	revisions revisionCheck
	sums      sumCheck
	data      dataCheck
	leases    leaseCheck
	stalls    stallCheck
}

func newChecks(w *world) checks {
	return checks{
		log:       newLogCheck(w),
		revisions: newRevisionCheck(w),
		sums:      sumCheck{world: w, at: map[uint64]contentSum{}},
		data:      dataCheck{world: w, seen: map[string][]string{}},
		leases:    newLeaseCheck(w),
		stalls:    stallCheck{w},
	}
}

// began is told of a member that has opened what is on its disk.
func (w *world) began(m *member, hs *raftpb.HardState) { w.log.began(m, hs) }

// says is told of each message that a member sends.
func (w *world) says(m *member, msg *raftpb.Message) {
	w.log.says(m, msg)
	w.stalls.says(m, msg)
}

// leads is told after each turn of a leader.
func (w *world) leads(m *member, term uint64) { w.log.leads(m, term) }

// committed is told of each entry before it is applied.
func (w *world) committed(m *member, e *raftpb.Entry) { w.log.committed(m, e) }

// flushed is told when a member's engine has become durable.
func (w *world) flushed(m *member, index uint64) { w.log.flushed(m, index) }

// applied is told of each turn.
func (w *world) applied(m *member, entries []state.Entry, turn *state.Turn) {
	last := entries[len(entries)-1].Index
	w.leases.applied(m, last, turn)
	w.revisions.applied(m, last, turn)
	w.log.applied(m, last)
}

// hashed is told when a member's engine has changed.
func (w *world) hashed(m *member) { w.sums.changed(m) }

// finish checks what can be known at the end only.
func (w *world) finish() {
	if w.failure != nil {
		return
	}
	w.sums.finish()
	w.data.finish()
	w.data.linearizable()
	for _, x := range w.watches {
		x.finish()
	}
}
