package etcdapi

import (
	"context"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"google.golang.org/grpc/metadata"

	"github.com/dolmen-io/dolmen/internal/membership"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// readyShare is the part of the leader's log that a learner must have before it may vote, etcd's figure.
const readyShare = 0.9

// MemberAdd implements pb.ClusterServer.
func (s cluster) MemberAdd(ctx context.Context, r *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	urls, err := types.NewURLs(r.GetPeerURLs())
	if err != nil {
		return nil, rpctypes.ErrGRPCMemberBadURLs
	}
	if err := s.authorizeAdmin(ctx); err != nil {
		return nil, toStatus(err)
	}
	now := time.Now()
	m := membership.NewMember("", urls.StringSlice(), "", r.GetIsLearner(), &now)
	if err := s.mayChange(ctx, func(v *membership.View, self uint64) error {
		return v.MayAdd(m.IsLearner, self, s.operator.Connected)
	}); err != nil {
		return nil, toStatus(err)
	}
	change := membership.Change{Kind: membership.AddNode, ID: m.ID, Member: m}
	if m.IsLearner {
		change.Kind = membership.AddLearnerNode
	}
	members, err := s.operator.Reconfigure(ctx, change)
	if err != nil {
		return nil, toStatus(err)
	}
	return &pb.MemberAddResponse{Header: s.header(0), Member: protoMember(m), Members: protoMembers(members)}, nil
}

// mayChange asks a rule that protects the quorum, unless the operator has turned that off.
func (s cluster) mayChange(ctx context.Context, rule func(v *membership.View, self uint64) error) error {
	if !s.limits.StrictReconfig {
		return nil
	}
	v, err := s.member.Read(ctx, false)
	if err != nil {
		return err
	}
	defer v.Release()
	return rule(v.Members, s.member.Header().Member)
}

// MemberRemove implements pb.ClusterServer.
func (s cluster) MemberRemove(ctx context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	if err := s.authorizeAdmin(ctx); err != nil {
		return nil, toStatus(err)
	}
	if err := s.mayChange(ctx, func(v *membership.View, self uint64) error {
		return v.MayRemove(r.GetID(), self, s.operator.Connected)
	}); err != nil {
		return nil, toStatus(err)
	}
	members, err := s.operator.Reconfigure(ctx, membership.Change{Kind: membership.RemoveNode, ID: r.GetID()})
	if err != nil {
		return nil, toStatus(err)
	}
	return &pb.MemberRemoveResponse{Header: s.header(0), Members: protoMembers(members)}, nil
}

// MemberUpdate implements pb.ClusterServer. Etcd takes any text for a URL and dies of it later.
func (s cluster) MemberUpdate(ctx context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	if err := s.authorizeAdmin(ctx); err != nil {
		return nil, toStatus(err)
	}
	if _, err := types.NewURLs(r.GetPeerURLs()); err != nil {
		return nil, rpctypes.ErrGRPCMemberBadURLs
	}
	members, err := s.operator.Reconfigure(ctx, membership.Change{
		Kind: membership.UpdateNode, ID: r.GetID(), Member: membership.Member{ID: r.GetID(), PeerURLs: r.GetPeerURLs()},
	})
	if err != nil {
		return nil, toStatus(err)
	}
	return &pb.MemberUpdateResponse{Header: s.header(0), Members: protoMembers(members)}, nil
}

// MemberPromote implements pb.ClusterServer.
func (s cluster) MemberPromote(ctx context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	members, err := s.promote(ctx, r.GetID())
	if err != nil {
		return nil, toStatus(err)
	}
	return &pb.MemberPromoteResponse{Header: s.header(0), Members: protoMembers(members)}, nil
}

// Promote gives a learner its vote in the name of whom a token stands for, as another member was asked to.
func (s *Services) Promote(ctx context.Context, token string, id uint64) ([]membership.Member, error) {
	if token != "" {
		ctx = metadata.NewIncomingContext(ctx, metadata.Pairs(rpctypes.TokenFieldNameGRPC, token))
	}
	return cluster{Services: s}.promote(ctx, id)
}

func (s cluster) promote(ctx context.Context, id uint64) ([]membership.Member, error) {
	if err := s.authorizeAdmin(ctx); err != nil {
		return nil, err
	}
	// Only the leader knows how far a learner is.
	matches, err := s.operator.Matches(ctx)
	if err != nil {
		return nil, err
	}
	if matches == nil {
		return s.operator.PromoteByLeader(ctx, id)
	}
	match, found := matches[id]
	if !found {
		return nil, membership.ErrNotFound
	}
	if float64(match) < readyShare*float64(matches[s.member.Header().Member]) {
		return nil, rpctypes.ErrGRPCLearnerNotReady
	}
	if err := s.mayChange(ctx, func(v *membership.View, _ uint64) error { return v.MayPromote() }); err != nil {
		return nil, err
	}
	return s.operator.Reconfigure(ctx, membership.Change{
		Kind: membership.AddNode, ID: id, Member: membership.Member{ID: id}, Promote: true,
	})
}

func protoMember(m membership.Member) *pb.Member {
	return &pb.Member{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, IsLearner: m.IsLearner}
}

func protoMembers(members []membership.Member) []*pb.Member {
	all := make([]*pb.Member, 0, len(members))
	for _, m := range members {
		all = append(all, protoMember(m))
	}
	return all
}
