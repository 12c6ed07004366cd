package consensus

import (
	"slices"
	"strconv"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"go.uber.org/zap"
)

// Ticks do not wait for the disk, and the others need not either: a leader whose disk hangs goes on to send entries and
// heartbeats, and they commit without it. Only this member's clients would wait, and lease work, and everybody once
// one more member fails. So a leader whose log writer has been silent for an election timeout, as long as the others
// bear a leader that they do not hear, hands over to a member that has proved to be able to write. And none whose disk
// hangs asks for votes: with those of the others it could come to lead without its own, in a term that it would
// forget in a crash.

// handOverPause is how many election timeouts a member waits before it hands over again. It bounds how often leadership
// moves when all disks are bad, and how much of the time proposals are refused if nobody takes over: raft
// gives a transfer up after one election timeout.
const handOverPause = 10

// stall knows for how long the log writer has been silent while something waits for it. It is pure; time is in ticks.
type stall struct {
	bound    uint64 // from which on the disk counts as stalled
	waiting  []*raftpb.Message
	since    uint64 // when it last was idle, or was heard of
	recorded recorded
}

// handed notes what the writer is given. A message that only moves the commit index does not count: it is written with
// the next, whenever that comes. Nor does a checkpoint, for which nobody waits: what waits behind one that hangs counts from
// when it was handed over.
func (s *stall) handed(now uint64, msgs []*raftpb.Message) {
	if len(s.waiting) == 0 {
		s.since = now
	}
	for _, m := range msgs {
		if !s.recorded.idle(m) {
			s.waiting = append(s.waiting, m)
		}
	}
}

// written notes what has come back, in the order in which it was handed over.
func (s *stall) written(now uint64, msgs []*raftpb.Message) {
	s.since = now
	for _, m := range msgs {
		if at := slices.Index(s.waiting, m); at >= 0 {
			clear(s.waiting[:at+1])
			s.waiting = s.waiting[at+1:]
		}
	}
}

func (s *stall) over(now uint64) bool { return len(s.waiting) > 0 && now-s.since >= s.bound }

// lookAtDisk tells the core, and the log, when the disk begins to stall and when it writes again.
func (l *loop) lookAtDisk() {
	stalled := l.disk.over(l.now)
	if stalled == l.core.stalled {
		return
	}
	l.core.stalled = stalled
	if !stalled {
		l.node.cfg.Logger.Info("the disk of the raft log writes again", zap.Uint64("stalls", l.node.counters.DiskStalls.Load()))
		return
	}
	l.node.counters.DiskStalls.Add(1)
	l.node.cfg.Logger.Warn("the disk of the raft log does not come back from a write; until it does this member hands leadership over and does not campaign",
		zap.Duration("since", l.duration(l.now-l.disk.since)), zap.Int("writes-waiting", len(l.disk.waiting)))
}

func (l *loop) duration(ticks uint64) time.Duration {
	return time.Duration(ticks) * l.node.cfg.TickInterval
}

// handOver begins to hand leadership over if the disk stalls and somebody can take it.
func (l *loop) handOver() {
	if !l.core.stalled || l.now < l.nextHandOver {
		return
	}
	to := l.core.successor()
	if to == raft.None {
		return
	}
	l.nextHandOver = l.now + handOverPause*uint64(l.node.cfg.ElectionTicks)
	l.node.counters.StallHandOvers.Add(1)
	l.node.cfg.Logger.Warn("handing leadership over because the disk stalls",
		zap.Duration("since", l.duration(l.now-l.disk.since)), zap.String("transferee-member-id", strconv.FormatUint(to, 16)))
	l.core.rn.TransferLeader(to)
}

// successor returns the voter that should lead if this leader's disk hangs, None if that would help nobody. The others
// must have committed what is not durable here: then a quorum of them can write, and elect.
func (c *core) successor() uint64 {
	st := c.rn.BasicStatus()
	if st.RaftState != raft.StateLeader || st.LeadTransferee != raft.None || st.GetCommit() <= c.tail.last() {
		return raft.None
	}
	best, match := raft.None, st.GetCommit()
	c.rn.WithProgress(func(id uint64, kind raft.ProgressType, p tracker.Progress) {
		switch {
		case id == c.id, kind != raft.ProgressTypePeer, !p.RecentActive, p.Match < match:
		case p.Match > match, best == raft.None, id < best: // progress comes in no order
			best, match = id, p.Match
		}
	})
	return best
}
