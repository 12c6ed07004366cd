package etcdapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/dolmen-io/dolmen/internal/auth"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// secured is a fixture with auth on: root, and u who may read and write [a, c).
type secured struct {
	*fixture
	auth    pb.AuthClient
	root, u context.Context
}

func newSecured(t *testing.T) *secured {
	s := &secured{fixture: newFixture(t)}
	s.auth = pb.NewAuthClient(s.conn)
	for _, step := range []func() error{
		func() error {
			return second(s.auth.UserAdd(s.ctx, &pb.AuthUserAddRequest{Name: "root", Password: "pw"}))
		},
		func() error { return second(s.auth.UserAdd(s.ctx, &pb.AuthUserAddRequest{Name: "u", Password: "pu"})) },
		func() error {
			return second(s.auth.UserAdd(s.ctx, &pb.AuthUserAddRequest{Name: "n", Password: "x", HashedPassword: "eA==",
				Options: &authpb.UserAddOptions{NoPassword: true}}))
		},
		func() error { return second(s.auth.RoleAdd(s.ctx, &pb.AuthRoleAddRequest{Name: "root"})) },
		func() error { return second(s.auth.RoleAdd(s.ctx, &pb.AuthRoleAddRequest{Name: "r"})) },
		func() error { return s.grant("r", authpb.READWRITE, "a", "c") },
		func() error {
			return second(s.auth.UserGrantRole(s.ctx, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"}))
		},
		func() error {
			return second(s.auth.UserGrantRole(s.ctx, &pb.AuthUserGrantRoleRequest{User: "u", Role: "r"}))
		},
		func() error { return second(s.auth.AuthEnable(s.ctx, &pb.AuthEnableRequest{})) },
	} {
		require.NoError(t, step())
	}
	s.root, s.u = s.login("root", "pw"), s.login("u", "pu")
	return s
}

func (s *secured) grant(role string, kind authpb.Permission_Type, key, end string) error {
	return second(s.auth.RoleGrantPermission(s.ctx, &pb.AuthRoleGrantPermissionRequest{
		Name: role, Perm: &authpb.Permission{PermType: kind, Key: []byte(key), RangeEnd: []byte(end)},
	}))
}

// login returns a context with a user's token.
func (s *secured) login(name, password string) context.Context {
	res, err := s.auth.Authenticate(s.ctx, &pb.AuthenticateRequest{Name: name, Password: password})
	require.NoError(s.t, err)
	require.NotEmpty(s.t, res.GetToken())
	return metadata.AppendToOutgoingContext(s.ctx, rpctypes.TokenFieldNameGRPC, res.GetToken())
}

func requireText(t *testing.T, want, err error) {
	t.Helper()
	if want == nil {
		require.NoError(t, err)
		return
	}
	require.Equal(t, want.Error(), fmt.Sprint(err))
}

func TestAuthService(t *testing.T) {
	s := newSecured(t)
	status, err := s.auth.AuthStatus(s.ctx, &pb.AuthStatusRequest{})
	require.NoError(t, err)
	requireEqual(t, &pb.AuthStatusResponse{Header: s.header(1), Enabled: true, AuthRevision: 9}, status)
	users, err := s.auth.UserList(s.root, &pb.AuthUserListRequest{})
	require.NoError(t, err)
	requireEqual(t, &pb.AuthUserListResponse{Header: s.header(1), Users: []string{"n", "root", "u"}}, users)
	roles, err := s.auth.RoleList(s.root, &pb.AuthRoleListRequest{})
	require.NoError(t, err)
	requireEqual(t, &pb.AuthRoleListResponse{Header: s.header(1), Roles: []string{"r", "root"}}, roles)
	user, err := s.auth.UserGet(s.u, &pb.AuthUserGetRequest{Name: "u"})
	require.NoError(t, err)
	requireEqual(t, &pb.AuthUserGetResponse{Header: s.header(1), Roles: []string{"r"}}, user)
	role, err := s.auth.RoleGet(s.u, &pb.AuthRoleGetRequest{Role: "r"})
	require.NoError(t, err)
	requireEqual(t, &pb.AuthRoleGetResponse{Header: s.header(1), Perm: []*authpb.Permission{
		{PermType: authpb.READWRITE, Key: []byte("a"), RangeEnd: []byte("c")},
	}}, role)
	for _, step := range []func() error{
		func() error {
			return second(s.auth.RoleRevokePermission(s.root,
				&pb.AuthRoleRevokePermissionRequest{Role: "r", Key: []byte("a"), RangeEnd: []byte("c")}))
		},
		func() error {
			return second(s.auth.UserRevokeRole(s.root, &pb.AuthUserRevokeRoleRequest{Name: "u", Role: "r"}))
		},
		func() error { return second(s.auth.RoleDelete(s.root, &pb.AuthRoleDeleteRequest{Role: "r"})) },
		func() error { return second(s.auth.UserDelete(s.root, &pb.AuthUserDeleteRequest{Name: "u"})) },
		func() error { return second(s.auth.AuthDisable(s.root, &pb.AuthDisableRequest{})) },
	} {
		require.NoError(t, step())
	}
	_, err = s.auth.Authenticate(s.ctx, &pb.AuthenticateRequest{Name: "root", Password: "pw"})
	requireText(t, rpctypes.ErrGRPCAuthNotEnabled, err)
}

// Every change names its error, and none of them says more than etcd's would.
func TestAuthServiceErrors(t *testing.T) {
	s := newSecured(t)
	denied := rpctypes.ErrGRPCPermissionDenied
	for name, call := range map[string]func(context.Context) error{
		"enable":   func(c context.Context) error { return second(s.auth.AuthEnable(c, &pb.AuthEnableRequest{})) },
		"disable":  func(c context.Context) error { return second(s.auth.AuthDisable(c, &pb.AuthDisableRequest{})) },
		"add user": func(c context.Context) error { return second(s.auth.UserAdd(c, &pb.AuthUserAddRequest{Name: "x"})) },
		"delete user": func(c context.Context) error {
			return second(s.auth.UserDelete(c, &pb.AuthUserDeleteRequest{Name: "x"}))
		},
		"password": func(c context.Context) error {
			return second(s.auth.UserChangePassword(c, &pb.AuthUserChangePasswordRequest{Name: "u", Password: "y"}))
		},
		"grant role": func(c context.Context) error {
			return second(s.auth.UserGrantRole(c, &pb.AuthUserGrantRoleRequest{User: "u", Role: "root"}))
		},
		"revoke role": func(c context.Context) error {
			return second(s.auth.UserRevokeRole(c, &pb.AuthUserRevokeRoleRequest{Name: "u", Role: "r"}))
		},
		"get user": func(c context.Context) error { return second(s.auth.UserGet(c, &pb.AuthUserGetRequest{Name: "root"})) },
		"users":    func(c context.Context) error { return second(s.auth.UserList(c, &pb.AuthUserListRequest{})) },
		"roles":    func(c context.Context) error { return second(s.auth.RoleList(c, &pb.AuthRoleListRequest{})) },
		"get role": func(c context.Context) error { return second(s.auth.RoleGet(c, &pb.AuthRoleGetRequest{Role: "root"})) },
		"add role": func(c context.Context) error { return second(s.auth.RoleAdd(c, &pb.AuthRoleAddRequest{Name: "x"})) },
		"drop role": func(c context.Context) error {
			return second(s.auth.RoleDelete(c, &pb.AuthRoleDeleteRequest{Role: "r"}))
		},
		"permit": func(c context.Context) error {
			return second(s.auth.RoleGrantPermission(c, &pb.AuthRoleGrantPermissionRequest{Name: "r"}))
		},
		"forbid": func(c context.Context) error {
			return second(s.auth.RoleRevokePermission(c, &pb.AuthRoleRevokePermissionRequest{Role: "r"}))
		},
		"compact": func(c context.Context) error { return second(s.kv.Compact(c, &pb.CompactionRequest{Revision: 1})) },
		"hash": func(c context.Context) error {
			return second(pb.NewMaintenanceClient(s.conn).HashKV(c, &pb.HashKVRequest{}))
		},
		"hash of all": func(c context.Context) error {
			return second(pb.NewMaintenanceClient(s.conn).Hash(c, &pb.HashRequest{}))
		},
		"snapshot": func(c context.Context) error {
			stream, err := pb.NewMaintenanceClient(s.conn).Snapshot(c, &pb.SnapshotRequest{})
			if err != nil {
				return err
			}
			return second(stream.Recv())
		},
		"alarm": func(c context.Context) error {
			return second(pb.NewMaintenanceClient(s.conn).Alarm(c, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE}))
		},
	} {
		requireText(t, denied, call(s.u))
		requireText(t, rpctypes.ErrGRPCUserEmpty, call(s.ctx))
		requireText(t, rpctypes.ErrGRPCInvalidAuthToken, call(metadata.AppendToOutgoingContext(s.ctx, "token", "forged.1")))
		if t.Failed() {
			t.Fatal(name)
		}
	}
	long := strings.Repeat("p", 73)
	_, err := s.auth.UserAdd(s.root, &pb.AuthUserAddRequest{Name: "x", Password: long})
	require.EqualError(t, err, "rpc error: code = Unknown desc = bcrypt: password length exceeds 72 bytes")
	_, err = s.auth.UserChangePassword(s.root, &pb.AuthUserChangePasswordRequest{Name: "u", Password: long})
	require.EqualError(t, err, "rpc error: code = Unknown desc = bcrypt: password length exceeds 72 bytes")
	_, err = s.auth.RoleGet(s.root, &pb.AuthRoleGetRequest{Role: "none"})
	requireText(t, rpctypes.ErrGRPCRoleNotFound, err)
}

func TestAuthenticate(t *testing.T) {
	s := newSecured(t)
	for _, tc := range []struct {
		name, password string
		want           error
	}{
		{"u", "wrong", rpctypes.ErrGRPCAuthFailed},
		{"ghost", "pu", rpctypes.ErrGRPCAuthFailed},
		{"", "", rpctypes.ErrGRPCAuthFailed},
	} {
		_, err := s.auth.Authenticate(s.ctx, &pb.AuthenticateRequest{Name: tc.name, Password: tc.password})
		requireText(t, tc.want, err)
	}
	_, err := s.auth.Authenticate(s.ctx, &pb.AuthenticateRequest{Name: "n", Password: ""})
	require.EqualError(t, err, "rpc error: code = Unknown desc = auth: authentication failed, password was given for no password user")

	// Another password ends the tokens that the old one gave.
	_, err = s.kv.Put(s.u, &pb.PutRequest{Key: []byte("a")})
	require.NoError(t, err)
	_, err = s.auth.UserChangePassword(s.root, &pb.AuthUserChangePasswordRequest{Name: "u", Password: "new"})
	require.NoError(t, err)
	_, err = s.kv.Put(s.u, &pb.PutRequest{Key: []byte("a")})
	requireText(t, rpctypes.ErrGRPCInvalidAuthToken, err)
	_, err = s.auth.Authenticate(s.ctx, &pb.AuthenticateRequest{Name: "u", Password: "pu"})
	requireText(t, rpctypes.ErrGRPCAuthFailed, err)
	s.login("u", "new")
	_, err = s.auth.UserChangePassword(s.root, &pb.AuthUserChangePasswordRequest{Name: "u"})
	require.NoError(t, err)
	_, err = s.auth.Authenticate(s.ctx, &pb.AuthenticateRequest{Name: "u"})
	requireText(t, rpctypes.ErrGRPCAuthFailed, err)
}

// A login whose user changes while it is under way checks the password again, by the changed user.
func TestAuthenticateRace(t *testing.T) {
	s := newSecured(t)
	changes := 0
	s.member.beforeLogin = func() {
		if changes++; changes == 1 {
			s.apply(&pb.InternalRaftRequest{AuthUserChangePassword: &pb.AuthUserChangePasswordRequest{Name: "u"},
				Header: &pb.RequestHeader{Username: "root", AuthRevision: 99}})
		}
	}
	_, err := s.auth.Authenticate(s.ctx, &pb.AuthenticateRequest{Name: "u", Password: "pu"})
	requireText(t, rpctypes.ErrGRPCAuthFailed, err)
	require.Equal(t, 1, changes, "the second attempt ends at the password")

	s.member.beforeLogin = func() {
		changes++
		s.apply(&pb.InternalRaftRequest{AuthRoleGrantPermission: &pb.AuthRoleGrantPermissionRequest{
			Name: "r", Perm: &authpb.Permission{Key: []byte("z")},
		}, Header: &pb.RequestHeader{Username: "root", AuthRevision: 99}})
	}
	_, err = s.auth.Authenticate(s.ctx, &pb.AuthenticateRequest{Name: "root", Password: "pw"})
	requireText(t, rpctypes.ErrGRPCAuthOldRevision, err)
	require.Equal(t, 1+loginAttempts, changes)
}

// apply applies a request behind the services' back.
func (s *secured) apply(req *pb.InternalRaftRequest) {
	_, err := s.member.apply(req)
	require.NoError(s.t, err)
}

func TestDataPermissions(t *testing.T) {
	s := newSecured(t)
	put := func(c context.Context, key string, lease int64) error {
		return second(s.kv.Put(c, &pb.PutRequest{Key: []byte(key), Lease: lease}))
	}
	get := func(c context.Context, key, end string) error {
		return second(s.kv.Range(c, &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end)}))
	}
	denied, empty := rpctypes.ErrGRPCPermissionDenied, rpctypes.ErrGRPCUserEmpty
	requireText(t, empty, second(s.lease.LeaseGrant(s.ctx, &pb.LeaseGrantRequest{ID: 1, TTL: 60})))
	require.NoError(t, second(s.lease.LeaseGrant(s.u, &pb.LeaseGrantRequest{ID: 1, TTL: 60})))
	require.NoError(t, second(s.lease.LeaseGrant(s.u, &pb.LeaseGrantRequest{ID: 2, TTL: 60})))
	require.NoError(t, put(s.root, "z", 1))
	requireText(t, denied, put(s.u, "a", 1))
	require.NoError(t, put(s.u, "a", 2))
	requireText(t, denied, put(s.u, "c", 0))
	require.NoError(t, get(s.u, "a", "c"))
	requireText(t, denied, get(s.u, "a", "d"))
	requireText(t, denied, get(s.u, "a", "\x00"))
	requireText(t, empty, get(s.ctx, "a", ""))
	require.NoError(t, get(s.root, "\x00", "\x00"))

	txn := func(c context.Context, text string) error {
		return second(s.kv.Txn(c, parse(t, &pb.TxnRequest{}, expand(text))))
	}
	require.NoError(t, txn(s.u, `success:R("a")`))
	requireText(t, denied, txn(s.u, `success:R("a") failure:R("z")`))
	requireText(t, denied, txn(s.u, `compare:{key:"z"}`))
	requireText(t, rpctypes.ErrGRPCInvalidAuthToken, txn(metadata.AppendToOutgoingContext(s.ctx, "token", "x"), `success:R("a")`))

	requireText(t, denied, second(s.lease.LeaseRevoke(s.u, &pb.LeaseRevokeRequest{ID: 1})))
	requireText(t, empty, second(s.lease.LeaseRevoke(s.ctx, &pb.LeaseRevokeRequest{ID: 1})))
	ttl := func(c context.Context, id int64, keys bool) error {
		return second(s.lease.LeaseTimeToLive(c, &pb.LeaseTimeToLiveRequest{ID: id, Keys: keys}))
	}
	require.NoError(t, ttl(s.u, 1, false))
	requireText(t, denied, ttl(s.u, 1, true))
	require.NoError(t, ttl(s.u, 2, true))
	requireText(t, empty, ttl(s.ctx, 2, false))
	requireText(t, denied, second(s.lease.LeaseLeases(s.u, &pb.LeaseLeasesRequest{})))
	require.NoError(t, second(s.lease.LeaseLeases(s.root, &pb.LeaseLeasesRequest{})))
	requireText(t, empty, second(pb.NewClusterClient(s.conn).MemberList(s.ctx, &pb.MemberListRequest{})))
	require.NoError(t, second(pb.NewClusterClient(s.conn).MemberList(s.u, &pb.MemberListRequest{})))
	requireText(t, empty, second(pb.NewMaintenanceClient(s.conn).Status(s.ctx, &pb.StatusRequest{})))

	alive := func(c context.Context, id int64) error {
		stream, err := s.lease.LeaseKeepAlive(c)
		require.NoError(t, err)
		require.NoError(t, stream.Send(&pb.LeaseKeepAliveRequest{ID: id}))
		return second(stream.Recv())
	}
	requireText(t, denied, alive(s.u, 1))
	require.NoError(t, alive(s.u, 2))
	require.NoError(t, alive(s.root, 1))
	requireText(t, empty, alive(s.ctx, 1))
}

