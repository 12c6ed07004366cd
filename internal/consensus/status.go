package consensus

import (
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
)

// Status is a member's view of the cluster at the end of a turn of the loop.
type Status struct {
	ID   uint64
	Lead uint64 // 0 if unknown
	// Elected is when this member learnt of the newest leader, also if that is known no more. Zero before the first.
	Elected   time.Time
	Term      uint64
	Commit    uint64
	Applied   uint64 // as told by Applied
	RaftState raft.StateType
	IsLearner bool
	Voters    []uint64 // ascending; must not be changed

	// SoleVoter says that a linearizable read needs no round: this member leads, is the only voter, and what was
	// acknowledged before its term is applied. It must be read before the state is.
	SoleVoter bool

	// DiskStalled says that the raft log's disk does not come back from a write.
	DiskStalled bool
}

func (s *Status) equal(t *Status) bool {
	return s.Lead == t.Lead && s.Term == t.Term && s.Commit == t.Commit && s.Applied == t.Applied &&
		s.RaftState == t.RaftState && s.IsLearner == t.IsLearner && s.SoleVoter == t.SoleVoter && s.DiskStalled == t.DiskStalled &&
		len(s.Voters) == len(t.Voters) && (len(s.Voters) == 0 || &s.Voters[0] == &t.Voters[0])
}

// Counters counts since Open. They are for metrics: each is read by itself.
type Counters struct {
	Turns            atomic.Uint64 // of the loop
	Proposed         atomic.Uint64 // entries that raft took
	ProposalsDropped atomic.Uint64 // Dropped was called
	ProposalsRefused atomic.Uint64 // Propose returned ErrBusy
	Appends          atomic.Uint64 // calls of Log.Append
	AppendedEntries  atomic.Uint64
	ReadRounds       atomic.Uint64 // read-index rounds begun
	SlowReadRounds   atomic.Uint64 // rounds repeated because no answer came
	ReadsFailed      atomic.Uint64
	LeaderChanges    atomic.Uint64 // to a leader: losing one counts only when there is the next, as in etcd
	DiskStalls       atomic.Uint64 // how often the disk has stalled
	StallHandOvers   atomic.Uint64 // transfers of leadership begun because of that
}
