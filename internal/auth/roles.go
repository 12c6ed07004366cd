package auth

import (
	"bytes"
	"slices"
	"sort"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// RoleAdd adds a role without permissions. Errors: ErrRoleEmpty, ErrRoleExists.
func (t *Table) RoleAdd(b *engine.Batch, name string) error {
	if name == "" {
		return ErrRoleEmpty
	}
	i, found := slices.BinarySearchFunc(t.view.roles, name, roleName)
	if found {
		return ErrRoleExists
	}
	r := &role{name: name}
	value, err := r.encode()
	if err != nil {
		return err
	}
	b.Put(r.key(), value)
	next := *t.view
	next.roles = slices.Insert(slices.Clone(next.roles), i, r)
	t.commit(b, &next)
	return nil
}

// RoleDelete removes a role and takes it from all users.
//
// Errors: ErrInvalidManagement for the root role while auth is on; ErrRoleNotFound.
func (t *Table) RoleDelete(b *engine.Batch, name string) error {
	if t.view.enabled && name == RootRole {
		return ErrInvalidManagement
	}
	i, found := slices.BinarySearchFunc(t.view.roles, name, roleName)
	if !found {
		return ErrRoleNotFound
	}
	next := *t.view
	next.roles = slices.Delete(slices.Clone(next.roles), i, i+1)
	next.users = slices.Clone(next.users)
	changed := engine.Batch{}
	for i, old := range next.users {
		if !old.has(name) {
			continue
		}
		u := *old
		u.roles = without(u.roles, name)
		value, err := u.encode()
		if err != nil {
			return err
		}
		changed.Put(u.key(), value)
		next.link(&u)
		next.users[i] = &u
	}
	b.Delete(t.view.roles[i].key())
	for _, op := range changed.Ops() {
		b.Put(op.Key, op.Value)
	}
	t.commit(b, &next)
	return nil
}

// RoleGrantPermission gives a role a permission, nil for a request that holds none. A permission for the
// same range is replaced, which raises the revision even if it is equal. The table keeps the slices.
//
// Errors: ErrPermissionNotGiven; ErrInvalidManagement for an empty key or range; ErrRoleNotFound.
func (t *Table) RoleGrantPermission(b *engine.Batch, name string, p *Permission) error {
	if p == nil {
		return ErrPermissionNotGiven
	}
	if _, ok := newSpan(p.Key, p.End); !ok {
		return ErrInvalidManagement
	}
	return t.updateRole(b, name, func(r *role) error {
		r.permissions = slices.Clone(r.permissions)
		// Of several permissions with one key only the first is looked at, and sorting is not stable: what
		// etcd's members do must be done here, because the next change depends on the order.
		i := sort.Search(len(r.permissions), func(i int) bool { return bytes.Compare(r.permissions[i].Key, p.Key) >= 0 })
		if i < len(r.permissions) && bytes.Equal(r.permissions[i].Key, p.Key) && bytes.Equal(r.permissions[i].End, p.End) {
			r.permissions[i].Access = p.Access
			return nil
		}
		r.permissions = append(r.permissions, *p)
		sort.Sort(byKey(r.permissions))
		return nil
	})
}

// byKey is sorted by sort.Sort as in etcd, whose order of equal keys other sorts need not share.
type byKey []Permission

func (p byKey) Len() int           { return len(p) }
func (p byKey) Less(i, j int) bool { return bytes.Compare(p[i].Key, p[j].Key) < 0 }
func (p byKey) Swap(i, j int)      { p[i], p[j] = p[j], p[i] }

// RoleRevokePermission takes from a role the permissions with exactly this key and end.
//
// Errors: ErrRoleNotFound, ErrPermissionNotGranted.
func (t *Table) RoleRevokePermission(b *engine.Batch, name string, key, end []byte) error {
	return t.updateRole(b, name, func(r *role) error {
		kept := slices.DeleteFunc(slices.Clone(r.permissions), func(p Permission) bool {
			return bytes.Equal(p.Key, key) && bytes.Equal(p.End, end)
		})
		if len(kept) == len(r.permissions) {
			return ErrPermissionNotGranted
		}
		r.permissions = kept
		return nil
	})
}

// updateRole changes a copy of a role, stores it, and derives anew what its holders may do.
func (t *Table) updateRole(b *engine.Batch, name string, change func(*role) error) error {
	i, found := slices.BinarySearchFunc(t.view.roles, name, roleName)
	if !found {
		return ErrRoleNotFound
	}
	r := *t.view.roles[i]
	if err := change(&r); err != nil {
		return err
	}
	value, err := r.encode()
	if err != nil {
		return err
	}
	b.Put(r.key(), value)
	r.derive()
	next := *t.view
	next.roles = slices.Clone(next.roles)
	next.roles[i] = &r
	next.relink(name)
	t.commit(b, &next)
	return nil
}

// relink derives anew what the holders of a role may do.
func (v *View) relink(role string) {
	v.users = slices.Clone(v.users)
	for i, old := range v.users {
		if old.has(role) {
			u := *old
			v.link(&u)
			v.users[i] = &u
		}
	}
}