// TestKeysOfALease: who asks for a lease's keys is told none that came to it while the request was answered and that
// it must not read.
func TestKeysOfALease(t *testing.T) {
	s := newSecured(t)
	require.NoError(t, second(s.lease.LeaseGrant(s.u, &pb.LeaseGrantRequest{ID: 1, TTL: 60})))
	require.NoError(t, second(s.kv.Put(s.u, &pb.PutRequest{Key: []byte("a"), Lease: 1})))
	s.clock.also = func() {
		_, err := s.member.apply(&pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte("z"), Lease: 1},
			Header: &pb.RequestHeader{Username: "root", AuthRevision: 99}})
		assert.NoError(t, err)
	}
	keys := func(c context.Context) (*pb.LeaseTimeToLiveResponse, error) {
		return s.lease.LeaseTimeToLive(c, &pb.LeaseTimeToLiveRequest{ID: 1, Keys: true})
	}
	requireText(t, rpctypes.ErrGRPCPermissionDenied, second(keys(s.u)))
	res, err := keys(s.root)
	require.NoError(t, err)
	require.Equal(t, [][]byte{[]byte("a"), []byte("z")}, res.GetKeys())
	requireText(t, rpctypes.ErrGRPCUserEmpty, second(keys(s.ctx)))
}

// A watch is refused for what the range as sent says, and the stream goes on.
func TestWatchPermissions(t *testing.T) {
	s := newSecured(t)
	require.NoError(t, second(s.kv.Put(s.u, &pb.PutRequest{Key: []byte("a")})))
	for _, tc := range []struct {
		ctx    context.Context
		create string
		reason string
	}{
		{s.u, `key:"a" range_end:"\x00"`, "rpc error: code = PermissionDenied desc = etcdserver: permission denied"},
		{s.u, `key:"c"`, "rpc error: code = PermissionDenied desc = etcdserver: permission denied"},
		{s.u, ``, "rpc error: code = PermissionDenied desc = etcdserver: permission denied"},
		{s.ctx, `key:"a"`, "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"},
		{s.ctx, `key:"a" start_revision:-1`, "etcdserver: mvcc: required revision has been compacted"},
		{
			metadata.AppendToOutgoingContext(s.ctx, "token", "x"), `key:"a"`,
			"rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
		},
	} {
		stream, err := s.watch.Watch(tc.ctx)
		require.NoError(t, err)
		sendAll(t, stream, `create_request:{`+tc.create+`}`)
		expectWatch(t, stream, &pb.WatchResponse{Header: s.header(2), WatchId: -1, Created: true, Canceled: true, CancelReason: tc.reason})
	}
	stream, err := s.watch.Watch(s.u)
	require.NoError(t, err)
	sendAll(t, stream, `create_request:{key:"z"}`, `create_request:{key:"a" range_end:"c"}`)
	_, err = stream.Recv()
	require.NoError(t, err)
	expectWatch(t, stream, &pb.WatchResponse{Header: s.header(2), Created: true})
	require.Equal(t, rpctypes.ErrGRPCAuthOldRevision.Error(), watchRefusal(auth.ErrOldRevision))
}

