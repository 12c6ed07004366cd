package auth

import (
	"slices"
	"strings"
)

// View is the users and roles at one applied index. It never changes and may be read from any goroutine.
type View struct {
	enabled  bool
	revision uint64
	users    []*user // by name
	roles    []*role // by name
}

// user and role are records that never change once a view holds them.
type user struct {
	name       string
	password   []byte   // bcrypt's text; empty if no password fits
	roles      []string // ascending; may name the root role without a record
	noPassword bool
	// plain marks a record from before users had options. It is written back as it came.
	plain bool

	// What follows is derived from the roles.
	root        bool
	read, write spans
	shape       *shape
}

type role struct {
	name        string
	permissions []Permission // by key; in order of sorting where keys are equal
	read, write spans        // derived from the permissions
}

func userName(u *user, name string) int { return strings.Compare(u.name, name) }
func roleName(r *role, name string) int { return strings.Compare(r.name, name) }

func (v *View) user(name string) *user {
	if i, found := slices.BinarySearchFunc(v.users, name, userName); found {
		return v.users[i]
	}
	return nil
}

func (v *View) role(name string) *role {
	if i, found := slices.BinarySearchFunc(v.roles, name, roleName); found {
		return v.roles[i]
	}
	return nil
}

// Enabled reports whether requests are checked at all.
func (v *View) Enabled() bool { return v.enabled }

// Revision returns the revision of the table, at least 1. It grows by 1 with every change.
func (v *View) Revision() uint64 { return v.revision }

// Identity returns the identity of a user who has been established just now, by a certificate or as the
// member itself. The user need not exist.
func (v *View) Identity(user string) Identity { return Identity{user, v.revision} }

// Check decides whether an access to all keys of a range is allowed. The range is given as in requests: no
// end for one key, an end of one zero byte for all keys from key on. It does not allocate, unless the end is
// not after the key.
//
// Errors: ErrUserEmpty for nobody; ErrOldRevision; ErrPermissionDenied, also for a user that is gone.
func (v *View) Check(who Identity, key, end []byte, access Access) error {
	if !v.enabled {
		return nil
	}
	if who.Revision == 0 {
		return ErrUserEmpty
	}
	if who.Revision < v.revision {
		return ErrOldRevision
	}
	u := v.user(who.User)
	switch {
	case u == nil:
		return ErrPermissionDenied
	case u.root:
		return nil
	case !u.allows(key, end, access), isUpsideDown(key, end) && !u.shape.allows(key, end, access):
		return ErrPermissionDenied
	}
	return nil
}

func (u *user) allows(key, end []byte, access Access) bool {
	switch access {
	case Read:
		return u.read.covers(key, end)
	case Write:
		return u.write.covers(key, end)
	case ReadWrite:
		return u.read.covers(key, end) && u.write.covers(key, end)
	}
	return false
}

// CheckSignedIn decides whether a request that needs somebody, but no permission, is allowed. Error:
// ErrUserEmpty for nobody.
func (v *View) CheckSignedIn(who Identity) error {
	if v.enabled && who == (Identity{}) {
		return ErrUserEmpty
	}
	return nil
}

// CheckAdmin decides whether a request that only administrators may make is allowed. Revisions are not
// compared: an administrator whose token is old still administers.
//
// Errors: ErrUserEmpty, ErrUserNotFound, ErrPermissionDenied.
func (v *View) CheckAdmin(who Identity) error {
	if !v.enabled {
		return nil
	}
	if who.User == "" {
		return ErrUserEmpty
	}
	u := v.user(who.User)
	switch {
	case u == nil:
		return ErrUserNotFound
	case !u.root:
		return ErrPermissionDenied
	}
	return nil
}

// CheckUserGet decides whether a user's record may be read: by administrators and by the user. Errors: as
// CheckAdmin.
func (v *View) CheckUserGet(who Identity, name string) error {
	if err := v.CheckAdmin(who); err != nil && who.User != name {
		return err
	}
	return nil
}

