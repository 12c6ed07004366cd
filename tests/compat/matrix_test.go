package compat

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
)

// attempt is one request that callers try, and what undoes it where it was allowed.
type attempt struct {
	req  proto.Message
	undo []proto.Message
}

func attempts(reqs ...proto.Message) []attempt {
	out := make([]attempt, len(reqs))
	for i, req := range reqs {
		out[i] = attempt{req: req}
	}
	return out
}

// undone is an attempt with what undoes it.
func undone(req proto.Message, undo ...proto.Message) attempt { return attempt{req, undo} }

// restoreKeys puts the keys of a realm back to where they were.
func restoreKeys() []proto.Message {
	return []proto.Message{put("a", "1"), putLease("b", "2", leaseOfB), putLease("b1", "3", leaseMixed), put("c", "4"),
		put("b/elect/4b", "boss"), putLease("x", "5", leaseOfX), putLease("y", "6", leaseMixed)}
}

// matrix is what each caller tries, by the method's path, of a member with a peer URL.
func matrix(ownURL string) map[string][]attempt {
	out := map[string][]attempt{}
	for _, part := range []map[string][]attempt{keyAttempts(), txnAttempts(), leaseAttempts(), memberAttempts(ownURL), authAttempts(), lockAttempts()} {
		for path, list := range part {
			out[path] = append(out[path], list...)
		}
	}
	return out
}

// intervals are inside, at the border of, and outside of what users of a realm may touch; some have no end, some are
// inverted or empty.
func intervals() [][2]string {
	return [][2]string{
		{"a", ""}, {"x", ""}, {"a", "b"}, {"a", "c"}, {"b", "d"}, {"a", "e"}, {"a", "z"}, {"a", all}, {"c", all}, {all, all}, {"b", "a"}, {"x", "a"},
		{"b", "b"}, {"c", "c"}, {"a", "c\x00"},
	}
}

func keyAttempts() map[string][]attempt {
	out := map[string][]attempt{}
	for _, i := range intervals() {
		out[pb.KV_Range_FullMethodName] = append(out[pb.KV_Range_FullMethodName], attempts(get(i[0], i[1]))...)
		out[pb.Watch_Watch_FullMethodName] = append(out[pb.Watch_Watch_FullMethodName],
			attempts(watchRequest(&pb.WatchCreateRequest{Key: []byte(i[0]), RangeEnd: bytesOrNil(i[1])}))...)
		deletion, withOld := del(i[0], i[1]), del(i[0], i[1])
		withOld.PrevKv = true
		out[pb.KV_DeleteRange_FullMethodName] = append(out[pb.KV_DeleteRange_FullMethodName],
			undone(deletion, restoreKeys()...), undone(withOld, restoreKeys()...))
	}
	out[pb.KV_Range_FullMethodName] = append(out[pb.KV_Range_FullMethodName], attempts(
		&pb.RangeRequest{Key: []byte("a"), Serializable: true}, &pb.RangeRequest{Key: []byte("x"), Serializable: true},
		&pb.RangeRequest{}, &pb.RangeRequest{Key: []byte("a"), Revision: 1 << 40})...)
	out[pb.Watch_Watch_FullMethodName] = append(out[pb.Watch_Watch_FullMethodName], attempts(
		watchRequest(&pb.WatchCreateRequest{}), watchRequest(&pb.WatchCreateRequest{Key: []byte("x"), StartRevision: -1}),
		watchRequest(&pb.WatchCreateRequest{Key: []byte("a"), PrevKv: true, WatchId: 9}))...)
	out[pb.KV_RangeStream_FullMethodName] = attempts(get("a", ""), get("a", "c"), get("a", "d"), get("a", all), get(all, all), get("x", ""),
		&pb.RangeRequest{Key: []byte("a"), Serializable: true}, &pb.RangeRequest{})
	for _, req := range []*pb.PutRequest{
		put("a", "new"), put("x", "new"), put("c", "new"), put("", "new"),
		{Key: []byte("a"), Value: []byte("new"), PrevKv: true}, {Key: []byte("x"), PrevKv: true},
		{Key: []byte("a"), IgnoreValue: true}, {Key: []byte("absent"), IgnoreLease: true},
		putLease("a", "new", leaseOfB), putLease("a", "new", leaseOfX), putLease("a", "new", leaseMixed), putLease("a", "new", leaseEmpty),
		putLease("a", "new", noLease), putLease("x", "new", leaseMixed),
	} {
		out[pb.KV_Put_FullMethodName] = append(out[pb.KV_Put_FullMethodName], undone(req, restoreKeys()...))
	}
	out[pb.KV_Compact_FullMethodName] = attempts(compact(1), compact(1<<40), &pb.CompactionRequest{Revision: 2, Physical: true})
	return out
}

