package consensus

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// takeMessages hands raft what other members have sent.
func (l *loop) takeMessages(msgs []*raftpb.Message) {
	for _, m := range msgs {
		if m.GetType() == raftpb.MsgProp && l.core.rn.BasicStatus().RaftState == raft.StateLeader {
			l.takeForwarded(m.GetEntries())
			continue
		}
		l.core.step(m)
	}
}

// takeForwarded proposes what other members forward to this one as their leader. What raft does not take now waits with
// this member's own proposals: who made it would not hear that it is lost.
func (l *loop) takeForwarded(ents []*raftpb.Entry) {
	v, replaced := l.core.propose(ents)
	switch v {
	case retry:
		l.queue(ents)
	case accepted:
		for _, i := range replaced {
			l.queue(ents[i : i+1])
		}
	}
}

// queue lets forwarded proposals wait if the bounds allow it. Those above them are lost.
func (l *loop) queue(ents []*raftpb.Entry) {
	if !l.node.inbox.admit(len(ents), int(payload(ents))) {
		l.node.counters.ProposalsRefused.Add(uint64(len(ents)))
		return
	}
	for _, e := range ents {
		l.waiting = append(l.waiting, waitingProposal{Proposal: Proposal{Type: e.GetType(), Data: e.GetData()}, since: l.now})
	}
}
