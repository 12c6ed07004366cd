package etcdapi

import (
	"context"
	"encoding/base64"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"

	"github.com/dolmen-io/dolmen/internal/auth"
	"github.com/dolmen-io/dolmen/internal/state"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// authenticator is the Auth service. All its requests go through the log, those that only read too, so that
// an answer is the quorum's. Who may make them is decided where they are applied.
type authenticator struct {
	pb.UnimplementedAuthServer
	*Services
}

// loginAttempts is how often a login is tried whose user or roles change while it is under way. A change
// takes an administrator; that many within one login is no accident.
const loginAttempts = 10

// Authenticate implements pb.AuthServer. The password is verified here, off the applier, and never enters
// the log.
func (s authenticator) Authenticate(ctx context.Context, r *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	v, err := s.member.Read(ctx, true)
	if err != nil {
		return nil, toStatus(err)
	}
	users := v.Auth
	v.Release()
	for range loginAttempts {
		res, err := s.login(ctx, users, r)
		if err != nil {
			return nil, toStatus(err)
		}
		login := res.Response.(auth.Login)
		if login.Revision == users.Revision() {
			token, err := s.credentials.Tokens.Issue(login, time.Now())
			if err != nil {
				return nil, toStatus(err)
			}
			return &pb.AuthenticateResponse{Header: s.header(res.Revision), Token: token}, nil
		}
		// Users or roles changed between the check of the password and the login.
		users = s.member.Users()
	}
	return nil, toStatus(auth.ErrOldRevision)
}

func (s authenticator) login(ctx context.Context, users *auth.View, r *pb.AuthenticateRequest) (state.Result, error) {
	stored, err := users.Password(r.GetName())
	if err != nil {
		return state.Result{}, err
	}
	if err := s.credentials.Passwords.Verify(ctx, stored, r.GetPassword()); err != nil {
		return state.Result{}, err
	}
	prefix, err := s.credentials.Tokens.NewPrefix()
	if err != nil {
		return state.Result{}, err
	}
	return s.proposeUnnamed(ctx, &pb.InternalRaftRequest{
		Authenticate: &pb.InternalAuthenticateRequest{Name: r.GetName(), SimpleToken: prefix},
	})
}

// change sends a request through the log and returns the header of its answer.
func (s authenticator) change(ctx context.Context, req *pb.InternalRaftRequest) (*pb.ResponseHeader, error) {
	res, err := s.propose(ctx, req)
	if err != nil {
		return nil, toStatus(err)
	}
	return s.header(res.Revision), nil
}

// hash returns a password as entries carry it. Only administrators may have the member hash one: it costs
// more than anything else that a request can ask for. Others still learn that a password is too long, which
// etcd finds before it asks who calls.
func (s authenticator) hash(ctx context.Context, password string) (string, error) {
	if err := auth.CheckLength(password); err != nil {
		return "", err
	}
	if err := s.authorizeAdmin(ctx); err != nil {
		return "", err
	}
	text, err := s.credentials.Passwords.Hash(ctx, password)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(text), nil
}

// AuthEnable implements pb.AuthServer.
func (s authenticator) AuthEnable(ctx context.Context, r *pb.AuthEnableRequest) (*pb.AuthEnableResponse, error) {
	header, err := s.change(ctx, &pb.InternalRaftRequest{AuthEnable: r})
	if err != nil {
		return nil, err
	}
	return &pb.AuthEnableResponse{Header: header}, nil
}

// AuthDisable implements pb.AuthServer.
func (s authenticator) AuthDisable(ctx context.Context, r *pb.AuthDisableRequest) (*pb.AuthDisableResponse, error) {
	header, err := s.change(ctx, &pb.InternalRaftRequest{AuthDisable: r})
	if err != nil {
		return nil, err
	}
	return &pb.AuthDisableResponse{Header: header}, nil
}

// AuthStatus implements pb.AuthServer. Anybody may ask.
func (s authenticator) AuthStatus(ctx context.Context, r *pb.AuthStatusRequest) (*pb.AuthStatusResponse, error) {
	res, err := s.propose(ctx, &pb.InternalRaftRequest{AuthStatus: r})
	if err != nil {
		return nil, toStatus(err)
	}
	status := res.Response.(state.AuthStatusResponse)
	return &pb.AuthStatusResponse{
		Header: s.header(res.Revision), Enabled: status.Enabled, AuthRevision: status.Revision,
	}, nil
}

// UserAdd implements pb.AuthServer.
func (s authenticator) UserAdd(ctx context.Context, r *pb.AuthUserAddRequest) (*pb.AuthUserAddResponse, error) {
	password := r.GetPassword()
	r.Password, r.HashedPassword = "", "" // neither belongs into the log as the client sent it
	if !r.GetOptions().GetNoPassword() {
		hashed, err := s.hash(ctx, password)
		if err != nil {
			return nil, toStatus(err)
		}
		r.HashedPassword = hashed
	}
	header, err := s.change(ctx, &pb.InternalRaftRequest{AuthUserAdd: r})
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserAddResponse{Header: header}, nil
}

// UserDelete implements pb.AuthServer.
func (s authenticator) UserDelete(ctx context.Context, r *pb.AuthUserDeleteRequest) (*pb.AuthUserDeleteResponse, error) {
	header, err := s.change(ctx, &pb.InternalRaftRequest{AuthUserDelete: r})
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserDeleteResponse{Header: header}, nil
}

// UserChangePassword implements pb.AuthServer. With an empty password what the client gives as hashed is
// stored, as in etcd; no password fits the empty text.
func (s authenticator) UserChangePassword(
	ctx context.Context, r *pb.AuthUserChangePasswordRequest,
) (*pb.AuthUserChangePasswordResponse, error) {
	if password := r.GetPassword(); password != "" {
		r.Password = ""
		hashed, err := s.hash(ctx, password)
		if err != nil {
			return nil, toStatus(err)
		}
		r.HashedPassword = hashed
	}
	header, err := s.change(ctx, &pb.InternalRaftRequest{AuthUserChangePassword: r})
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserChangePasswordResponse{Header: header}, nil
}

// UserGrantRole implements pb.AuthServer.
func (s authenticator) UserGrantRole(
	ctx context.Context, r *pb.AuthUserGrantRoleRequest,
) (*pb.AuthUserGrantRoleResponse, error) {
	header, err := s.change(ctx, &pb.InternalRaftRequest{AuthUserGrantRole: r})
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserGrantRoleResponse{Header: header}, nil
}

// UserRevokeRole implements pb.AuthServer.
func (s authenticator) UserRevokeRole(
	ctx context.Context, r *pb.AuthUserRevokeRoleRequest,
) (*pb.AuthUserRevokeRoleResponse, error) {
	header, err := s.change(ctx, &pb.InternalRaftRequest{AuthUserRevokeRole: r})
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserRevokeRoleResponse{Header: header}, nil
}

// names sends a request whose answer is names through the log.
func (s authenticator) names(ctx context.Context, req *pb.InternalRaftRequest) (*pb.ResponseHeader, []string, error) {
	res, err := s.propose(ctx, req)
	if err != nil {
		return nil, nil, toStatus(err)
	}
	return s.header(res.Revision), res.Response.(state.NamesResponse).Names, nil
}

// UserGet implements pb.AuthServer.
func (s authenticator) UserGet(ctx context.Context, r *pb.AuthUserGetRequest) (*pb.AuthUserGetResponse, error) {
	header, roles, err := s.names(ctx, &pb.InternalRaftRequest{AuthUserGet: r})
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserGetResponse{Header: header, Roles: roles}, nil
}

// UserList implements pb.AuthServer.
func (s authenticator) UserList(ctx context.Context, r *pb.AuthUserListRequest) (*pb.AuthUserListResponse, error) {
	header, users, err := s.names(ctx, &pb.InternalRaftRequest{AuthUserList: r})
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserListResponse{Header: header, Users: users}, nil
}

// RoleList implements pb.AuthServer.
func (s authenticator) RoleList(ctx context.Context, r *pb.AuthRoleListRequest) (*pb.AuthRoleListResponse, error) {
	header, roles, err := s.names(ctx, &pb.InternalRaftRequest{AuthRoleList: r})
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleListResponse{Header: header, Roles: roles}, nil
}

// RoleAdd implements pb.AuthServer.
func (s authenticator) RoleAdd(ctx context.Context, r *pb.AuthRoleAddRequest) (*pb.AuthRoleAddResponse, error) {
	header, err := s.change(ctx, &pb.InternalRaftRequest{AuthRoleAdd: r})
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleAddResponse{Header: header}, nil
}

// RoleDelete implements pb.AuthServer.
func (s authenticator) RoleDelete(ctx context.Context, r *pb.AuthRoleDeleteRequest) (*pb.AuthRoleDeleteResponse, error) {
	header, err := s.change(ctx, &pb.InternalRaftRequest{AuthRoleDelete: r})
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleDeleteResponse{Header: header}, nil
}

// RoleGet implements pb.AuthServer.
func (s authenticator) RoleGet(ctx context.Context, r *pb.AuthRoleGetRequest) (*pb.AuthRoleGetResponse, error) {
	res, err := s.propose(ctx, &pb.InternalRaftRequest{AuthRoleGet: r})
	if err != nil {
		return nil, toStatus(err)
	}
	out := &pb.AuthRoleGetResponse{Header: s.header(res.Revision)}
	for _, p := range res.Response.(state.PermissionsResponse).Permissions {
		out.Perm = append(out.Perm, &authpb.Permission{
			PermType: authpb.Permission_Type(p.Access), Key: p.Key, RangeEnd: p.End,
		})
	}
	return out, nil
}

// RoleGrantPermission implements pb.AuthServer.
func (s authenticator) RoleGrantPermission(
	ctx context.Context, r *pb.AuthRoleGrantPermissionRequest,
) (*pb.AuthRoleGrantPermissionResponse, error) {
	header, err := s.change(ctx, &pb.InternalRaftRequest{AuthRoleGrantPermission: r})
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleGrantPermissionResponse{Header: header}, nil
}

// RoleRevokePermission implements pb.AuthServer.
func (s authenticator) RoleRevokePermission(
	ctx context.Context, r *pb.AuthRoleRevokePermissionRequest,
) (*pb.AuthRoleRevokePermissionResponse, error) {
	header, err := s.change(ctx, &pb.InternalRaftRequest{AuthRoleRevokePermission: r})
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleRevokePermissionResponse{Header: header}, nil
}
