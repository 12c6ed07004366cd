package compat

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/tests/harness"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

var (
	authOn     = &pb.AuthEnableRequest{}
	authOff    = &pb.AuthDisableRequest{}
	authStatus = &pb.AuthStatusRequest{}
)

// root is the caller who may do everything, and nobody while auth is off.
var root = caller{name: "root", metadata: func(w *realm) []string {
	t, err := w.login("root")
	if err != nil {
		return nil
	}
	return []string{"token", t}
}}

// compareRealms is compare for a scenario that begins with nobody known and auth off.
func compareRealms(t *testing.T, scenario func(*realm), args ...string) {
	t.Helper()
	compare(t, harness.Options{Args: append(args, cheapPasswords)}, func(r *Recorder) {
		w := &realm{Recorder: r}
		w.stale()
		scenario(w)
	})
}

// compareFilled is compareRealms with the realm of newRealm.
func compareFilled(t *testing.T, scenario func(*realm), args ...string) {
	t.Helper()
	compare(t, harness.Options{Args: append(args, cheapPasswords)}, func(r *Recorder) { scenario(newRealm(r)) })
}

// revised makes requests, each followed by the question for the revision of users and roles.
func (w *realm) revised(c caller, reqs ...proto.Message) {
	for _, req := range reqs {
		w.does(c, req)
		w.does(nobody, authStatus)
	}
}

// login requests a token with a password of the scenario's choice and returns a caller with it.
func (w *realm) loginAs(user, password string) caller {
	resp, _ := w.as(nobody, rpcByPath(pb.Auth_Authenticate_FullMethodName), &pb.AuthenticateRequest{Name: user, Password: password}).(*pb.AuthenticateResponse)
	return with("token of "+user, "token", resp.GetToken())
}

func changePassword(user, password string) *pb.AuthUserChangePasswordRequest {
	return &pb.AuthUserChangePasswordRequest{Name: user, Password: password}
}

func userDelete(name string) *pb.AuthUserDeleteRequest { return &pb.AuthUserDeleteRequest{Name: name} }
func userGet(name string) *pb.AuthUserGetRequest       { return &pb.AuthUserGetRequest{Name: name} }
func roleGet(name string) *pb.AuthRoleGetRequest       { return &pb.AuthRoleGetRequest{Role: name} }
func roleDelete(name string) *pb.AuthRoleDeleteRequest { return &pb.AuthRoleDeleteRequest{Role: name} }

// allUsers asks for everything that is known of users and roles.
func (w *realm) allUsers(c caller) {
	w.does(c, authStatus, &pb.AuthUserListRequest{}, &pb.AuthRoleListRequest{})
	for _, name := range []string{"root", "a", "b", "reader", "joined", ""} {
		w.does(c, userGet(name), roleGet(name))
	}
}

