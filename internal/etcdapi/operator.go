package etcdapi

import (
	"context"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/dolmen-io/dolmen/internal/membership"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Operator is what those who run the cluster ask of a member.
type Operator interface {
	// Reconfigure hands a membership change to the log and returns all members after it, when it is applied
	// here and raft has taken it. A change that is not possible is rejected with the errors of
	// membership.Table.Check; otherwise errors are those of Member.Propose.
	Reconfigure(ctx context.Context, c membership.Change) ([]membership.Member, error)

	// Connected says how this member stands to another one.
	Connected(id uint64) membership.Connected

	// Matches returns up to which index each member's log is known to match this one's, or nil if this member
	// does not lead. Errors: ErrApplyTimeout, consensus.ErrBusy, consensus.ErrStopped or the context's.
	Matches(ctx context.Context) (map[uint64]uint64, error)

	// PromoteByLeader has the leader, another member, promote a learner. It waits for a leader; without one
	// it returns ErrNoLeader.
	PromoteByLeader(ctx context.Context, id uint64) ([]membership.Member, error)

	// MoveLeader hands leadership from this member to another voter, and returns when that one leads.
	// Errors: ErrTransferTimeout at the context's end, consensus.ErrStopped.
	MoveLeader(ctx context.Context, target uint64) error

	// Defragment has the engine reclaim what space it can, in the background. It returns at once.
	Defragment()
}

// MoveLeader implements pb.MaintenanceServer.
func (s maintenance) MoveLeader(ctx context.Context, r *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	if err := s.authorizeAdmin(ctx); err != nil {
		return nil, toStatus(err)
	}
	self := s.member.Header().Member
	if s.member.Status().Leader != self {
		return nil, rpctypes.ErrGRPCNotLeader
	}
	v, err := s.member.Read(ctx, false)
	if err != nil {
		return nil, toStatus(err)
	}
	m, found := v.Members.Member(r.GetTargetID())
	v.Release()
	if !found || m.IsLearner {
		return nil, rpctypes.ErrGRPCBadLeaderTransferee
	}
	if err := s.operator.MoveLeader(ctx, m.ID); err != nil {
		return nil, toStatus(err)
	}
	return &pb.MoveLeaderResponse{}, nil
}

// Defragment implements pb.MaintenanceServer. There is nothing to defragment, and nothing to wait for: a
// client that waited for a compaction of the engine would give up on a large one.
func (s maintenance) Defragment(ctx context.Context, _ *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	if err := s.authorizeAdmin(ctx); err != nil {
		return nil, toStatus(err)
	}
	s.operator.Defragment()
	return &pb.DefragmentResponse{}, nil
}
