package etcdapi

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/state"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// fakeOperator applies membership changes at once. Member 22 is the one that answers.
type fakeOperator struct {
	*member
	connected map[uint64]membership.Connected
	matches   map[uint64]uint64 // nil: not the leader
	fail      error
	moved     uint64
	defrags   int
}

func (o *fakeOperator) Reconfigure(_ context.Context, c membership.Change) ([]membership.Member, error) {
	if o.fail != nil {
		return nil, o.fail
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	text, err := c.Context()
	if err != nil {
		return nil, err
	}
	kind := raftpb.ConfChangeType(c.Kind)
	turn, err := o.state.Apply([]state.Entry{{Index: o.state.Applied().Index + 1, Term: 1, Conf: &raftpb.ConfChange{
		Id: new(uint64(1)), Type: &kind, NodeId: &c.ID, Context: text,
	}}})
	if err != nil {
		return nil, err
	}
	res := turn.Outcomes[0].Result
	return res.Response.(state.MembersResponse).Members, res.Err
}

func (o *fakeOperator) Connected(id uint64) membership.Connected { return o.connected[id] }

func (o *fakeOperator) Matches(context.Context) (map[uint64]uint64, error) { return o.matches, o.fail }

func (o *fakeOperator) PromoteByLeader(context.Context, uint64) ([]membership.Member, error) {
	return []membership.Member{{ID: 1, PeerURLs: []string{"http://leader:1"}}}, nil
}

func (o *fakeOperator) MoveLeader(_ context.Context, target uint64) error {
	o.moved = target
	return o.fail
}

func (o *fakeOperator) Defragment() { o.defrags++ }

// bootstrap makes member 22 the first of the cluster.
func (f *fixture) bootstrap(name string) {
	_, err := f.operator.Reconfigure(f.ctx, membership.Change{ID: 22, Member: membership.Member{
		ID: 22, PeerURLs: []string{"http://self:1"}, Name: name,
	}})
	require.NoError(f.t, err)
}

func requireStatus(t *testing.T, want, got error) {
	t.Helper()
	require.Equal(t, fmt.Sprint(want), fmt.Sprint(got))
}

func TestMemberChanges(t *testing.T) {
	f := newFixture(t)
	f.bootstrap("self")
	c := pb.NewClusterClient(f.conn)
	for _, urls := range [][]string{nil, {"http://a:1/x"}, {"a:1"}} {
		_, err := c.MemberAdd(f.ctx, &pb.MemberAddRequest{PeerURLs: urls})
		requireStatus(t, rpctypes.ErrGRPCMemberBadURLs, err)
		_, err = c.MemberUpdate(f.ctx, &pb.MemberUpdateRequest{ID: 22, PeerURLs: urls})
		requireStatus(t, rpctypes.ErrGRPCMemberBadURLs, err)
	}
	self := &pb.Member{ID: 22, Name: "self", PeerURLs: []string{"http://self:1"}}
	added, err := c.MemberAdd(f.ctx, &pb.MemberAddRequest{PeerURLs: []string{"http://b:1", "http://a:1"}, IsLearner: true})
	require.NoError(t, err)
	id := added.GetMember().GetID()
	learner := &pb.Member{ID: id, PeerURLs: []string{"http://a:1", "http://b:1"}, IsLearner: true}
	requireEqual(t, &pb.MemberAddResponse{Header: f.header(0), Member: learner, Members: byIDs(self, learner)}, added)

	_, err = c.MemberAdd(f.ctx, &pb.MemberAddRequest{PeerURLs: []string{"http://c:1"}, IsLearner: true})
	requireStatus(t, rpctypes.ErrGRPCTooManyLearners, err)
	_, err = c.MemberAdd(f.ctx, &pb.MemberAddRequest{PeerURLs: []string{"http://a:1"}})
	requireStatus(t, rpctypes.ErrGRPCPeerURLExist, err)

	_, err = c.MemberUpdate(f.ctx, &pb.MemberUpdateRequest{ID: 9, PeerURLs: []string{"http://z:1"}})
	requireStatus(t, rpctypes.ErrGRPCMemberNotFound, err)
	updated, err := c.MemberUpdate(f.ctx, &pb.MemberUpdateRequest{ID: id, PeerURLs: []string{"http://c:1"}})
	require.NoError(t, err)
	learner.PeerURLs = []string{"http://c:1"}
	requireEqual(t, &pb.MemberUpdateResponse{Header: f.header(0), Members: byIDs(self, learner)}, updated)

	_, err = c.MemberRemove(f.ctx, &pb.MemberRemoveRequest{ID: 22})
	requireStatus(t, notEnoughStarted, err)
	removed, err := c.MemberRemove(f.ctx, &pb.MemberRemoveRequest{ID: id})
	require.NoError(t, err)
	requireEqual(t, &pb.MemberRemoveResponse{Header: f.header(0), Members: []*pb.Member{self}}, removed)
	_, err = c.MemberRemove(f.ctx, &pb.MemberRemoveRequest{ID: id})
	requireStatus(t, rpctypes.ErrGRPCMemberNotFound, err)

	f.member.readErr = ErrTimeout
	_, err = c.MemberAdd(f.ctx, &pb.MemberAddRequest{PeerURLs: []string{"http://c:1"}})
	requireStatus(t, rpctypes.ErrGRPCTimeout, err)
}

func byIDs(a, b *pb.Member) []*pb.Member {
	if a.GetID() > b.GetID() {
		a, b = b, a
	}
	return []*pb.Member{a, b}
}

// TestStrictReconfiguration: the rules ask this member's connections, unless they are turned off.
func TestStrictReconfiguration(t *testing.T) {
	f := newFixture(t)
	f.bootstrap("self")
	_, err := f.operator.Reconfigure(f.ctx, membership.Change{ID: 23, Member: membership.Member{
		ID: 23, PeerURLs: []string{"http://other:1"}, Name: "other",
	}})
	require.NoError(t, err)
	c := pb.NewClusterClient(f.conn)
	add := &pb.MemberAddRequest{PeerURLs: []string{"http://c:1"}, IsLearner: true}
	_, err = c.MemberAdd(f.ctx, add)
	requireStatus(t, rpctypes.ErrGRPCUnhealthy, err)
	f.operator.connected = map[uint64]membership.Connected{23: {Now: true}}
	_, err = c.MemberRemove(f.ctx, &pb.MemberRemoveRequest{ID: 23})
	requireStatus(t, rpctypes.ErrGRPCUnhealthy, err)
	f.services.limits.StrictReconfig = false
	_, err = c.MemberAdd(f.ctx, add)
	require.NoError(t, err)
}

func TestMemberPromote(t *testing.T) {
	f := newFixture(t)
	f.bootstrap("self")
	c := pb.NewClusterClient(f.conn)
	added, err := c.MemberAdd(f.ctx, &pb.MemberAddRequest{PeerURLs: []string{"http://a:1"}, IsLearner: true})
	require.NoError(t, err)
	promote := func(id, match uint64) error {
		f.operator.matches = map[uint64]uint64{22: 1000, added.GetMember().GetID(): match}
		_, err := c.MemberPromote(f.ctx, &pb.MemberPromoteRequest{ID: id})
		return err
	}
	id := added.GetMember().GetID()
	requireStatus(t, rpctypes.ErrGRPCMemberNotFound, promote(9, 1000))
	requireStatus(t, rpctypes.ErrGRPCMemberNotLearner, promote(22, 1000))
	requireStatus(t, rpctypes.ErrGRPCLearnerNotReady, promote(id, 899))
	require.NoError(t, promote(id, 900))
	requireStatus(t, rpctypes.ErrGRPCMemberNotLearner, promote(id, 900))

	f.operator.matches = nil
	elsewhere, err := c.MemberPromote(f.ctx, &pb.MemberPromoteRequest{ID: id})
	require.NoError(t, err)
	require.Equal(t, "http://leader:1", elsewhere.GetMembers()[0].GetPeerURLs()[0], "the leader decides")
	f.operator.fail = ErrApplyTimeout
	_, err = c.MemberPromote(f.ctx, &pb.MemberPromoteRequest{ID: id})
	requireStatus(t, rpctypes.ErrGRPCTimeoutWaitAppliedIndex, err)
}

func TestMoveLeaderAndDefragment(t *testing.T) {
	f := newFixture(t)
	f.bootstrap("self")
	m := pb.NewMaintenanceClient(f.conn)
	move := func(id uint64) error {
		_, err := m.MoveLeader(f.ctx, &pb.MoveLeaderRequest{TargetID: id})
		return err
	}
	requireStatus(t, rpctypes.ErrGRPCNotLeader, move(22))
	f.member.status.Leader = 22
	requireStatus(t, rpctypes.ErrGRPCBadLeaderTransferee, move(9))
	require.NoError(t, move(22))
	require.Equal(t, uint64(22), f.operator.moved)
	f.operator.fail = ErrTransferTimeout
	require.ErrorContains(t, move(22), "code = Unknown desc = etcdserver: request timed out, leader transfer took too long")

	res, err := m.Defragment(f.ctx, &pb.DefragmentRequest{})
	require.NoError(t, err)
	requireEqual(t, &pb.DefragmentResponse{}, res)
	require.Equal(t, 1, f.operator.defrags)
}

func TestDowngrade(t *testing.T) {
	f := newFixture(t)
	m := pb.NewMaintenanceClient(f.conn)
	ask := func(action pb.DowngradeRequest_DowngradeAction, version string) (*pb.DowngradeResponse, error) {
		return m.Downgrade(f.ctx, &pb.DowngradeRequest{Action: action, Version: version})
	}
	_, err := ask(pb.DowngradeRequest_VALIDATE, "3.6")
	requireStatus(t, rpctypes.ErrGRPCClusterVersionUnavailable, err)
	_, err = f.member.Propose(f.ctx, &pb.InternalRaftRequest{ClusterVersionSet: &membershippb.ClusterVersionSetRequest{Ver: "3.7.0"}})
	require.NoError(t, err)
	for _, tc := range []struct {
		version string
		want    error
	}{
		{"", rpctypes.ErrGRPCWrongDowngradeVersionFormat}, {"3", rpctypes.ErrGRPCWrongDowngradeVersionFormat},
		{"3.7", rpctypes.ErrGRPCInvalidDowngradeTargetVersion}, {"3.5", rpctypes.ErrGRPCInvalidDowngradeTargetVersion},
		{"2.6.0", rpctypes.ErrGRPCInvalidDowngradeTargetVersion},
	} {
		for _, action := range []pb.DowngradeRequest_DowngradeAction{pb.DowngradeRequest_VALIDATE, pb.DowngradeRequest_ENABLE} {
			_, err := ask(action, tc.version)
			requireStatus(t, tc.want, err)
		}
	}
	_, err = ask(3, "3.6")
	require.ErrorContains(t, err, "code = Unknown desc = etcdserver: unknown method")

	want := &pb.DowngradeResponse{Header: f.header(1), Version: "3.7"}
	for _, action := range []pb.DowngradeRequest_DowngradeAction{
		pb.DowngradeRequest_CANCEL, pb.DowngradeRequest_VALIDATE, pb.DowngradeRequest_ENABLE,
	} {
		got, err := ask(action, "3.6")
		require.NoError(t, err)
		requireEqual(t, want, got)
	}
	v := f.member.state.View()
	require.Equal(t, membership.Downgrade{TargetVersion: "3.6.0", Enabled: true}, v.Members.Downgrade())
	v.Release()
	_, err = ask(pb.DowngradeRequest_VALIDATE, "3.6")
	requireStatus(t, rpctypes.ErrGRPCDowngradeInProcess, err)
	_, err = ask(pb.DowngradeRequest_CANCEL, "")
	require.NoError(t, err)
	v = f.member.state.View()
	defer v.Release()
	require.False(t, v.Members.Downgrade().Enabled)
}

// TestOperatorsAreAdministrators: nobody else gets as far as the checks.
func TestOperatorsAreAdministrators(t *testing.T) {
	s := newSecured(t)
	c, m := pb.NewClusterClient(s.conn), pb.NewMaintenanceClient(s.conn)
	urls := []string{"http://a:1"}
	for name, ask := range map[string]func(context.Context) error{
		"MemberAdd": func(ctx context.Context) error {
			return second(c.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: urls}))
		},
		"MemberRemove": func(ctx context.Context) error { return second(c.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: 1})) },
		"MemberUpdate": func(ctx context.Context) error {
			return second(c.MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: 1, PeerURLs: urls}))
		},
		"MemberPromote": func(ctx context.Context) error {
			return second(c.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: 1}))
		},
		"MoveLeader": func(ctx context.Context) error { return second(m.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: 1})) },
		"Defragment": func(ctx context.Context) error { return second(m.Defragment(ctx, &pb.DefragmentRequest{})) },
		"Downgrade":  func(ctx context.Context) error { return second(m.Downgrade(ctx, &pb.DowngradeRequest{})) },
	} {
		requireStatus(t, rpctypes.ErrGRPCUserEmpty, ask(s.ctx))
		requireStatus(t, rpctypes.ErrGRPCPermissionDenied, ask(s.u))
		if err := ask(s.root); err != nil {
			require.NotContains(t, err.Error(), "permission", name)
		}
	}
	require.Equal(t, 1, s.operator.defrags)
}