// Once users or roles change, a stream of keys sends no more.
func TestRangeStreamPermissions(t *testing.T) {
	s := newSecured(t)
	for i := range 40 {
		require.NoError(t, second(s.kv.Put(s.u, &pb.PutRequest{Key: fmt.Appendf(nil, "a%02d", i)})))
	}
	read := func(c context.Context, end string) (n int, err error) {
		stream, err := s.kv.RangeStream(c, &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte(end)})
		require.NoError(t, err)
		for {
			res, err := stream.Recv()
			if err != nil {
				return n, err
			}
			n += len(res.GetRangeResponse().GetKvs())
		}
	}
	n, err := read(s.u, "c")
	require.Equal(t, 40, n)
	require.EqualError(t, err, "EOF")
	_, err = read(s.u, "d")
	requireText(t, rpctypes.ErrGRPCPermissionDenied, err)

	reads := 0
	s.member.readAlso = func() {
		if reads++; reads == 2 {
			s.apply(&pb.InternalRaftRequest{AuthRoleAdd: &pb.AuthRoleAddRequest{Name: "x"},
				Header: &pb.RequestHeader{Username: "root", AuthRevision: 99}})
		}
	}
	n, err = read(s.u, "c")
	require.Equal(t, firstChunk, n)
	requireText(t, rpctypes.ErrGRPCAuthOldRevision, err)
}