func watchRequest(create *pb.WatchCreateRequest) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}
}

func txnAttempts() map[string][]attempt {
	list := attempts(
		&pb.TxnRequest{}, &pb.TxnRequest{Compare: []*pb.Compare{valueIs("a", "1")}}, &pb.TxnRequest{Compare: []*pb.Compare{valueIs("x", "1")}},
		&pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("a"), RangeEnd: []byte("d")}}},
		&pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("a"), RangeEnd: []byte{0}}}},
		txn(get("a", "")), txn(get("x", "")), txn(get("a", all)), txn(&pb.RangeRequest{Key: []byte("a"), Serializable: true}),
		txn(txn(get("a", ""))), txn(txn(get("x", ""))), txn(nil), txn(txn(txn(del("x", "y")))),
		// The branch that does not run is checked as well.
		ifThen(valueIs("a", "1"), ops(get("a", "")), ops(get("x", ""))), ifThen(valueIs("a", "other"), ops(get("x", "")), ops(get("a", ""))),
		ifThen(valueIs("a", "1"), ops(get("a", "")), ops(put("x", "new"))), ifThen(valueIs("a", "1"), ops(get("a", "")), ops(txn(put("x", "new")))),
	)
	for _, req := range []*pb.TxnRequest{
		txn(put("a", "new")), txn(put("x", "new")), txn(put("a", "new"), put("x", "new")), txn(del("a", "")), txn(del("a", all)), txn(del("a", "d")),
		txn(&pb.DeleteRangeRequest{Key: []byte("a"), PrevKv: true}), txn(&pb.PutRequest{Key: []byte("a"), PrevKv: true}),
		txn(putLease("a", "new", leaseOfX)), txn(putLease("a", "new", leaseMixed)), txn(putLease("a", "new", noLease)),
		ifThen(valueIs("a", "1"), ops(put("a", "new")), ops(get("x", ""))), txn(txn(put("a", "new"))),
		ifThen(valueIs("x", "5"), ops(put("a", "new")), nil),
	} {
		list = append(list, undone(req, restoreKeys()...))
	}
	return map[string][]attempt{pb.KV_Txn_FullMethodName: list}
}

func leaseAttempts() map[string][]attempt {
	out := map[string][]attempt{
		pb.Lease_LeaseGrant_FullMethodName: {
			undone(&pb.LeaseGrantRequest{ID: 81, TTL: 1000}, &pb.LeaseRevokeRequest{ID: 81}),
			{req: &pb.LeaseGrantRequest{ID: leaseOfB, TTL: 1000}}, {req: &pb.LeaseGrantRequest{ID: 82, TTL: 1 << 60}},
		},
		pb.Lease_LeaseLeases_FullMethodName: attempts(&pb.LeaseLeasesRequest{}),
	}
	for _, id := range []int64{leaseOfB, leaseOfX, leaseEmpty, leaseMixed, noLease} {
		restore := append([]proto.Message{&pb.LeaseGrantRequest{ID: id, TTL: 100_000 + 10_000*id}}, restoreKeys()...)
		out[pb.Lease_LeaseRevoke_FullMethodName] = append(out[pb.Lease_LeaseRevoke_FullMethodName],
			undone(&pb.LeaseRevokeRequest{ID: id}, restore...))
		out[pb.Lease_LeaseKeepAlive_FullMethodName] = append(out[pb.Lease_LeaseKeepAlive_FullMethodName],
			attempts(&pb.LeaseKeepAliveRequest{ID: id})...)
		out[pb.Lease_LeaseTimeToLive_FullMethodName] = append(out[pb.Lease_LeaseTimeToLive_FullMethodName],
			attempts(&pb.LeaseTimeToLiveRequest{ID: id}, ttl(id))...)
	}
	return out
}