// TestAuthManagement walks through the 17 RPCs and their errors, first with auth off, then on, and shows which of them
// raise the revision.
func TestAuthManagement(t *testing.T) {
	steps := func(w *realm) {
		const r, wr, both = authpb.READ, authpb.WRITE, authpb.READWRITE
		w.revised(root, userAdd(""), userAdd("a"), userAdd("a"), userAdd("b"), &pb.AuthUserAddRequest{Name: "c"},
			&pb.AuthUserAddRequest{Name: "d", Options: &authpb.UserAddOptions{NoPassword: true}},
			&pb.AuthUserAddRequest{Name: "e", Password: "x", Options: &authpb.UserAddOptions{NoPassword: true}},
			&pb.AuthUserAddRequest{Name: "f", Password: "x", HashedPassword: "bm9uZQ=="}, &pb.AuthUserAddRequest{Name: "g", HashedPassword: "not base64!"},
			userAdd("ä ö"), userAdd("a/b"), userAdd(strings.Repeat("n", 1000)))
		w.revised(root, roleAdd(""), roleAdd("a"), roleAdd("a"), roleAdd("b"), roleAdd("reader"), roleAdd("ä ö"))
		w.revised(root, grantRole("a", "a"), grantRole("a", "a"), grantRole("a", "b"), grantRole("a", "none"), grantRole("none", "a"), grantRole("", ""),
			grantRole("a", ""), grantRole("b", "root"), grantRole("b", "root"))
		w.revised(root, permit("a", r, "k", ""), permit("a", r, "k", ""), permit("a", wr, "k", ""), permit("a", both, "k", "l"), permit("a", r, "k", all),
			permit("a", r, "k", "m"), permit("a", wr, "k", "l"), permit("a", r, "b", "c"), permit("a", 7, "t", ""), permit("none", r, "k", ""), permit("", r, "k", ""),
			permit("a", r, "", ""), permit("a", r, "", "b"), permit("a", r, "", all), permit("a", r, "l", "k"), permit("a", r, "k", "k"), permit("a", r, all, all),
			permit("a", r, "k", "\x00\x00"), permit("a", r, "\xff", "\x00"), &pb.AuthRoleGrantPermissionRequest{Name: "a"}, &pb.AuthRoleGrantPermissionRequest{Name: "none"},
			permit("root", r, "k", ""))
		w.allUsers(root)
		w.revised(root, forbid("a", "k", "nothing"), forbid("a", "k", ""), forbid("a", "k", ""), forbid("none", "k", ""), forbid("a", "", ""), forbid("a", "k", all),
			forbid("root", "k", ""))
		w.revised(root, revokeRole("a", "b"), revokeRole("a", "b"), revokeRole("a", "none"), revokeRole("none", "a"), revokeRole("b", "root"), revokeRole("", ""))
		w.revised(root, changePassword("a", "new"), changePassword("a", ""), changePassword("none", "new"), changePassword("d", "new"), changePassword("", ""),
			&pb.AuthUserChangePasswordRequest{Name: "a", HashedPassword: "bm9uZQ=="}, &pb.AuthUserChangePasswordRequest{Name: "a", HashedPassword: "not base64!"},
			&pb.AuthUserChangePasswordRequest{Name: "a", Password: "x", HashedPassword: "not base64!"},
			&pb.AuthUserChangePasswordRequest{Name: "d", HashedPassword: "not base64!"})
		w.allUsers(root)
		w.revised(root, roleDelete("none"), roleDelete(""), roleDelete("a"), roleDelete("a"), userDelete("none"), userDelete(""), userDelete("a"), userDelete("a"))
		w.allUsers(root)
		for _, name := range []string{"b", "c", "d", "e", "f", "g", "ä ö", "a/b", strings.Repeat("n", 1000)} {
			w.revised(root, userDelete(name))
		}
		for _, name := range []string{"b", "reader", "ä ö"} {
			w.revised(root, roleDelete(name))
		}
		w.allUsers(root)
	}
	compareRealms(t, func(w *realm) {
		w.does(nobody, put("a", "1"))
		steps(w)
		w.revised(nobody, authOn, authOff, roleAdd("root"), authOn, userAdd("root"), authOn, grantRole("root", "root"), authOn, authOn)
		steps(w)
		w.revised(root, authOn, authOff, authOff)
	})
}

// TestRootRules: what keeps an administrator from locking everybody out, and what does not.
func TestRootRules(t *testing.T) {
	compareRealms(t, func(w *realm) {
		w.revised(nobody, userAdd("root"), grantRole("root", "root"), authOn) // no record of the role root is needed
		w.revised(root, roleGet("root"), userDelete("root"), revokeRole("root", "root"), roleDelete("root"), roleAdd("root"), roleGet("root"),
			permit("root", authpb.READ, "a", ""), roleGet("root"), roleDelete("root"), forbid("root", "a", ""), changePassword("root", password("root")))
		// Another administrator may do the same, and may not do more.
		w.revised(root, userAdd("a"), grantRole("a", "root"))
		other := signedIn("a")
		w.revised(other, userDelete("root"), revokeRole("root", "root"), roleDelete("root"), changePassword("root", "other"), changePassword("root", password("root")),
			revokeRole("a", "root"), roleAdd("x"))
		w.revised(root, grantRole("a", "root"), userDelete("a"), authOff)
		w.revised(nobody, revokeRole("root", "root"), authOn, grantRole("root", "root"), roleDelete("root"), authOn, grantRole("root", "root"), authOn)
		w.revised(root, authOff, userDelete("root"), authOn)
	})
}