// A token of a member that is ahead is known here once its entry is applied.
func TestTokenOfAnotherMember(t *testing.T) {
	s := newSecured(t)
	users := s.member.Users()
	index := s.member.state.Applied().Index
	with := func(pairs ...string) context.Context {
		return metadata.NewIncomingContext(context.Background(), metadata.Pairs(pairs...))
	}
	_, _, err := s.services.caller(with("token", fmt.Sprintf("aaaa.%d", index+1)))
	require.ErrorIs(t, err, auth.ErrInvalidToken)
	require.Equal(t, []uint64{index + 1}, s.member.awaited)
	_, _, err = s.services.caller(with("token", "aaaa"))
	require.ErrorIs(t, err, auth.ErrInvalidToken)
	require.Len(t, s.member.awaited, 1, "there is nothing to wait for")

	md, _ := metadata.FromOutgoingContext(s.u)
	text := md.Get("token")[0]
	for _, ctx := range []context.Context{
		with("token", text), with("token", "Bearer "+text), with("authorization", text), with("authorization", "Bearer "+text),
		with("token", text, "authorization", "forged"),
	} {
		who, err := s.services.identify(ctx, users)
		require.NoError(t, err)
		require.Equal(t, users.Identity("u"), who)
	}
	_, err = s.services.identify(with("token", "", "authorization", text), users)
	require.ErrorIs(t, err, auth.ErrInvalidToken, "the first of the two counts, even if it is empty")
}

