// Package auth keeps users, roles and what each user may read and write, and proves who a request comes
// from.
//
// Users and roles are replicated: a Table belongs to the applier and changes only by applied entries, in
// the same order on every member. What it holds is one immutable View, replaced as a whole by each change,
// so that readers on other goroutines check permissions without a lock and without an allocation. Stored
// records are byte for byte those of etcd.
//
// Tokens and checked passwords are not replicated: each member keeps its own, and learns from the Changes
// of its Table which of them end. The clock, the files and the randomness of tokens are arguments; bcrypt and
// signatures draw their own, and neither is used by the Table. No goroutine is started.
//
// The texts of the errors are etcd's: some of them reach clients as they are.
package auth

import "errors"

// Rejections, the same on every member.
var (
	// ErrNotEnabled says that nobody can authenticate because auth is off.
	ErrNotEnabled = errors.New("auth: authentication is not enabled")
	// ErrRootUserNotFound and ErrRootRoleNotFound say why auth cannot be turned on: nobody could turn it off.
	ErrRootUserNotFound = errors.New("auth: root user does not exist")
	ErrRootRoleNotFound = errors.New("auth: root user does not have root role")
	// ErrUserEmpty says that a name or an identity is missing.
	ErrUserEmpty    = errors.New("auth: user name is empty")
	ErrUserExists   = errors.New("auth: user already exists")
	ErrUserNotFound = errors.New("auth: user not found")
	ErrRoleEmpty    = errors.New("auth: role name is empty")
	ErrRoleExists   = errors.New("auth: role already exists")
	ErrRoleNotFound = errors.New("auth: role not found")
	// ErrRoleNotGranted says that the user does not hold the role.
	ErrRoleNotGranted = errors.New("auth: role is not granted to the user")
	// ErrPermissionNotGiven says that a request to grant a permission holds none.
	ErrPermissionNotGiven = errors.New("auth: permission not given")
	// ErrPermissionNotGranted says that the role has no permission with exactly that key and end.
	ErrPermissionNotGranted = errors.New("auth: permission is not granted to the role")
	// ErrInvalidManagement says that a change would lock everybody out, or that a range is empty.
	ErrInvalidManagement = errors.New("auth: invalid auth management")
	// ErrPermissionDenied says that the user may not do it.
	ErrPermissionDenied = errors.New("auth: permission denied")
	// ErrOldRevision says that users or roles changed after the identity was established.
	ErrOldRevision = errors.New("auth: revision in header is old")
	// ErrFailed says that there is no such user or that the password is wrong, without telling which.
	ErrFailed = errors.New("auth: authentication failed, invalid user ID or password")
	// ErrNoPasswordUser says that the user can authenticate by certificate only.
	ErrNoPasswordUser = errors.New("auth: authentication failed, password was given for no password user")
)

// ErrCorrupt says that a stored record cannot be read. It is a failure: the member must stop.
var ErrCorrupt = errors.New("auth: corrupt record")

// The user and the role that may do everything. Neither can be taken away while auth is on.
const (
	RootUser = "root"
	RootRole = "root"
)

// Access is what a permission allows; its values are those of authpb.Permission_Type.
type Access int32

// The kinds of access. Others may be stored, and allow nothing.
const (
	Read Access = iota
	Write
	ReadWrite
)

// Permission allows an access to a key or to a range of keys.
type Permission struct {
	Access Access
	// Key and End are the range, as in requests: no End for one key, an End of one zero byte for all keys
	// from Key on.
	Key, End []byte
}

// Identity is who a request comes from and the revision of the auth table by which that was established.
// The zero value is nobody. An identity from a certificate may have an empty name; it is not nobody.
type Identity struct {
	User     string
	Revision uint64
}

// Login is an applied request to authenticate.
type Login struct {
	User string
	// Revision is the table's when the request was applied.
	Revision uint64
	// Prefix is the random part of a simple token, chosen by the proposer; empty if it issues no such
	// tokens. Index is the raft index of the entry.
	Prefix string
	Index  uint64
}

// ChangeKind is what happened to tokens and passwords.
type ChangeKind uint8

// The kinds of changes.
const (
	// Authenticated: a user logged in; Login is set.
	Authenticated ChangeKind = iota
	// CredentialsChanged: a user was deleted or got another password, so what was issued or cached for the
	// old one ends; Login.User is set.
	CredentialsChanged
	// Reset: auth was turned off or the table was read from an engine, so everything issued or cached ends.
	Reset
)

// Change is something that tokens and cached passwords must follow.
type Change struct {
	Kind  ChangeKind
	Login Login
}