// TestLogin covers Authenticate and what stands behind a password.
func TestLogin(t *testing.T) {
	long := strings.Repeat("p", 72)
	compareRealms(t, func(w *realm) {
		w.loginAs("root", "x") // auth is off
		w.does(nobody, roleAdd("root"), userAdd("root"), grantRole("root", "root"), userAdd("a"), &pb.AuthUserAddRequest{Name: "empty"},
			&pb.AuthUserAddRequest{Name: "long", Password: long}, &pb.AuthUserAddRequest{Name: "longer", Password: long + "p"},
			&pb.AuthUserAddRequest{Name: "none", Options: &authpb.UserAddOptions{NoPassword: true}},
			&pb.AuthUserAddRequest{Name: "nul", Password: "a\x00b"}, authOn)
		for _, try := range [][2]string{
			{"a", password("a")}, {"a", "wrong"}, {"a", ""}, {"a", strings.Repeat("x", 100_000)}, {"", ""}, {"", "x"}, {"absent", "x"}, {"empty", ""}, {"empty", "x"},
			{"long", long}, {"long", long + "p"}, {"long", long[1:]}, {"longer", long}, {"none", ""}, {"none", "x"}, {"nul", "a\x00b"}, {"nul", "a\x00c"}, {"nul", "a"},
			{"A", password("a")}, {"root", password("root")}, {"root", password("a")},
		} {
			c := w.loginAs(try[0], try[1])
			w.does(c, get("a", ""), userGet(try[0]))
		}
		// New passwords: the old one ends, and so do its tokens.
		old := w.loginAs("a", password("a"))
		w.does(old, userGet("a"))
		w.does(root, changePassword("a", "new"))
		w.does(old, userGet("a"), authStatus, get("a", ""), &pb.StatusRequest{})
		w.loginAs("a", password("a"))
		c := w.loginAs("a", "new")
		w.does(root, changePassword("a", "")) // no password fits now
		w.does(c, userGet("a"))
		for _, try := range []string{"", "new", password("a")} {
			w.loginAs("a", try)
		}
		w.does(root, &pb.AuthUserChangePasswordRequest{Name: "a", HashedPassword: "bm9uZQ=="}) // is no hash
		w.loginAs("a", "none")
		w.does(root, changePassword("a", long+"p"), changePassword("a", long))
		w.loginAs("a", long)
		w.does(root, changePassword("none", "x"))
		w.loginAs("none", "x")
		// A password that somebody else's token comes with: the token is not looked at.
		w.does(with("a bad token", "token", "nonsense"), &pb.AuthenticateRequest{Name: "a", Password: long}, &pb.AuthenticateRequest{Name: "a", Password: "x"})
	})
}

// TestTokensEnd: a token ends with its user, with the user's password, when auth is turned off, and with the member.
func TestTokensEnd(t *testing.T) {
	compareFilled(t, func(w *realm) {
		use := func(cs ...caller) {
			for _, c := range cs {
				w.does(c, get("a", ""), userGet("reader"), authStatus)
			}
		}
		reader, admin := w.loginAs("reader", password("reader")), w.loginAs("root", password("root"))
		second := w.loginAs("reader", password("reader"))
		use(reader, second, admin)
		w.does(root, changePassword("reader", password("reader")))
		use(reader, second, admin)
		reader = w.loginAs("reader", password("reader"))
		w.does(root, userDelete("reader"))
		use(reader)
		w.does(root, userAdd("reader"), grantRole("reader", "reader"))
		use(reader)
		reader = w.loginAs("reader", password("reader"))
		w.does(root, revokeRole("reader", "reader")) // the token stays, what it is good for changes
		use(reader)
		w.does(root, grantRole("reader", "reader"), permit("reader", authpb.READ, "x", ""))
		use(reader)
		w.does(root, authOff)
		use(reader, with("nonsense while auth is off", "token", "nonsense"))
		w.does(nobody, authOn)
		use(reader, admin)
		reader, admin = w.loginAs("reader", password("reader")), w.loginAs("root", password("root"))
		w.notef("> stop and start again") // after a kill, etcd knows the tokens that its backend had not committed yet
		w.Recorder.restart(false)
		use(reader, admin, nobody)
		w.stale()
		w.allUsers(root)
		use(signedIn("reader"))
	})
}

