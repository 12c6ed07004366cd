package state

import (
	"errors"

	"github.com/dolmen-io/dolmen/internal/auth"
	"github.com/dolmen-io/dolmen/internal/lease"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// access decides what one identity may do with keys and leases, by the users and roles of one revision.
// The applier asks it for every entry, with the tables as they are then; a member asks it for the reads
// that it answers from a view.
type access struct {
	users  *auth.View
	leases *lease.Table
	who    auth.Identity
}

// identity is who proposed a request, as the proposer established it.
func identity(req *pb.InternalRaftRequest) auth.Identity {
	h := req.GetHeader()
	return auth.Identity{User: h.GetUsername(), Revision: h.GetAuthRevision()}
}

// put needs more than to write the key: whoever puts a key on a lease can have the lease's other keys
// deleted, so it must be allowed to write those too.
func (a *access) put(r *pb.PutRequest) error {
	if err := a.users.Check(a.who, r.GetKey(), nil, auth.Write); err != nil {
		return err
	}
	if err := a.leaseKeys(r.GetLease(), auth.Write); err != nil {
		return err
	}
	if r.GetPrevKv() {
		return a.users.Check(a.who, r.GetKey(), nil, auth.Read)
	}
	return nil
}

func (a *access) read(r *pb.RangeRequest) error {
	return a.users.Check(a.who, r.GetKey(), r.GetRangeEnd(), auth.Read)
}

func (a *access) deleteRange(r *pb.DeleteRangeRequest) error {
	if err := a.users.Check(a.who, r.GetKey(), r.GetRangeEnd(), auth.Write); err != nil {
		return err
	}
	if r.GetPrevKv() {
		return a.users.Check(a.who, r.GetKey(), r.GetRangeEnd(), auth.Read)
	}
	return nil
}

// txn checks all compares and the operations of both branches: which branch runs would already tell
// something about keys that must not be read.
func (a *access) txn(r *pb.TxnRequest) error {
	for _, c := range r.GetCompare() {
		if err := a.users.Check(a.who, c.GetKey(), c.GetRangeEnd(), auth.Read); err != nil {
			return err
		}
	}
	if err := a.ops(r.GetSuccess()); err != nil {
		return err
	}
	return a.ops(r.GetFailure())
}

func (a *access) ops(ops []*pb.RequestOp) error {
	for _, op := range ops {
		var err error
		switch t := op.GetRequest().(type) {
		case *pb.RequestOp_RequestRange:
			err = a.read(t.RequestRange)
		case *pb.RequestOp_RequestPut:
			err = a.put(t.RequestPut)
		case *pb.RequestOp_RequestDeleteRange:
			err = a.deleteRange(t.RequestDeleteRange)
		case *pb.RequestOp_RequestTxn:
			err = a.txn(t.RequestTxn)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// leaseKeys checks an access to every key of a lease. Administrators need no check, however old what
// identifies them is.
func (a *access) leaseKeys(id int64, kind auth.Access) error {
	if id == 0 || a.users.CheckAdmin(a.who) == nil {
		return nil
	}
	for _, key := range a.leases.Keys(id) {
		if err := a.users.Check(a.who, []byte(key), nil, kind); err != nil {
			return err
		}
	}
	return nil
}

// CheckTxn decides whether somebody may run a transaction that only reads, on the view. Errors: those of
// auth.View.Check.
func (v *View) CheckTxn(who auth.Identity, req *pb.TxnRequest) error {
	if !v.Auth.Enabled() {
		return nil
	}
	return (&access{users: v.Auth, who: who}).txn(req)
}

// CheckLeaseKeys decides whether somebody may access every key that hangs on a lease now. Errors: those of
// auth.View.Check.
func (s *State) CheckLeaseKeys(users *auth.View, who auth.Identity, id int64, kind auth.Access) error {
	return (&access{users: users, leases: s.Leases(), who: who}).leaseKeys(id, kind)
}

// permit refuses what the proposer of a data request may not do. Requests of other kinds pass: those of
// administrators are checked by permitAdmin, the rest at the member that proposed them.
func (s *State) permit(req *pb.InternalRaftRequest) error {
	users := s.users.Snapshot()
	if !users.Enabled() {
		return nil
	}
	a := &access{users: users, leases: s.leases, who: identity(req)}
	switch {
	case req.Put != nil:
		return a.put(req.Put)
	case req.Txn != nil:
		return a.txn(req.Txn)
	case req.DeleteRange != nil:
		return a.deleteRange(req.DeleteRange)
	case req.LeaseRevoke != nil:
		return a.leaseKeys(req.LeaseRevoke.GetID(), auth.Write)
	case req.Range != nil:
		return a.read(req.Range)
	}
	return nil
}

// permitAdmin refuses what only administrators may do, even before alarms are looked at.
func (s *State) permitAdmin(req *pb.InternalRaftRequest) error {
	switch {
	case req.AuthEnable != nil, req.AuthDisable != nil, req.AuthUserAdd != nil, req.AuthUserDelete != nil,
		req.AuthUserChangePassword != nil, req.AuthUserGrantRole != nil, req.AuthUserRevokeRole != nil,
		req.AuthUserList != nil, req.AuthRoleList != nil, req.AuthRoleAdd != nil, req.AuthRoleDelete != nil,
		req.AuthRoleGrantPermission != nil, req.AuthRoleRevokePermission != nil:
		return s.users.Snapshot().CheckAdmin(identity(req))
	case req.AuthUserGet != nil:
		return s.users.Snapshot().CheckUserGet(identity(req), req.AuthUserGet.GetName())
	case req.AuthRoleGet != nil:
		return s.users.Snapshot().CheckRoleGet(identity(req), req.AuthRoleGet.GetRole())
	}
	return nil
}

// applyAuth carries out a request about users, roles or logging in; known is false for any other. index is
// the entry's.
func (s *State) applyAuth(req *pb.InternalRaftRequest, index uint64) (res Result, known bool, err error) {
	res.Revision = s.store.Current()
	switch {
	case req.AuthStatus != nil:
		v := s.users.Snapshot()
		res.Response = AuthStatusResponse{Enabled: v.Enabled(), Revision: v.Revision()}
	case req.Authenticate != nil:
		res.Response, err = s.users.Authenticate(req.Authenticate.GetName(), req.Authenticate.GetSimpleToken(), index)
	case req.AuthEnable != nil:
		err = s.users.Enable(&s.batch)
	case req.AuthDisable != nil:
		s.users.Disable(&s.batch)
	default:
		if known, err = s.applyUsers(req, &res); !known {
			known, err = s.applyRoles(req, &res)
		}
		return res, known, authRejection(err)
	}
	return res, true, authRejection(err)
}

func (s *State) applyUsers(req *pb.InternalRaftRequest, res *Result) (known bool, err error) {
	b := &s.batch
	switch {
	case req.AuthUserAdd != nil:
		r := req.AuthUserAdd
		err = s.users.UserAdd(b, r.GetName(), r.GetHashedPassword(), r.GetOptions().GetNoPassword())
	case req.AuthUserDelete != nil:
		err = s.users.UserDelete(b, req.AuthUserDelete.GetName())
	case req.AuthUserChangePassword != nil:
		r := req.AuthUserChangePassword
		err = s.users.UserChangePassword(b, r.GetName(), r.GetHashedPassword())
	case req.AuthUserGrantRole != nil:
		err = s.users.UserGrantRole(b, req.AuthUserGrantRole.GetUser(), req.AuthUserGrantRole.GetRole())
	case req.AuthUserRevokeRole != nil:
		err = s.users.UserRevokeRole(b, req.AuthUserRevokeRole.GetName(), req.AuthUserRevokeRole.GetRole())
	case req.AuthUserGet != nil:
		var roles []string
		roles, err = s.users.Snapshot().User(req.AuthUserGet.GetName())
		res.Response = NamesResponse{Names: roles}
	case req.AuthUserList != nil:
		res.Response = NamesResponse{Names: s.users.Snapshot().Users()}
	default:
		return false, nil
	}
	return true, err
}

func (s *State) applyRoles(req *pb.InternalRaftRequest, res *Result) (known bool, err error) {
	b := &s.batch
	switch {
	case req.AuthRoleAdd != nil:
		err = s.users.RoleAdd(b, req.AuthRoleAdd.GetName())
	case req.AuthRoleDelete != nil:
		err = s.users.RoleDelete(b, req.AuthRoleDelete.GetRole())
	case req.AuthRoleGrantPermission != nil:
		r := req.AuthRoleGrantPermission
		var p *auth.Permission
		if given := r.GetPerm(); given != nil {
			p = &auth.Permission{Access: auth.Access(given.GetPermType()), Key: given.GetKey(), End: given.GetRangeEnd()}
		}
		err = s.users.RoleGrantPermission(b, r.GetName(), p)
	case req.AuthRoleRevokePermission != nil:
		r := req.AuthRoleRevokePermission
		err = s.users.RoleRevokePermission(b, r.GetRole(), r.GetKey(), r.GetRangeEnd())
	case req.AuthRoleGet != nil:
		var permissions []auth.Permission
		permissions, err = s.users.Snapshot().Role(req.AuthRoleGet.GetRole())
		res.Response = PermissionsResponse{Permissions: permissions}
	case req.AuthRoleList != nil:
		res.Response = NamesResponse{Names: s.users.Snapshot().Roles()}
	default:
		return false, nil
	}
	return true, err
}

// authRejection gives back the rejections of the table of users, and marks everything else as a failure.
func authRejection(err error) error {
	if err == nil {
		return nil
	}
	for _, rejection := range []error{
		auth.ErrNotEnabled, auth.ErrRootUserNotFound, auth.ErrRootRoleNotFound, auth.ErrUserEmpty, auth.ErrUserExists,
		auth.ErrUserNotFound, auth.ErrRoleEmpty, auth.ErrRoleExists, auth.ErrRoleNotFound, auth.ErrRoleNotGranted,
		auth.ErrPermissionNotGiven, auth.ErrPermissionNotGranted, auth.ErrInvalidManagement, auth.ErrFailed,
		auth.ErrNoPasswordUser,
	} {
		if errors.Is(err, rejection) {
			return err
		}
	}
	return failed{err}
}
