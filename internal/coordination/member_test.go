package coordination_test

import (
	"context"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/dolmen-io/dolmen/embed"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// patience is how long a test waits for what must happen.
const patience = time.Minute

// running is a member with clients of its services.
type running struct {
	t        *testing.T
	ctx      context.Context
	member   *embed.Member
	kv       pb.KVClient
	lease    pb.LeaseClient
	lock     v3lockpb.LockClient
	election v3electionpb.ElectionClient
	auth     pb.AuthClient
}

func start(t *testing.T, dir string) *running {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	cfg := embed.NewConfig()
	cfg.DataDir, cfg.StorageEngine = filepath.Join(dir, "data"), embed.EngineMemory
	m, err := embed.Start(ctx, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close(ctx)) })
	conn, err := grpc.NewClient("passthrough:///"+strings.TrimPrefix(m.Endpoints()[0], "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return &running{t: t, ctx: ctx, member: m, kv: pb.NewKVClient(conn), lease: pb.NewLeaseClient(conn),
		lock: v3lockpb.NewLockClient(conn), election: v3electionpb.NewElectionClient(conn), auth: pb.NewAuthClient(conn)}
}

func (r *running) grant(id int64) {
	_, err := r.lease.LeaseGrant(r.ctx, &pb.LeaseGrantRequest{ID: id, TTL: 1000})
	require.NoError(r.t, err)
}

// await waits until n keys exist.
func (r *running) await(n int64) {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		res, err := r.kv.Range(r.ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true})
		return err == nil && res.GetCount() == n
	}, patience, time.Millisecond)
}

// nobody waits until no call of the services is under way, and nothing that one has started.
func nobody(t *testing.T) {
	t.Helper()
	var left string
	require.Eventually(t, func() bool {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		left = ""
		for stack := range strings.SplitSeq(string(stacks), "\n\n") {
			if strings.Contains(stack, "internal/coordination.") || strings.Contains(stack, "clientv3/concurrency") ||
				strings.Contains(stack, "client/v3.(") {
				left += stack + "\n\n"
			}
		}
		return left == ""
	}, patience, time.Millisecond, "%s", &left)
}

func TestCallersThatGiveUp(t *testing.T) {
	r := start(t, t.TempDir())
	r.grant(10)
	_, err := r.lock.Lock(r.ctx, &v3lockpb.LockRequest{Name: []byte("a"), Lease: 10})
	require.NoError(t, err)
	_, err = r.election.Campaign(r.ctx, &v3electionpb.CampaignRequest{Name: []byte("e"), Lease: 10})
	require.NoError(t, err)
	nobody(t)
	for _, tc := range []struct {
		name string
		wait func(context.Context, int64) error
		put  int64
	}{
		{"lock", func(ctx context.Context, lease int64) error {
			_, err := r.lock.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("a"), Lease: lease})
			return err
		}, 1},
		{"campaign", func(ctx context.Context, lease int64) error {
			_, err := r.election.Campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte("e"), Lease: lease})
			return err
		}, 1},
		{"observe", func(ctx context.Context, _ int64) error {
			stream, err := r.election.Observe(ctx, &v3electionpb.LeaderRequest{Name: []byte("nobody leads")})
			require.NoError(t, err)
			_, err = stream.Recv()
			return err
		}, 0},
	} {
		for _, lease := range []int64{0, 11} { // one that is granted for the call, and the caller's own
			t.Run(tc.name, func(t *testing.T) {
				if lease != 0 && tc.put == 0 {
					lease = 0
				}
				if lease != 0 {
					r.grant(lease)
				}
				ctx, cancel := context.WithCancel(r.ctx)
				done := make(chan error, 1)
				go func() { done <- tc.wait(ctx, lease) }()
				r.await(2 + tc.put)
				cancel()
				require.Equal(t, codes.Canceled, status.Code(<-done))
				r.await(2)
				nobody(t)
				leases, err := r.lease.LeaseLeases(r.ctx, &pb.LeaseLeasesRequest{})
				require.NoError(t, err)
				want := 1
				if lease != 0 {
					want = 2
				}
				require.Len(t, leases.GetLeases(), want, "the lease that was granted for the call is gone")
				if lease != 0 {
					_, err := r.lease.LeaseRevoke(r.ctx, &pb.LeaseRevokeRequest{ID: lease})
					require.NoError(t, err)
				}
			})
		}
	}
}

// TestStopEndsWaiting: a stop does not wait for locks, and what the waiting calls put is gone after it.
func TestStopEndsWaiting(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir)
	r.grant(10)
	r.grant(11)
	_, err := r.lock.Lock(r.ctx, &v3lockpb.LockRequest{Name: []byte("a"), Lease: 10})
	require.NoError(t, err)
	_, err = r.election.Campaign(r.ctx, &v3electionpb.CampaignRequest{Name: []byte("e"), Lease: 10})
	require.NoError(t, err)
	done := make(chan error, 3)
	go func() {
		_, err := r.lock.Lock(r.ctx, &v3lockpb.LockRequest{Name: []byte("a"), Lease: 11})
		done <- err
	}()
	go func() {
		_, err := r.election.Campaign(r.ctx, &v3electionpb.CampaignRequest{Name: []byte("e"), Lease: 11})
		done <- err
	}()
	go func() {
		stream, err := r.election.Observe(r.ctx, &v3electionpb.LeaderRequest{Name: []byte("e")})
		for err == nil {
			_, err = stream.Recv()
		}
		done <- err
	}()
	r.await(4)
	require.NoError(t, r.member.Close(r.ctx))
	for range 3 {
		require.ErrorContains(t, <-done, "code = Unavailable desc = etcdserver: server stopped")
	}
	nobody(t)
	r = start(t, dir)
	r.await(2)
}