// restart kills the server and starts it again on its data.
func (w *realm) restart() {
	w.notef("> kill and start again")
	w.Recorder.restart(true)
}

// TestUsersSurvive: users, roles and whether auth is on are there after a kill; signed tokens are good for as long as
// they say.
func TestUsersSurvive(t *testing.T) {
	for _, on := range []bool{false, true} {
		t.Run(fmt.Sprintf("on=%v", on), func(t *testing.T) {
			compareFilled(t, func(w *realm) {
				if !on {
					w.does(root, authOff)
				}
				w.allUsers(root)
				w.restart()
				w.allUsers(root)
				w.does(nobody, get("a", ""))
				w.revised(root, roleAdd("later"), authOn)
				w.restart()
				w.allUsers(root)
				w.does(signedIn("joined"), get("a", "e"), get("a", "f"), put("c", "1"), put("a", "1"))
			})
		})
	}
}

// TestPermissionRanges puts the permissions of one or two roles together and asks for ranges around their borders.
func TestPermissionRanges(t *testing.T) {
	type perm struct{ key, end string }
	sets := [][][]perm{
		{{}}, {{{"b", ""}}}, {{{"b", "d"}}}, {{{"b", all}}}, {{{all, all}}}, {{{"\x00", ""}}},
		{{{"a", "c"}, {"c", "e"}}}, {{{"a", "c"}, {"d", "e"}}}, {{{"a", "d"}, {"b", "e"}}}, {{{"a", "c"}, {"c", ""}, {"c\x00", "e"}}}, {{{"a", ""}, {"b", ""}, {"c", ""}}},
		{{{"a", "c"}}, {{"c", "e"}}}, {{{"a", "c"}}, {{"b", all}}}, {{{"a", "b"}, {"d", "e"}}, {{"b", "d"}}}, {{{"a", "e"}}, {{"b", "c"}}}, {{{"a", "b"}}, {{"c", "d"}}},
		{{{"a", "z"}}, {{"m", all}}}, {{{"d", all}}, {{"a", "d"}}},
	}
	ends := []string{"", "a", "b", "c", "c\x00", "d", "e", "f", "\xff", "\xff\xff", all}
	compareFilled(t, func(w *realm) {
		w.does(root, userAdd("asker"))
		for n, set := range sets {
			var roles []string
			for i, perms := range set {
				role := fmt.Sprintf("set %d.%d", n, i)
				roles = append(roles, role)
				w.quietly(roleAdd(role), grantRole("asker", role))
				for _, p := range perms {
					w.quietly(permit(role, authpb.READ, p.key, p.end))
				}
			}
			w.notef("permissions %q", set)
			for _, key := range []string{all, "a", "b", "c", "d", "e", "m", "\xff"} {
				for _, end := range ends {
					w.does(signedIn("asker"), &pb.RangeRequest{Key: []byte(key), RangeEnd: bytesOrNil(end), CountOnly: true})
				}
			}
			for _, role := range roles {
				w.quietly(roleDelete(role))
			}
		}
	})
}

