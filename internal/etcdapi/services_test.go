package etcdapi

import (
	"context"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/dolmen-io/dolmen/internal/lease"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestLease(t *testing.T) {
	f := newFixture(t)
	grant, err := f.lease.LeaseGrant(f.ctx, &pb.LeaseGrantRequest{ID: 7, TTL: 60})
	require.NoError(t, err)
	requireEqual(t, &pb.LeaseGrantResponse{Header: f.header(1), ID: 7, TTL: 60}, grant)
	_, err = f.lease.LeaseGrant(f.ctx, &pb.LeaseGrantRequest{ID: 7, TTL: 60})
	require.Equal(t, rpctypes.ErrGRPCLeaseExist.Error(), fmt.Sprint(err))
	_, err = f.lease.LeaseGrant(f.ctx, &pb.LeaseGrantRequest{ID: 8, TTL: math.MaxInt64})
	require.Equal(t, rpctypes.ErrGRPCLeaseTTLTooLarge.Error(), fmt.Sprint(err))
	_, err = f.lease.LeaseGrant(f.ctx, &pb.LeaseGrantRequest{ID: 9, TTL: 1})
	require.NoError(t, err)
	for _, key := range []string{"b", "a"} {
		_, err = f.kv.Put(f.ctx, &pb.PutRequest{Key: []byte(key), Lease: 7})
		require.NoError(t, err)
	}

	list, err := f.lease.LeaseLeases(f.ctx, &pb.LeaseLeasesRequest{})
	require.NoError(t, err)
	requireEqual(t, &pb.LeaseLeasesResponse{Header: f.header(3), Leases: []*pb.LeaseStatus{{ID: 9}, {ID: 7}}}, list)

	revoke, err := f.lease.LeaseRevoke(f.ctx, &pb.LeaseRevokeRequest{ID: 7})
	require.NoError(t, err)
	requireEqual(t, &pb.LeaseRevokeResponse{Header: f.header(4)}, revoke)
	_, err = f.lease.LeaseRevoke(f.ctx, &pb.LeaseRevokeRequest{ID: 7})
	require.Equal(t, rpctypes.ErrGRPCLeaseNotFound.Error(), fmt.Sprint(err))

	chosen, err := f.lease.LeaseGrant(f.ctx, &pb.LeaseGrantRequest{TTL: 60})
	require.NoError(t, err)
	require.Positive(t, chosen.GetID())
}

func TestLeaseTimeToLive(t *testing.T) {
	f := newFixture(t)
	_, err := f.lease.LeaseGrant(f.ctx, &pb.LeaseGrantRequest{ID: 7, TTL: 60})
	require.NoError(t, err)
	_, err = f.kv.Put(f.ctx, &pb.PutRequest{Key: []byte("a"), Lease: 7})
	require.NoError(t, err)
	for _, tc := range []struct {
		left time.Duration
		ttl  int64
	}{
		{60 * time.Second, 60}, {59*time.Second + 999*time.Millisecond, 59}, {time.Millisecond, 0},
		{-time.Millisecond, 0}, {-1500 * time.Millisecond, -1}, {math.MaxInt64, 60},
	} {
		f.clock.left = tc.left
		got, err := f.lease.LeaseTimeToLive(f.ctx, &pb.LeaseTimeToLiveRequest{ID: 7})
		require.NoError(t, err)
		requireEqual(t, &pb.LeaseTimeToLiveResponse{Header: f.header(2), ID: 7, TTL: tc.ttl, GrantedTTL: 60}, got)
	}
	got, err := f.lease.LeaseTimeToLive(f.ctx, &pb.LeaseTimeToLiveRequest{ID: 7, Keys: true})
	require.NoError(t, err)
	require.Equal(t, [][]byte{[]byte("a")}, got.GetKeys())
	got, err = f.lease.LeaseTimeToLive(f.ctx, &pb.LeaseTimeToLiveRequest{ID: 8, Keys: true})
	require.NoError(t, err)
	requireEqual(t, &pb.LeaseTimeToLiveResponse{Header: f.header(2), ID: 8, TTL: -1}, got)
	f.clock.fail = lease.ErrNotPrimary
	_, err = f.lease.LeaseTimeToLive(f.ctx, &pb.LeaseTimeToLiveRequest{ID: 7})
	require.ErrorContains(t, err, "not a primary lessor")
}

