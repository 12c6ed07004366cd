package compat

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// realm is a server with users, for a scenario in which several of them make requests.
type realm struct {
	*Recorder
	tokens   map[string]string // by user; forgotten when users or roles change
	revision uint64            // of users and roles, 0 if it must be asked for
}

// caller is somebody who makes requests.
type caller struct {
	name string
	conn *grpc.ClientConn // nil for the scenario's own
	// metadata returns what goes with a request; nil for nothing. It is asked before each.
	metadata func(*realm) []string
}

var nobody = caller{name: "nobody"}

// signedIn is a user with a fresh token, in the metadata key that clients use.
func signedIn(user string) caller {
	return caller{name: user, metadata: func(w *realm) []string { return []string{"token", w.token(user)} }}
}

// with is a caller who always sends the same.
func with(name string, pairs ...string) caller {
	return caller{name: name, metadata: func(*realm) []string { return pairs }}
}

// password is that of a user in the tests.
func password(user string) string { return "secret of " + user }

// login returns a new token of a user.
func (w *realm) login(user string) (string, error) {
	ctx, cancel := context.WithTimeout(w.ctx, answerDeadline)
	defer cancel()
	resp, err := pb.NewAuthClient(w.conn).Authenticate(ctx, &pb.AuthenticateRequest{Name: user, Password: password(user)})
	return resp.GetToken(), err
}

// token returns a token of a user that holds for the users and roles as they are.
func (w *realm) token(user string) string {
	if t, ok := w.tokens[user]; ok {
		return t
	}
	t, err := w.login(user)
	if err != nil {
		w.notef("! %s cannot log in: %s", user, renderError(err))
		return "none"
	}
	w.tokens[user] = t
	return t
}

// authRevision returns the revision of users and roles, which everybody may ask for.
func (w *realm) authRevision() uint64 {
	if w.revision == 0 {
		resp, err := pb.NewAuthClient(w.conn).AuthStatus(w.ctx, &pb.AuthStatusRequest{})
		if err != nil {
			w.fatalf("ask for the auth revision: %v", err)
		}
		w.revision = resp.AuthRevision
	}
	return w.revision
}

// stale forgets what holds only as long as users and roles stay.
func (w *realm) stale() { w.tokens, w.revision = map[string]string{}, 0 }

// as makes a request of a caller, records the outcome, and returns the answer, nil after an error. Streams give their
// first answer.
func (w *realm) as(c caller, m rpc, req proto.Message) proto.Message {
	w.notef("> %s: %s %s", c.name, m.name(), w.text.render(req))
	ctx, cancel := context.WithTimeout(w.ctx, answerDeadline)
	defer cancel()
	if c.metadata != nil {
		ctx = metadata.AppendToOutgoingContext(ctx, c.metadata(w)...)
	}
	conn := c.conn
	if conn == nil {
		conn = w.conn
	}
	resp, err := first(ctx, conn, m, req)
	if err != nil {
		w.notef("! %s", renderError(err))
		return nil
	}
	if m.service() == "Auth" {
		w.stale()
	}
	// etcd writes its storage version seconds after the start.
	switch m := resp.(type) {
	case *pb.StatusResponse:
		m.StorageVersion = ""
	case *pb.SnapshotResponse:
		m.Version = ""
	}
	w.notef("< %s", w.text.render(resp))
	return resp
}

// does makes unary requests of a caller.
func (w *realm) does(c caller, reqs ...proto.Message) {
	for _, req := range reqs {
		m, ok := rpcOf(req)
		if !ok {
			w.fatalf("no unary method takes a %T", req)
		}
		w.as(c, m, req)
	}
}

// quietly makes unary requests as root, whether auth is on or not, and records only what fails.
func (w *realm) quietly(reqs ...proto.Message) {
	for _, req := range reqs {
		ctx := w.ctx
		if t, err := w.login("root"); err == nil {
			ctx = metadata.AppendToOutgoingContext(ctx, "token", t)
		}
		if _, err := invoke(ctx, w.conn, req); err != nil {
			w.notef("! root cannot %T: %s", req, renderError(err))
		}
	}
	w.stale()
}