func memberAttempts(ownURL string) map[string][]attempt {
	alarm := func(action pb.AlarmRequest_AlarmAction) *pb.AlarmRequest {
		return &pb.AlarmRequest{Action: action, MemberID: 11, Alarm: pb.AlarmType_NOSPACE}
	}
	downgrade := func(action pb.DowngradeRequest_DowngradeAction, version string) *pb.DowngradeRequest {
		return &pb.DowngradeRequest{Action: action, Version: version}
	}
	return map[string][]attempt{
		pb.Cluster_MemberAdd_FullMethodName: attempts(
			&pb.MemberAddRequest{}, &pb.MemberAddRequest{PeerURLs: []string{ownURL}, IsLearner: true}),
		pb.Cluster_MemberRemove_FullMethodName:  attempts(&pb.MemberRemoveRequest{ID: 99}),
		pb.Cluster_MemberUpdate_FullMethodName:  attempts(&pb.MemberUpdateRequest{ID: 99, PeerURLs: []string{"http://127.0.0.9:9"}}),
		pb.Cluster_MemberPromote_FullMethodName: attempts(&pb.MemberPromoteRequest{ID: 99}),
		pb.Cluster_MemberList_FullMethodName:    attempts(&pb.MemberListRequest{}, &pb.MemberListRequest{Linearizable: true}),
		pb.Maintenance_Alarm_FullMethodName: {
			{req: alarm(pb.AlarmRequest_GET)}, undone(alarm(pb.AlarmRequest_ACTIVATE), alarm(pb.AlarmRequest_DEACTIVATE)),
			{req: alarm(pb.AlarmRequest_DEACTIVATE)},
		},
		pb.Maintenance_Status_FullMethodName:     attempts(&pb.StatusRequest{}),
		pb.Maintenance_Defragment_FullMethodName: attempts(&pb.DefragmentRequest{}),
		pb.Maintenance_Hash_FullMethodName:       attempts(&pb.HashRequest{}),
		pb.Maintenance_HashKV_FullMethodName:     attempts(&pb.HashKVRequest{}, &pb.HashKVRequest{Revision: 1 << 40}),
		pb.Maintenance_Snapshot_FullMethodName:   attempts(&pb.SnapshotRequest{}),
		pb.Maintenance_MoveLeader_FullMethodName: attempts(&pb.MoveLeaderRequest{TargetID: 99}),
		pb.Maintenance_Downgrade_FullMethodName: attempts(downgrade(pb.DowngradeRequest_VALIDATE, "3.6"), downgrade(pb.DowngradeRequest_ENABLE, "1.0"),
			downgrade(pb.DowngradeRequest_CANCEL, "")),
	}
}