func TestRequestsThatCannotBe(t *testing.T) {
	r := start(t, t.TempDir())
	_, err := r.lock.Unlock(r.ctx, &v3lockpb.UnlockRequest{})
	require.ErrorContains(t, err, "code = Unknown desc = etcdserver: key is not provided")
	_, err = r.lock.Lock(r.ctx, &v3lockpb.LockRequest{Lease: 99})
	require.ErrorContains(t, err, "code = Unknown desc = etcdserver: requested lease not found")
	_, err = r.election.Leader(r.ctx, &v3electionpb.LeaderRequest{})
	require.ErrorContains(t, err, "code = Unknown desc = election: no leader")
	_, err = r.election.Proclaim(r.ctx, &v3electionpb.ProclaimRequest{})
	require.ErrorContains(t, err, `code = Unknown desc = "leader" field must be provided`)
	_, err = r.election.Resign(r.ctx, &v3electionpb.ResignRequest{})
	require.ErrorContains(t, err, `code = Unknown desc = "leader" field must be provided`)

	r.grant(10)
	won, err := r.election.Campaign(r.ctx, &v3electionpb.CampaignRequest{Name: []byte("e"), Lease: 10, Value: []byte("v")})
	require.NoError(t, err)
	_, err = r.election.Proclaim(r.ctx, &v3electionpb.ProclaimRequest{Leader: won.GetLeader(), Value: []byte("w")})
	require.NoError(t, err)
	leader, err := r.election.Leader(r.ctx, &v3electionpb.LeaderRequest{Name: []byte("e")})
	require.NoError(t, err)
	require.Equal(t, "w", string(leader.GetKv().GetValue()))
	_, err = r.election.Resign(r.ctx, &v3electionpb.ResignRequest{Leader: won.GetLeader()})
	require.NoError(t, err)
	_, err = r.lock.Unlock(r.ctx, &v3lockpb.UnlockRequest{Key: []byte("any")})
	require.NoError(t, err)
	nobody(t)
}

// TestUsersOfLocks: a lock is its caller's doing, also what is cleaned up after the caller has gone.
func TestUsersOfLocks(t *testing.T) {
	r := start(t, t.TempDir())
	for _, step := range []func() error{
		func() error {
			return second(r.auth.UserAdd(r.ctx, &pb.AuthUserAddRequest{Name: "root", Password: "p"}))
		},
		func() error { return second(r.auth.UserAdd(r.ctx, &pb.AuthUserAddRequest{Name: "u", Password: "p"})) },
		func() error { return second(r.auth.RoleAdd(r.ctx, &pb.AuthRoleAddRequest{Name: "r"})) },
		func() error {
			return second(r.auth.RoleGrantPermission(r.ctx, &pb.AuthRoleGrantPermissionRequest{Name: "r", Perm: &authpb.Permission{
				PermType: authpb.READWRITE, Key: []byte("a/"), RangeEnd: []byte("a0"),
			}}))
		},
		func() error { return second(r.auth.RoleAdd(r.ctx, &pb.AuthRoleAddRequest{Name: "root"})) },
		func() error {
			return second(r.auth.UserGrantRole(r.ctx, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"}))
		},
		func() error {
			return second(r.auth.UserGrantRole(r.ctx, &pb.AuthUserGrantRoleRequest{User: "u", Role: "r"}))
		},
		func() error { return second(r.auth.AuthEnable(r.ctx, &pb.AuthEnableRequest{})) },
	} {
		require.NoError(t, step())
	}
	login := func(name string) context.Context {
		res, err := r.auth.Authenticate(r.ctx, &pb.AuthenticateRequest{Name: name, Password: "p"})
		require.NoError(t, err)
		return metadata.AppendToOutgoingContext(r.ctx, "token", res.GetToken())
	}
	nobodyKnown, u := r.ctx, login("u")
	r.ctx = login("root") // who looks at everything
	_, err := r.lock.Lock(nobodyKnown, &v3lockpb.LockRequest{Name: []byte("a")})
	require.ErrorContains(t, err, "code = Unknown desc = etcdserver: user name is empty")
	_, err = r.lock.Lock(u, &v3lockpb.LockRequest{Name: []byte("b")})
	require.ErrorContains(t, err, "code = Unknown desc = etcdserver: permission denied")
	held, err := r.lock.Lock(u, &v3lockpb.LockRequest{Name: []byte("a")})
	require.NoError(t, err)
	r.grant(11)
	ctx, cancel := context.WithCancel(u)
	done := make(chan error, 1)
	go func() { done <- second(r.lock.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("a"), Lease: 11})) }()
	r.await(2)
	cancel()
	require.Equal(t, codes.Canceled, status.Code(<-done))
	r.await(1)
	require.NoError(t, second(r.lock.Unlock(u, &v3lockpb.UnlockRequest{Key: held.GetKey()})))
	r.await(0)
}

func second[T any](_ T, err error) error { return err }