// TestLoginOfAnotherMember: whatever a user of a member that is ahead asks for is answered from what this member has
// once it has applied the login, and nothing older is held meanwhile.
func TestLoginOfAnotherMember(t *testing.T) {
	for name, ask := range map[string]func(*secured, context.Context) error{
		"serializable range": func(s *secured, ctx context.Context) error {
			return second(s.kv.Range(ctx, &pb.RangeRequest{Key: []byte("a"), Serializable: true}))
		},
		"serializable stream": func(s *secured, ctx context.Context) error {
			stream, err := s.kv.RangeStream(ctx, &pb.RangeRequest{Key: []byte("a"), Serializable: true})
			require.NoError(s.t, err)
			return second(stream.Recv())
		},
		"serializable txn": func(s *secured, ctx context.Context) error {
			return second(s.kv.Txn(ctx, parse(s.t, &pb.TxnRequest{}, `success:{request_range:{key:"a" serializable:true}}`)))
		},
		"put": func(s *secured, ctx context.Context) error {
			return second(s.kv.Put(ctx, &pb.PutRequest{Key: []byte("a")}))
		},
		"list": func(s *secured, ctx context.Context) error {
			return second(pb.NewClusterClient(s.conn).MemberList(ctx, &pb.MemberListRequest{}))
		},
		"self": func(s *secured, ctx context.Context) error {
			return second(s.auth.UserGet(ctx, &pb.AuthUserGetRequest{Name: "late"}))
		},
		"admin": func(s *secured, ctx context.Context) error {
			return second(pb.NewMaintenanceClient(s.conn).Defragment(ctx, &pb.DefragmentRequest{}))
		},
		"watch": func(s *secured, ctx context.Context) error {
			stream, err := s.watch.Watch(ctx)
			require.NoError(s.t, err)
			sendAll(s.t, stream, `create_request:{key:"a"}`)
			res, err := stream.Recv()
			require.NoError(s.t, err)
			require.Empty(s.t, res.GetCancelReason())
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSecured(t)
			root := &pb.RequestHeader{Username: "root", AuthRevision: 99}
			ahead := []*pb.InternalRaftRequest{
				{AuthUserAdd: &pb.AuthUserAddRequest{Name: "late"}, Header: root},
				{AuthUserGrantRole: &pb.AuthUserGrantRoleRequest{User: "late", Role: "root"}, Header: root},
				{Authenticate: &pb.InternalAuthenticateRequest{Name: "late", SimpleToken: "abcdefghijklmnop"}},
			}
			reads := len(s.member.reads)
			s.member.catchUp = func() {
				s.member.catchUp = nil
				assert.Len(t, s.member.reads, reads) // on the handler's goroutine
				for _, req := range ahead {
					s.apply(req)
				}
			}
			last := s.member.state.Applied().Index + uint64(len(ahead))
			require.NoError(t, ask(s, metadata.AppendToOutgoingContext(s.ctx, "token", fmt.Sprintf("abcdefghijklmnop.%d", last))))
			require.Nil(t, s.member.catchUp, "nobody has waited")
		})
	}
}

