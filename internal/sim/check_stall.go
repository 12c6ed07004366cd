package sim

import "go.etcd.io/raft/v3/raftpb"

// stallCheck holds that nobody asks for votes while its disk hangs: it could not record that it leads.
type stallCheck struct{ *world }

func (c stallCheck) says(m *member, msg *raftpb.Message) {
	switch msg.GetType() {
	case raftpb.MsgVote, raftpb.MsgPreVote:
	default:
		return
	}
	// A write of two messages may be found slow one tick late: the second was handed over after the first.
	if silent := m.ticks - m.writingSince; m.writing && m.appending && silent > electionTicks+1 {
		c.violated("stall", "%s asks %x for its vote, and its disk has not come back from a write for %d ticks", m.name, msg.GetTo(), silent)
	}
}