// TestPermissionTypes: reading and writing are apart; what a request gives back must be readable.
func TestPermissionTypes(t *testing.T) {
	compareFilled(t, func(w *realm) {
		w.does(root, userAdd("u"), roleAdd("u"), grantRole("u", "u"))
		for _, kind := range []authpb.Permission_Type{authpb.READ, authpb.WRITE, authpb.READWRITE, 7} {
			w.does(root, permit("u", kind, "k", ""), put("k", "1"))
			u := signedIn("u")
			w.does(u, get("k", ""), put("k", "2"), &pb.PutRequest{Key: []byte("k"), PrevKv: true}, &pb.PutRequest{Key: []byte("k"), IgnoreValue: true},
				del("k", ""), &pb.DeleteRangeRequest{Key: []byte("k"), PrevKv: true}, txn(get("k", "")), txn(put("k", "3")), txn(&pb.PutRequest{Key: []byte("k"), PrevKv: true}),
				txn(&pb.DeleteRangeRequest{Key: []byte("k"), PrevKv: true}), ifThen(valueIs("k", "3"), nil, nil), ifThen(valueIs("k", "3"), ops(put("k", "4")), nil),
				txn(del("k", ""), put("k", "5")))
		}
		// Of two permissions with one key a later grant looks at the first only.
		w.does(root, roleAdd("q"), permit("q", authpb.READ, "k", ""), permit("q", authpb.READ, "k", "l"), permit("q", authpb.READ, "k", "m"), roleGet("q"),
			permit("q", authpb.WRITE, "k", "l"), permit("q", authpb.WRITE, "k", ""), permit("q", authpb.READWRITE, "k", "m"), roleGet("q"), forbid("q", "k", "l"),
			roleGet("q"), forbid("q", "k", ""), roleGet("q"))
		for i := range 20 { // enough for a sort that is not stable to show
			w.does(root, permit("q", authpb.READ, "k", fmt.Sprintf("l%02d", (7*i)%20)), permit("q", authpb.READ, "j", fmt.Sprintf("l%02d", (3*i)%20)))
		}
		w.does(root, roleGet("q"))
	})
}

// TestOpenEndedRanges: who may touch a bounded range gets none without an end (GHSA-xg4h-6gfc-h4m8).
func TestOpenEndedRanges(t *testing.T) {
	compareFilled(t, func(w *realm) {
		w.does(root, userAdd("bounded"), roleAdd("bounded"), grantRole("bounded", "bounded"), permit("bounded", authpb.READWRITE, "a", "\xff\xff\xff"))
		for _, user := range []string{"bounded", "open", "reader", "writer", "joined", "root"} {
			c := signedIn(user)
			for _, key := range []string{all, "a", "b", "z"} {
				w.does(c, get(key, all), txn(get(key, all)), &pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte(key), RangeEnd: []byte{0}}}})
				w.as(c, rpcByPath(pb.Watch_Watch_FullMethodName), watchRequest(&pb.WatchCreateRequest{Key: []byte(key), RangeEnd: []byte{0}}))
				w.as(c, rpcByPath(pb.Watch_Watch_FullMethodName), watchRequest(&pb.WatchCreateRequest{Key: []byte(key), RangeEnd: []byte{0}, StartRevision: 1}))
				w.as(c, rpcByPath(pb.KV_RangeStream_FullMethodName), get(key, all))
				w.does(c, del(key, all), txn(del(key, all)))
				w.quietly(restoreKeys()...)
			}
		}
	})
}

// TestWatchAfterRevocation: a watch is checked when it is created, and goes on.
func TestWatchAfterRevocation(t *testing.T) {
	compareFilled(t, func(w *realm) {
		ctx := metadata.AppendToOutgoingContext(w.ctx, "token", w.token("reader"))
		stream := w.WatchContext(ctx)
		stream.Created(&pb.WatchCreateRequest{Key: []byte("a"), PrevKv: true})
		stream.Created(&pb.WatchCreateRequest{Key: []byte("x")})
		w.does(root, put("a", "seen"))
		stream.Recv()
		w.does(root, forbid("reader", "a", "c"), put("a", "still seen"))
		stream.Recv()
		stream.Created(&pb.WatchCreateRequest{Key: []byte("a")})
		w.does(root, userDelete("reader"), put("a", "seen by the deleted"))
		stream.Recv()
		stream.Created(&pb.WatchCreateRequest{Key: []byte("a")})
		stream.Cancel(0)
		stream.Recv()
		w.does(root, authOff)
		stream.Created(&pb.WatchCreateRequest{Key: []byte("x")})
		w.does(nobody, put("x", "seen"))
		stream.Recv()
		w.does(nobody, authOn)
		stream.Created(&pb.WatchCreateRequest{Key: []byte("x")})
		w.does(root, put("x", "seen still"))
		stream.Recv()
		anonymous := w.Watch()
		anonymous.Created(&pb.WatchCreateRequest{Key: []byte("x")})
		anonymous.Created(&pb.WatchCreateRequest{Key: []byte("x"), StartRevision: -1})
	})
}