func TestCertificateNames(t *testing.T) {
	s := newSecured(t)
	users := s.member.Users()
	leaf := &x509.Certificate{Subject: pkix.Name{CommonName: "u"}}
	with := func(chains ...[]*x509.Certificate) context.Context {
		return peer.NewContext(context.Background(), &peer.Peer{
			AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{VerifiedChains: chains}},
		})
	}
	for name, tc := range map[string]struct {
		ctx  context.Context
		want auth.Identity
	}{
		"verified":       {with([]*x509.Certificate{leaf}), users.Identity("u")},
		"first chain":    {with(nil, []*x509.Certificate{leaf, {}}), users.Identity("u")},
		"no name":        {with([]*x509.Certificate{{}}), users.Identity("")},
		"not verified":   {with(), auth.Identity{}},
		"no TLS":         {peer.NewContext(context.Background(), &peer.Peer{}), auth.Identity{}},
		"no peer":        {context.Background(), auth.Identity{}},
		"by the gateway": {metadata.NewIncomingContext(with([]*x509.Certificate{leaf}), metadata.Pairs(metadataGateway, "x")), auth.Identity{}},
	} {
		who, err := s.services.identify(tc.ctx, users)
		require.NoError(t, err, name)
		require.Equal(t, tc.want, who, name)
	}
	// A token that does not hold is not made up for by a certificate.
	_, err := s.services.identify(metadata.NewIncomingContext(with([]*x509.Certificate{leaf}), metadata.Pairs("token", "x")), users)
	require.ErrorIs(t, err, auth.ErrInvalidToken)
	off := *s.services
	off.credentials.CertificateNames = false
	who, err := off.identify(with([]*x509.Certificate{leaf}), users)
	require.NoError(t, err)
	require.Equal(t, auth.Identity{}, who)
}