func userAdd(name string) *pb.AuthUserAddRequest {
	return &pb.AuthUserAddRequest{Name: name, Password: password(name)}
}

func roleAdd(name string) *pb.AuthRoleAddRequest { return &pb.AuthRoleAddRequest{Name: name} }

func grantRole(user, role string) *pb.AuthUserGrantRoleRequest {
	return &pb.AuthUserGrantRoleRequest{User: user, Role: role}
}

func revokeRole(user, role string) *pb.AuthUserRevokeRoleRequest {
	return &pb.AuthUserRevokeRoleRequest{Name: user, Role: role}
}

func permit(role string, kind authpb.Permission_Type, key, end string) *pb.AuthRoleGrantPermissionRequest {
	return &pb.AuthRoleGrantPermissionRequest{Name: role,
		Perm: &authpb.Permission{PermType: kind, Key: []byte(key), RangeEnd: bytesOrNil(end)}}
}

func forbid(role, key, end string) *pb.AuthRoleRevokePermissionRequest {
	return &pb.AuthRoleRevokePermissionRequest{Role: role, Key: []byte(key), RangeEnd: bytesOrNil(end)}
}

// users of a realm; each has the role of its name, except those of whom a comment says otherwise.
var users = []string{
	"root", "reader", "writer", "foreign", "open",
	"joined", // reader and upper: two roles whose ranges join
	"roleless",
	"victim",  // what others are tried on
	"deleted", // removed before auth is on
}

// newRealm fills a server with keys, leases, users and roles, and turns auth on.
func newRealm(r *Recorder) *realm {
	r.until("the member is published", func() bool {
		members, err := pb.NewClusterClient(r.conn).MemberList(r.ctx, &pb.MemberListRequest{})
		return err == nil && r.published(members.Members)
	})
	w := &realm{Recorder: r}
	w.stale()
	const (
		read  = authpb.READ
		write = authpb.WRITE
		both  = authpb.READWRITE
	)
	w.quietly(realmKeys()...)
	for _, role := range []string{"root", "reader", "writer", "foreign", "open", "upper", "spare"} {
		w.quietly(roleAdd(role))
	}
	w.quietly(
		permit("reader", read, "a", "c"), permit("writer", write, "a", "c"), permit("foreign", both, "x", "z"),
		permit("open", both, "a", all), permit("upper", both, "c", "e"), permit("spare", read, "s", ""),
	)
	for _, user := range users {
		w.quietly(userAdd(user))
		if slices.Contains([]string{"root", "reader", "writer", "foreign", "open"}, user) {
			w.quietly(grantRole(user, user))
		}
	}
	w.quietly(grantRole("joined", "reader"), grantRole("joined", "upper"), grantRole("victim", "spare"),
		&pb.AuthUserAddRequest{Name: "nopassword", Options: &authpb.UserAddOptions{NoPassword: true}}, grantRole("nopassword", "reader"),
		&pb.AuthUserDeleteRequest{Name: "deleted"}, &pb.AuthEnableRequest{})
	return w
}

// realmKeys are the keys and leases that requests are tried on.
func realmKeys() []proto.Message {
	var out []proto.Message
	for id := leaseOfB; id <= leaseMixed; id++ {
		out = append(out, &pb.LeaseGrantRequest{ID: id, TTL: 100_000 + 10_000*id})
	}
	return append(out, put("a", "1"), putLease("b", "2", leaseOfB), putLease("b1", "3", leaseMixed), put("c", "4"),
		put("b/elect/4b", "boss"), putLease("x", "5", leaseOfX), putLease("y", "6", leaseMixed))
}

// Leases of a realm, and one that does not exist.
const (
	leaseOfB   = int64(71)
	leaseOfX   = int64(72)
	leaseEmpty = int64(73)
	leaseMixed = int64(74) // its keys are in ranges of different users
	noLease    = int64(99)
)

// service is the method's service: KV.
func (m rpc) service() string {
	service, _, _ := strings.Cut(m.name(), "/")
	return service
}