// TestLeasesOfOthers: a lease is its keys': whoever may not write one of them cannot end, renew or join it.
func TestLeasesOfOthers(t *testing.T) {
	keepAlive := rpcByPath(pb.Lease_LeaseKeepAlive_FullMethodName)
	compareFilled(t, func(w *realm) {
		c, other := signedIn("open"), signedIn("foreign")
		w.does(c, &pb.LeaseGrantRequest{ID: 200, TTL: 1000}, putLease("b", "1", 200), ttl(200))
		for _, user := range []caller{other, signedIn("reader"), signedIn("writer"), signedIn("roleless"), nobody} {
			w.as(user, keepAlive, &pb.LeaseKeepAliveRequest{ID: 200})
			w.does(user, ttl(200), &pb.LeaseTimeToLiveRequest{ID: 200}, &pb.LeaseRevokeRequest{ID: 200}, putLease("x", "1", 200), txn(putLease("x", "1", 200)),
				putLease("a", "1", 200), &pb.LeaseLeasesRequest{})
		}
		w.does(c, putLease("x", "1", 200), del("b", ""), ttl(200))
		w.as(other, keepAlive, &pb.LeaseKeepAliveRequest{ID: 200})
		w.does(other, ttl(200), &pb.LeaseRevokeRequest{ID: 200}, ttl(200))
		// A lease without keys is everybody's.
		w.does(other, &pb.LeaseGrantRequest{ID: 201, TTL: 1000})
		w.as(signedIn("roleless"), keepAlive, &pb.LeaseKeepAliveRequest{ID: 201})
		w.does(signedIn("roleless"), ttl(201), &pb.LeaseRevokeRequest{ID: 201}, &pb.LeaseRevokeRequest{ID: 201}, ttl(201))
		for _, id := range []int64{leaseOfB, leaseOfX, leaseMixed} {
			w.does(root, &pb.LeaseRevokeRequest{ID: id})
		}
		w.does(signedIn("roleless"), &pb.LeaseLeasesRequest{})
		// Keys of a lease go when it ends, whoever is there to see.
		w.does(root, &pb.LeaseGrantRequest{ID: 202, TTL: 1}, putLease("b", "1", 202))
		w.until("the lease has ended", func() bool {
			ctx := metadata.AppendToOutgoingContext(w.ctx, "token", w.token("root"))
			resp, err := pb.NewKVClient(w.conn).Range(ctx, get("b", ""))
			return err == nil && resp.Count == 0
		})
	})
}

// TestAlarmsAndPermissions: an alarm refuses what a user may not do anyway; who manages users is not stopped by one.
func TestAlarmsAndPermissions(t *testing.T) {
	compareFilled(t, func(w *realm) {
		for _, kind := range []pb.AlarmType{pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT} {
			w.does(root, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 11, Alarm: kind})
			for _, c := range []caller{nobody, signedIn("reader"), signedIn("foreign"), root, with("a bad token", "token", "nonsense")} {
				w.does(c, put("a", "1"), put("", "1"), del("a", "b"), txn(put("a", "1")), txn(get("a", "")), txn(txn(get("a", ""))), get("a", ""), compact(1),
					&pb.LeaseGrantRequest{ID: 300, TTL: 1000}, &pb.LeaseRevokeRequest{ID: leaseOfX}, userAdd("late"), userDelete("late"), &pb.StatusRequest{},
					&pb.AlarmRequest{}, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: 12, Alarm: kind}, roleGet("reader"))
				w.quietly(&pb.LeaseGrantRequest{ID: leaseOfX, TTL: 100_000 + 10_000*leaseOfX})
			}
			w.does(root, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: 11, Alarm: kind})
		}
	})
}