// While auth is off nobody pays for it.
func TestIdentifyAllocatesNothingWhenOff(t *testing.T) {
	f := newFixture(t)
	ctx := metadata.NewIncomingContext(context.Background(), metadata.Pairs("token", "x"))
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if _, err := f.services.authorizeRead(ctx, f.member.Users(), []byte("a"), nil); err != nil {
			t.Error(err)
		}
	}))
}

func TestVerifyOnlyTokens(t *testing.T) {
	s := newSecured(t)
	opts, err := auth.ParseTokenOptions("")
	require.NoError(t, err)
	s.services.credentials.Tokens, err = auth.NewTokens(auth.TokenConfig{Options: opts}, time.Now())
	require.NoError(t, err)
	_, err = (authenticator{Services: s.services}).Authenticate(s.ctx, &pb.AuthenticateRequest{Name: "u", Password: "pu"})
	requireText(t, rpctypes.ErrGRPCAuthFailed, err)
}

// TestLongPasswords: everybody is told that a password is too long, as by etcd; nothing is hashed for it.
func TestLongPasswords(t *testing.T) {
	s := newSecured(t)
	long := strings.Repeat("p", 73)
	for _, ctx := range []context.Context{s.ctx, s.u, s.root} {
		_, err := s.auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "new", Password: long})
		require.EqualError(t, err, "rpc error: code = Unknown desc = bcrypt: password length exceeds 72 bytes")
		_, err = s.auth.UserChangePassword(ctx, &pb.AuthUserChangePasswordRequest{Name: "u", Password: long})
		require.EqualError(t, err, "rpc error: code = Unknown desc = bcrypt: password length exceeds 72 bytes")
	}
	_, err := s.auth.UserAdd(s.u, &pb.AuthUserAddRequest{Name: "new", Password: long[1:]})
	requireText(t, rpctypes.ErrGRPCPermissionDenied, err)
}