// CheckRoleGet decides whether a role's record may be read: by administrators and by those who hold it.
// Errors: as CheckAdmin.
func (v *View) CheckRoleGet(who Identity, name string) error {
	if err := v.CheckAdmin(who); err != nil && !v.HasRole(who.User, name) {
		return err
	}
	return nil
}

// IsAdmin reports whether a user exists and holds the root role, whether auth is on or not.
func (v *View) IsAdmin(name string) bool {
	u := v.user(name)
	return u != nil && u.root
}

// HasUser reports whether a user exists.
func (v *View) HasUser(name string) bool { return v.user(name) != nil }

// HasRole reports whether a user exists and holds a role.
func (v *View) HasRole(name, role string) bool {
	u := v.user(name)
	return u != nil && u.has(role)
}

func (u *user) has(role string) bool {
	_, found := slices.BinarySearch(u.roles, role)
	return found
}

// Users returns the names of all users in ascending order.
func (v *View) Users() []string {
	names := make([]string, 0, len(v.users))
	for _, u := range v.users {
		names = append(names, u.name)
	}
	return names
}

// User returns the roles of a user in ascending order. They must not be modified. Error: ErrUserNotFound.
func (v *View) User(name string) ([]string, error) {
	u := v.user(name)
	if u == nil {
		return nil, ErrUserNotFound
	}
	return u.roles, nil
}

// Roles returns the names of all roles in ascending order.
func (v *View) Roles() []string {
	names := make([]string, 0, len(v.roles))
	for _, r := range v.roles {
		names = append(names, r.name)
	}
	return names
}

// Role returns the permissions of a role by ascending key. They must not be modified. The root role has
// one permission for everything, whatever is stored. Error: ErrRoleNotFound.
func (v *View) Role(name string) ([]Permission, error) {
	r := v.role(name)
	switch {
	case r == nil:
		return nil, ErrRoleNotFound
	case name == RootRole:
		return []Permission{{Access: ReadWrite, Key: []byte{}, End: []byte{0}}}, nil
	}
	return r.permissions, nil
}

// Password returns what a user's password must fit: bcrypt's text, which must not be modified, or nothing
// if no password fits. A caller that verifies it off the applier compares the view's revision with that
// of the Login and tries again if it moved.
//
// Errors: ErrNotEnabled; ErrFailed for an unknown user; ErrNoPasswordUser.
func (v *View) Password(name string) ([]byte, error) {
	if !v.enabled {
		return nil, ErrNotEnabled
	}
	u := v.user(name)
	switch {
	case u == nil:
		return nil, ErrFailed
	case u.noPassword:
		return nil, ErrNoPasswordUser
	}
	return u.password, nil
}

// link derives what a user may do from the roles of the view. A single role's spans are shared, which
// keeps a change of a role that thousands hold cheap.
func (v *View) link(u *user) {
	u.root = u.has(RootRole)
	u.read, u.write = nil, nil
	held := make([]*role, 0, len(u.roles))
	for _, name := range u.roles {
		if r := v.role(name); r != nil {
			held = append(held, r)
		}
	}
	u.shape = &shape{held: held}
	if len(held) == 1 {
		u.read, u.write = held[0].read, held[0].write
		return
	}
	var read, write []span
	for _, r := range held {
		read, write = append(read, r.read...), append(write, r.write...)
	}
	u.read, u.write = merge(read), merge(write)
}

func (r *role) derive() {
	var read, write []span
	for _, p := range r.permissions {
		s, ok := newSpan(p.Key, p.End)
		if !ok {
			continue
		}
		if p.Access == Read || p.Access == ReadWrite {
			read = append(read, s)
		}
		if p.Access == Write || p.Access == ReadWrite {
			write = append(write, s)
		}
	}
	r.read, r.write = merge(read), merge(write)
}