func TestLeaseKeepAlive(t *testing.T) {
	f := newFixture(t)
	_, err := f.lease.LeaseGrant(f.ctx, &pb.LeaseGrantRequest{ID: 7, TTL: 60})
	require.NoError(t, err)
	f.put("a", "1")
	s, err := f.lease.LeaseKeepAlive(f.ctx)
	require.NoError(t, err)
	for id, ttl := range map[int64]int64{7: 60, 8: 0} { // a lease that is not there has no time, which is no error
		require.NoError(t, s.Send(&pb.LeaseKeepAliveRequest{ID: id}))
		got, err := s.Recv()
		require.NoError(t, err)
		requireEqual(t, &pb.LeaseKeepAliveResponse{Header: f.header(2), ID: id, TTL: ttl}, got)
	}
	require.NoError(t, s.CloseSend())
	_, err = s.Recv()
	require.EqualError(t, err, "EOF")

	for name, fail := range map[string]func(){
		rpctypes.ErrGRPCTimeout.Error(): func() { f.clock.fail = ErrTimeout },
		rpctypes.ErrGRPCStopped.Error(): func() { f.member.readErr = rpctypes.ErrGRPCStopped },
	} {
		fail()
		s, err = f.lease.LeaseKeepAlive(f.ctx)
		require.NoError(t, err)
		require.NoError(t, s.Send(&pb.LeaseKeepAliveRequest{ID: 7}))
		_, err = s.Recv()
		require.Equal(t, name, fmt.Sprint(err))
		f.clock.fail, f.member.readErr = nil, nil
	}
	ctx, cancel := context.WithCancel(f.ctx)
	s, err = f.lease.LeaseKeepAlive(ctx)
	require.NoError(t, err)
	cancel()
	_, err = s.Recv()
	require.ErrorContains(t, err, "canceled")
}

func TestNewLeaseID(t *testing.T) {
	seen := map[int64]bool{}
	for range 1000 {
		id := newLeaseID()
		require.Positive(t, id)
		require.False(t, seen[id])
		seen[id] = true
	}
}

func TestMemberList(t *testing.T) {
	f := newFixture(t)
	_, err := f.member.Propose(f.ctx, &pb.InternalRaftRequest{ClusterVersionSet: &membershippb.ClusterVersionSetRequest{Ver: "3.7.0"}})
	require.NoError(t, err)
	addMember(t, f, `{"id":5,"peerURLs":["http://p"],"name":"five","clientURLs":["http://c"]}`)
	got, err := pb.NewClusterClient(f.conn).MemberList(f.ctx, &pb.MemberListRequest{Linearizable: true})
	require.NoError(t, err)
	requireEqual(t, &pb.MemberListResponse{Header: f.header(0), Members: []*pb.Member{
		{ID: 5, Name: "five", PeerURLs: []string{"http://p"}, ClientURLs: []string{"http://c"}},
	}}, got)
	require.Equal(t, []bool{true}, f.member.reads)
}

func TestStatusAndAlarms(t *testing.T) {
	f := newFixture(t)
	f.put("a", "1")
	f.member.status = Status{
		Version: "3.7.3", StorageVersion: "3.7.0", DiskBytes: 1000, LiveBytes: 900, QuotaBytes: 5000, Leader: 22,
		RaftIndex: 8, RaftApplied: 7, IsLearner: true, DowngradeEnabled: true, DowngradeTarget: "3.6.0",
	}
	m := pb.NewMaintenanceClient(f.conn)
	want := &pb.StatusResponse{
		Header: f.header(2), Version: "3.7.3", StorageVersion: "3.7.0", DbSize: 1000, DbSizeInUse: 900, DbSizeQuota: 5000, Leader: 22,
		RaftIndex: 8, RaftAppliedIndex: 7, RaftTerm: 33, IsLearner: true,
		DowngradeInfo: &pb.DowngradeInfo{Enabled: true, TargetVersion: "3.6.0"},
	}
	got, err := m.Status(f.ctx, &pb.StatusRequest{})
	require.NoError(t, err)
	requireEqual(t, want, got)

	raise := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 5, Alarm: pb.AlarmType_NOSPACE}
	alarms := []*pb.AlarmMember{{MemberID: 5, Alarm: pb.AlarmType_NOSPACE}}
	for _, r := range []*pb.AlarmRequest{raise, {Action: pb.AlarmRequest_GET}} {
		res, err := m.Alarm(f.ctx, r)
		require.NoError(t, err)
		requireEqual(t, &pb.AlarmResponse{Header: f.header(2), Alarms: alarms}, res)
	}
	f.member.status.Leader, want.Leader = 0, 0
	want.Errors = []string{"etcdserver: no leader", alarms[0].String()}
	got, err = m.Status(f.ctx, &pb.StatusRequest{})
	require.NoError(t, err)
	requireEqual(t, want, got)
	_, err = f.kv.Put(f.ctx, &pb.PutRequest{Key: []byte("a")})
	require.Equal(t, rpctypes.ErrGRPCNoSpace.Error(), fmt.Sprint(err))

	proposed := f.member.proposed
	_, err = m.Alarm(f.ctx, &pb.AlarmRequest{Action: 3})
	require.ErrorContains(t, err, "code = InvalidArgument desc = etcdserver: unknown alarm action")
	require.Equal(t, proposed, f.member.proposed, "a request that no member understands went into the log")
}
