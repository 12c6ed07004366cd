package auth

import (
	"encoding/base64"
	"slices"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// Table is the users and roles that the applier changes. It is not safe for use by several goroutines; the
// views it hands out are.
//
// A method that takes a batch puts what it changed into the batch and raises the revision by 1, unless its
// comment says otherwise. If it returns an error, neither the table nor the batch has changed. Errors that
// a comment names are rejections; another one means that a record cannot be encoded, which is a failure.
type Table struct {
	view    *View
	changes []Change
}

// Load reads the table from an engine. A table that was never changed has the revision 1, which is stored
// with the first change. The first call of Changes reports a Reset.
//
// Errors: ErrCorrupt, or what the engine reports; both are failures.
func Load(s engine.Snapshot) (*Table, error) {
	v := &View{}
	if err := v.load(s); err != nil {
		return nil, err
	}
	return &Table{view: v, changes: []Change{{Kind: Reset}}}, nil
}

// Snapshot returns the table as it is now.
func (t *Table) Snapshot() *View { return t.view }

// Changes returns what tokens and cached passwords must follow since the last call, in order, and forgets
// it. The applier hands it on once a turn, before the turn's results.
func (t *Table) Changes() []Change {
	c := t.changes
	t.changes = nil
	return c
}

// commit makes next the table's view, one revision later.
func (t *Table) commit(b *engine.Batch, next *View) {
	next.revision++
	putRevision(b, next.revision)
	t.view = next
}

// Enable turns auth on and does not raise the revision. If it is on already, nothing changes.
//
// Errors: ErrRootUserNotFound, ErrRootRoleNotFound.
func (t *Table) Enable(b *engine.Batch) error {
	if t.view.enabled {
		return nil
	}
	u := t.view.user(RootUser)
	switch {
	case u == nil:
		return ErrRootUserNotFound
	case !u.root:
		return ErrRootRoleNotFound
	}
	next := *t.view
	next.enabled = true
	putEnabled(b, true)
	t.view = &next
	return nil
}

// Disable turns auth off and ends all tokens. If it is off already, nothing changes.
func (t *Table) Disable(b *engine.Batch) {
	if !t.view.enabled {
		return
	}
	next := *t.view
	next.enabled = false
	putEnabled(b, false)
	t.commit(b, &next)
	t.changes = append(t.changes, Change{Kind: Reset})
}

// Authenticate notes that a user logged in. The proposer has verified the password. Nothing is stored and
// the revision stays.
//
// Errors: ErrNotEnabled; ErrFailed if the user is gone or has no password.
func (t *Table) Authenticate(name, prefix string, index uint64) (Login, error) {
	if !t.view.enabled {
		return Login{}, ErrNotEnabled
	}
	u := t.view.user(name)
	if u == nil || u.noPassword {
		return Login{}, ErrFailed
	}
	// The record's name, so that all tokens of a user share one copy of it.
	l := Login{User: u.name, Revision: t.view.revision, Prefix: prefix, Index: index}
	t.changes = append(t.changes, Change{Authenticated, l})
	return l, nil
}

// UserAdd adds a user. The password is bcrypt's text in standard base64, as entries carry it; it is ignored
// for a user without password.
//
// Errors: ErrUserEmpty; ErrUserExists; ErrNoPasswordUser for a password that is not base64.
func (t *Table) UserAdd(b *engine.Batch, name, password string, noPassword bool) error {
	if name == "" {
		return ErrUserEmpty
	}
	i, found := slices.BinarySearchFunc(t.view.users, name, userName)
	if found {
		return ErrUserExists
	}
	u := &user{name: name, noPassword: noPassword}
	if err := u.setPassword(password); err != nil {
		return err
	}
	value, err := u.encode()
	if err != nil {
		return err
	}
	b.Put(u.key(), value)
	next := *t.view
	next.users = slices.Insert(slices.Clone(next.users), i, u)
	t.commit(b, &next)
	return nil
}

func (u *user) setPassword(password string) error {
	u.password = nil
	if u.noPassword {
		return nil
	}
	var err error
	if u.password, err = base64.StdEncoding.DecodeString(password); err != nil {
		return ErrNoPasswordUser // What etcd's members answer; all must answer the same.
	}
	return nil
}

// UserDelete removes a user and ends the tokens issued to it.
//
// Errors: ErrInvalidManagement for the root user while auth is on; ErrUserNotFound.
func (t *Table) UserDelete(b *engine.Batch, name string) error {
	if t.view.enabled && name == RootUser {
		return ErrInvalidManagement
	}
	i, found := slices.BinarySearchFunc(t.view.users, name, userName)
	if !found {
		return ErrUserNotFound
	}
	b.Delete(t.view.users[i].key())
	next := *t.view
	next.users = slices.Delete(slices.Clone(next.users), i, i+1)
	t.commit(b, &next)
	t.credentialsChanged(name)
	return nil
}

func (t *Table) credentialsChanged(name string) {
	t.changes = append(t.changes, Change{CredentialsChanged, Login{User: name}})
}

// UserChangePassword replaces a password, given as for UserAdd, and ends the tokens issued for the old one.
// No password fits the empty text. A user without password stays without.
//
// Errors: ErrUserNotFound; ErrNoPasswordUser for a password that is not base64.
func (t *Table) UserChangePassword(b *engine.Batch, name, password string) error {
	err := t.updateUser(b, name, func(u *user) error { return u.setPassword(password) })
	if err != nil {
		return err
	}
	t.credentialsChanged(name)
	return nil
}

// UserGrantRole gives a user a role. If the user holds it already, nothing changes. The root role need not
// exist.
//
// Errors: ErrUserNotFound, ErrRoleNotFound.
func (t *Table) UserGrantRole(b *engine.Batch, name, role string) error {
	u := t.view.user(name)
	switch {
	case u == nil:
		return ErrUserNotFound
	case role != RootRole && t.view.role(role) == nil:
		return ErrRoleNotFound
	case u.has(role):
		return nil
	}
	return t.updateUser(b, name, func(u *user) error {
		u.roles = append(slices.Clone(u.roles), role)
		slices.Sort(u.roles)
		return nil
	})
}

// UserRevokeRole takes a role from a user.
//
// Errors: ErrInvalidManagement for the root role of the root user while auth is on; ErrUserNotFound;
// ErrRoleNotGranted.
func (t *Table) UserRevokeRole(b *engine.Batch, name, role string) error {
	if t.view.enabled && name == RootUser && role == RootRole {
		return ErrInvalidManagement
	}
	return t.updateUser(b, name, func(u *user) error {
		if !u.has(role) {
			return ErrRoleNotGranted
		}
		u.roles = without(u.roles, role)
		return nil
	})
}

// updateUser changes a copy of a user and stores it.
func (t *Table) updateUser(b *engine.Batch, name string, change func(*user) error) error {
	i, found := slices.BinarySearchFunc(t.view.users, name, userName)
	if !found {
		return ErrUserNotFound
	}
	u := *t.view.users[i]
	if err := change(&u); err != nil {
		return err
	}
	value, err := u.encode()
	if err != nil {
		return err
	}
	b.Put(u.key(), value)
	t.view.link(&u)
	next := *t.view
	next.users = slices.Clone(next.users)
	next.users[i] = &u
	t.commit(b, &next)
	return nil
}

func without(names []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })
}
