package consensus

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"
)

// NextConfState returns the configuration after a change, as raft will compute it. The applier stores it with the
// applied index of the batch that ends at the change; Batch.ConfState is the configuration before. A rejected change
// (see ConfChange) leaves the configuration as it is. It fails if raft would refuse the change, for example because
// no voter would remain; such a change must be rejected. cs is not modified.
func NextConfState(cs *raftpb.ConfState, cc ConfChange) (*raftpb.ConfState, error) {
	cs = cloneConfState(cs)
	if cc.Rejected {
		return cs, nil
	}
	if cc.ConfChange == nil {
		return nil, errors.New("next configuration: no change given")
	}
	changer := confchange.Changer{Tracker: tracker.MakeProgressTracker(1, 0)}
	cfg, progress, err := confchange.Restore(changer, cs)
	if err != nil {
		return nil, fmt.Errorf("next configuration: restore %v: %w", cs, err)
	}
	changer.Tracker.Config, changer.Tracker.Progress = cfg, progress
	cfg, progress, err = changer.Simple(cc.AsV2().Changes...)
	if err != nil {
		return nil, fmt.Errorf("next configuration: %v of member %x: %w", cc.GetType(), cc.GetNodeId(), err)
	}
	changer.Tracker.Config, changer.Tracker.Progress = cfg, progress
	return changer.Tracker.ConfState(), nil
}

// forRaft is the change as raft is told of it: a rejected one with node id 0, as etcd does, so that raft knows that
// the change is no longer pending.
func (cc ConfChange) forRaft() *raftpb.ConfChange {
	if !cc.Rejected {
		return cc.ConfChange
	}
	out := &raftpb.ConfChange{}
	if cc.ConfChange != nil {
		out = proto.Clone(cc.ConfChange).(*raftpb.ConfChange)
	}
	out.NodeId = new(uint64)
	return out
}

// cloneConfState returns a copy that shares nothing, an empty configuration for nil.
func cloneConfState(cs *raftpb.ConfState) *raftpb.ConfState {
	if cs == nil {
		return raftpb.EnsureConfState(nil)
	}
	return raftpb.EnsureConfState(proto.Clone(cs).(*raftpb.ConfState))
}

func isConfChange(e *raftpb.Entry) bool { return e.GetType() != raftpb.EntryNormal }

// soleVoter reports whether id is the only voter, in no joint configuration.
func soleVoter(cs *raftpb.ConfState, id uint64) bool {
	return len(cs.GetVoters()) == 1 && cs.GetVoters()[0] == id && len(cs.GetVotersOutgoing()) == 0
}

// member reports whether id votes or learns.
func member(cs *raftpb.ConfState, id uint64) bool {
	return slices.Contains(cs.GetVoters(), id) || slices.Contains(cs.GetVotersOutgoing(), id) ||
		slices.Contains(cs.GetLearners(), id) || slices.Contains(cs.GetLearnersNext(), id)
}