// signedAt stands for signed tokens, which hold the revision of users and roles that they were made at.
type signedAt struct {
	auth.Tokens
	revision uint64
}

func (s signedAt) Identify(string, uint64, time.Time) (auth.Identity, error) {
	return auth.Identity{User: "root", Revision: s.revision}, nil
}

// TestReadsOfOtherRevisions: a read is answered only to a caller who is known by the users and roles it is checked with.
func TestReadsOfOtherRevisions(t *testing.T) {
	s := newSecured(t)
	now := s.member.Users().Revision()
	for _, tc := range []struct {
		revision uint64
		want     error
	}{{now, nil}, {now - 1, rpctypes.ErrGRPCAuthOldRevision}, {now + 1, rpctypes.ErrGRPCAuthOldRevision}} {
		s.services.credentials.Tokens = signedAt{s.services.credentials.Tokens, tc.revision}
		_, err := s.kv.Range(s.root, &pb.RangeRequest{Key: []byte("a")})
		requireText(t, tc.want, err)
		for _, text := range []string{``, `compare:{key:"a"}`, `success:R("a")`} {
			_, err = s.kv.Txn(s.root, parse(t, &pb.TxnRequest{}, expand(text)))
			requireText(t, tc.want, err)
		}
		stream, err := s.kv.RangeStream(s.root, &pb.RangeRequest{Key: []byte("a")})
		require.NoError(t, err)
		_, err = stream.Recv()
		requireText(t, tc.want, err)
	}
}