func authAttempts() map[string][]attempt {
	long := make([]byte, 73)
	for i := range long {
		long[i] = 'p'
	}
	return map[string][]attempt{
		pb.Auth_AuthEnable_FullMethodName:  attempts(&pb.AuthEnableRequest{}),
		pb.Auth_AuthDisable_FullMethodName: {undone(&pb.AuthDisableRequest{}, &pb.AuthEnableRequest{})},
		pb.Auth_AuthStatus_FullMethodName:  attempts(&pb.AuthStatusRequest{}),
		pb.Auth_Authenticate_FullMethodName: attempts(
			&pb.AuthenticateRequest{Name: "reader", Password: password("reader")}, &pb.AuthenticateRequest{Name: "reader", Password: "wrong"},
			&pb.AuthenticateRequest{Name: "reader"}, &pb.AuthenticateRequest{}, &pb.AuthenticateRequest{Name: "nopassword", Password: "x"},
			&pb.AuthenticateRequest{Name: "nopassword"}, &pb.AuthenticateRequest{Name: "deleted", Password: password("deleted")},
			&pb.AuthenticateRequest{Name: "reader", Password: string(long)}),
		pb.Auth_UserAdd_FullMethodName: {
			undone(userAdd("new"), &pb.AuthUserDeleteRequest{Name: "new"}),
			undone(&pb.AuthUserAddRequest{Name: "new", Options: &authpb.UserAddOptions{NoPassword: true}}, &pb.AuthUserDeleteRequest{Name: "new"}),
			undone(&pb.AuthUserAddRequest{Name: "new"}, &pb.AuthUserDeleteRequest{Name: "new"}),
			{req: userAdd("reader")}, {req: userAdd("")}, {req: &pb.AuthUserAddRequest{Name: "new", Password: string(long)}},
		},
		pb.Auth_UserGet_FullMethodName: attempts(&pb.AuthUserGetRequest{Name: "reader"}, &pb.AuthUserGetRequest{Name: "root"},
			&pb.AuthUserGetRequest{Name: "absent"}, &pb.AuthUserGetRequest{}),
		pb.Auth_UserList_FullMethodName: attempts(&pb.AuthUserListRequest{}),
		pb.Auth_UserDelete_FullMethodName: {
			undone(&pb.AuthUserDeleteRequest{Name: "victim"}, userAdd("victim"), grantRole("victim", "spare")),
			{req: &pb.AuthUserDeleteRequest{Name: "root"}}, {req: &pb.AuthUserDeleteRequest{Name: "absent"}}, {req: &pb.AuthUserDeleteRequest{}},
		},
		pb.Auth_UserChangePassword_FullMethodName: attempts(
			&pb.AuthUserChangePasswordRequest{Name: "victim", Password: "other"}, &pb.AuthUserChangePasswordRequest{Name: "victim"},
			&pb.AuthUserChangePasswordRequest{Name: "absent", Password: "other"}, &pb.AuthUserChangePasswordRequest{Name: "victim", Password: string(long)},
			&pb.AuthUserChangePasswordRequest{Name: "nopassword", Password: "other"}),
		pb.Auth_UserGrantRole_FullMethodName: {
			undone(grantRole("victim", "reader"), revokeRole("victim", "reader")), {req: grantRole("victim", "spare")},
			{req: grantRole("victim", "absent")}, {req: grantRole("absent", "reader")}, undone(grantRole("victim", "root"), revokeRole("victim", "root")),
		},
		pb.Auth_UserRevokeRole_FullMethodName: {
			undone(revokeRole("victim", "spare"), grantRole("victim", "spare")), {req: revokeRole("victim", "reader")}, {req: revokeRole("root", "root")},
			{req: revokeRole("absent", "reader")}, {req: revokeRole("victim", "absent")},
		},
		pb.Auth_RoleAdd_FullMethodName: {
			undone(roleAdd("new"), &pb.AuthRoleDeleteRequest{Role: "new"}), {req: roleAdd("reader")}, {req: roleAdd("")},
		},
		pb.Auth_RoleGet_FullMethodName: attempts(&pb.AuthRoleGetRequest{Role: "reader"}, &pb.AuthRoleGetRequest{Role: "root"},
			&pb.AuthRoleGetRequest{Role: "foreign"}, &pb.AuthRoleGetRequest{Role: "absent"}, &pb.AuthRoleGetRequest{}),
		pb.Auth_RoleList_FullMethodName: attempts(&pb.AuthRoleListRequest{}),
		pb.Auth_RoleDelete_FullMethodName: {
			undone(&pb.AuthRoleDeleteRequest{Role: "spare"}, roleAdd("spare"), permit("spare", authpb.READ, "s", ""), grantRole("victim", "spare")),
			{req: &pb.AuthRoleDeleteRequest{Role: "root"}}, {req: &pb.AuthRoleDeleteRequest{Role: "absent"}},
		},
		pb.Auth_RoleGrantPermission_FullMethodName: {
			undone(permit("spare", authpb.READ, "k", "l"), forbid("spare", "k", "l")), undone(permit("spare", authpb.WRITE, "k", all), forbid("spare", "k", all)),
			{req: permit("spare", authpb.READ, "s", "")}, {req: permit("spare", authpb.READ, "l", "k")}, {req: permit("spare", authpb.READ, "", "")},
			{req: permit("absent", authpb.READ, "k", "")}, {req: &pb.AuthRoleGrantPermissionRequest{Name: "spare"}},
		},
		pb.Auth_RoleRevokePermission_FullMethodName: {
			undone(forbid("spare", "s", ""), permit("spare", authpb.READ, "s", "")), {req: forbid("spare", "s", "t")}, {req: forbid("absent", "s", "")},
		},
	}
}

