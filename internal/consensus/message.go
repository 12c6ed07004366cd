package consensus

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// checkMessage refuses messages on which raft would panic, or which it must not see: a member that sends them is
// broken, and must not break us.
func checkMessage(m *raftpb.Message) error {
	switch {
	case m == nil:
		return errors.New("no message")
	case raft.IsLocalMsg(m.GetType()):
		return fmt.Errorf("%v never crosses between members", m.GetType())
	case m.GetFrom() == raft.None, raft.IsLocalMsgTarget(m.GetFrom()):
		return fmt.Errorf("%x is no member id", m.GetFrom())
	}
	switch m.GetType() {
	case raftpb.MsgSnap:
		meta := m.GetSnapshot().GetMetadata()
		if meta.GetIndex() == 0 || meta.GetTerm() == 0 || len(meta.GetConfState().GetVoters()) == 0 {
			return fmt.Errorf("a snapshot at index %d of term %d with %d voters", meta.GetIndex(), meta.GetTerm(),
				len(meta.GetConfState().GetVoters()))
		}
	case raftpb.MsgProp:
		return checkProposals(m.GetEntries())
	case raftpb.MsgApp:
		for i, e := range m.GetEntries() {
			if e.GetIndex() != m.GetIndex()+1+uint64(i) {
				return fmt.Errorf("entry %d follows on index %d", e.GetIndex(), m.GetIndex()+uint64(i))
			}
		}
	case raftpb.MsgReadIndex, raftpb.MsgReadIndexResp:
		if len(m.GetEntries()) != 1 {
			return fmt.Errorf("%v with %d entries, not one", m.GetType(), len(m.GetEntries()))
		}
	case raftpb.MsgHeartbeatResp:
		if n := len(m.GetContext()); n > 0 && n < 8 {
			return fmt.Errorf("heartbeat context of %d bytes", n)
		}
	}
	return nil
}

func checkProposals(ents []*raftpb.Entry) error {
	if len(ents) == 0 {
		return errors.New("proposal without entries")
	}
	for _, e := range ents {
		var into proto.Message
		switch e.GetType() {
		case raftpb.EntryNormal:
			continue
		case raftpb.EntryConfChange:
			into = &raftpb.ConfChange{}
		case raftpb.EntryConfChangeV2:
			into = &raftpb.ConfChangeV2{}
		default:
			return fmt.Errorf("proposal of unknown entry type %d", e.GetType())
		}
		if err := proto.Unmarshal(e.GetData(), into); err != nil {
			return fmt.Errorf("proposal of a conf change: %w", err)
		}
	}
	return nil
}