func lockAttempts() map[string][]attempt {
	leader := &v3electionpb.LeaderKey{Name: []byte("b/new"), Key: []byte("b/new/49"), Rev: 1, Lease: leaseEmpty}
	return map[string][]attempt{
		v3lockpb.Lock_Lock_FullMethodName: {
			undone(&v3lockpb.LockRequest{Name: []byte("b/lock"), Lease: leaseEmpty}, del("b/lock/49", "")),
			undone(&v3lockpb.LockRequest{Name: []byte("x/lock"), Lease: leaseEmpty}, del("x/lock/49", "")),
			{req: &v3lockpb.LockRequest{Name: []byte("b/lock"), Lease: noLease}},
		},
		v3lockpb.Lock_Unlock_FullMethodName: attempts(&v3lockpb.UnlockRequest{Key: []byte("b/lock/49")}, &v3lockpb.UnlockRequest{Key: []byte("x/lock/49")}),
		v3electionpb.Election_Campaign_FullMethodName: {
			undone(&v3electionpb.CampaignRequest{Name: []byte("b/new"), Lease: leaseEmpty, Value: []byte("v")}, del("b/new/49", "")),
			{req: &v3electionpb.CampaignRequest{Name: []byte("b/new"), Lease: noLease}},
		},
		v3electionpb.Election_Proclaim_FullMethodName: attempts(&v3electionpb.ProclaimRequest{Leader: leader, Value: []byte("v")}, &v3electionpb.ProclaimRequest{}),
		v3electionpb.Election_Leader_FullMethodName: attempts(&v3electionpb.LeaderRequest{Name: []byte("b/elect")},
			&v3electionpb.LeaderRequest{Name: []byte("b/new")}, &v3electionpb.LeaderRequest{Name: []byte("x/elect")}),
		v3electionpb.Election_Observe_FullMethodName: attempts(&v3electionpb.LeaderRequest{Name: []byte("b/elect")}),
		v3electionpb.Election_Resign_FullMethodName:  attempts(&v3electionpb.ResignRequest{Leader: leader}, &v3electionpb.ResignRequest{}),
	}
}

// TestMatrixIsComplete: every method of etcd's services is tried, and nothing else.
func TestMatrixIsComplete(t *testing.T) {
	list := matrix("http://127.0.0.1:2380")
	if n := len(etcdRPCs()); n != 49 {
		t.Errorf("etcd's services have %d methods, want the 49 of etcd 3.7", n)
	}
	for _, m := range etcdRPCs() {
		if len(list[m.path]) == 0 {
			t.Errorf("nobody tries %s", m.path)
		}
		for _, a := range list[m.path] {
			if got, want := a.req.ProtoReflect().Descriptor().FullName(), m.input.Descriptor().FullName(); got != want {
				t.Errorf("%s is tried with a %s, want a %s", m.path, got, want)
			}
		}
		delete(list, m.path)
	}
	for path := range list {
		t.Errorf("%s is tried and is no method of etcd", path)
	}
}

// tryAll lets a caller try every method.
func (w *realm) tryAll(c caller) {
	list := matrix(w.peerURL())
	for _, m := range etcdRPCs() {
		for _, a := range list[m.path] {
			if w.as(c, m, a.req) != nil {
				w.quietly(a.undo...)
			}
		}
	}
}

// tryOne lets a caller try one request of every kind of check.
func (w *realm) tryOne(c caller) {
	for _, one := range []struct {
		path string
		req  proto.Message
	}{
		{pb.KV_Range_FullMethodName, get("a", "")}, {pb.KV_Put_FullMethodName, put("a", "1")}, {pb.KV_RangeStream_FullMethodName, get("a", "c")},
		{pb.KV_Txn_FullMethodName, txn(get("a", ""))}, {pb.Watch_Watch_FullMethodName, watchRequest(&pb.WatchCreateRequest{Key: []byte("a")})},
		{pb.Lease_LeaseKeepAlive_FullMethodName, &pb.LeaseKeepAliveRequest{ID: leaseOfB}}, {pb.Lease_LeaseTimeToLive_FullMethodName, ttl(leaseOfB)},
		{pb.Lease_LeaseGrant_FullMethodName, &pb.LeaseGrantRequest{ID: leaseOfB, TTL: 1000}}, {pb.Lease_LeaseLeases_FullMethodName, &pb.LeaseLeasesRequest{}},
		{pb.Cluster_MemberList_FullMethodName, &pb.MemberListRequest{}}, {pb.Maintenance_Status_FullMethodName, &pb.StatusRequest{}},
		{pb.Maintenance_HashKV_FullMethodName, &pb.HashKVRequest{}}, {pb.Auth_UserList_FullMethodName, &pb.AuthUserListRequest{}},
		{pb.Auth_UserGet_FullMethodName, &pb.AuthUserGetRequest{Name: "reader"}}, {pb.Auth_AuthStatus_FullMethodName, &pb.AuthStatusRequest{}},
		{pb.Auth_Authenticate_FullMethodName, &pb.AuthenticateRequest{Name: "reader", Password: password("reader")}},
	} {
		w.as(c, rpcByPath(one.path), one.req)
	}
}
