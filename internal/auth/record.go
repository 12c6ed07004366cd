package auth

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// Keys in engine.TableAuth; etcd's names.
const (
	enabledKey  = "authEnabled"
	revisionKey = "authRevision"
)

// What is stored, in etcd's bytes:
//
//	+---------------+--------------+    +-------------------+
//	| TableAuth     | authEnabled  | -> | 1 B: 0 or 1       |
//	| TableAuth     | authRevision | -> | revision, 8 B BE  |
//	| TableAuthUser | name         | -> | authpb.User       |
//	| TableAuthRole | name         | -> | authpb.Role       |
//	+---------------+--------------+    +-------------------+

func putEnabled(b *engine.Batch, enabled bool) {
	value := []byte{0}
	if enabled {
		value[0] = 1
	}
	b.Put(engine.TableKey(engine.TableAuth, []byte(enabledKey)), value)
}

func putRevision(b *engine.Batch, revision uint64) {
	b.Put(engine.TableKey(engine.TableAuth, []byte(revisionKey)), binary.BigEndian.AppendUint64(nil, revision))
}

func (u *user) key() []byte { return engine.TableKey(engine.TableAuthUser, []byte(u.name)) }

func (u *user) encode() ([]byte, error) {
	m := &authpb.User{Name: []byte(u.name), Password: u.password, Roles: u.roles}
	if !u.plain {
		m.Options = &authpb.UserAddOptions{NoPassword: u.noPassword}
	}
	value, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("auth: encode user %q: %w", u.name, err)
	}
	return value, nil
}

func decodeUser(key, value []byte) (*user, error) {
	var m authpb.User
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, fmt.Errorf("%w: user %q: %w", ErrCorrupt, key, err)
	}
	if string(m.GetName()) != string(key) {
		return nil, fmt.Errorf("%w: the record of user %q holds user %q", ErrCorrupt, key, m.GetName())
	}
	roles := m.GetRoles()
	slices.Sort(roles)
	return &user{
		name:       string(key),
		password:   m.GetPassword(),
		roles:      roles,
		noPassword: m.GetOptions().GetNoPassword(),
		plain:      m.Options == nil,
	}, nil
}

func (r *role) key() []byte { return engine.TableKey(engine.TableAuthRole, []byte(r.name)) }

func (r *role) encode() ([]byte, error) {
	m := &authpb.Role{Name: []byte(r.name)}
	for _, p := range r.permissions {
		m.KeyPermission = append(m.KeyPermission,
			&authpb.Permission{PermType: authpb.Permission_Type(p.Access), Key: p.Key, RangeEnd: p.End})
	}
	value, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("auth: encode role %q: %w", r.name, err)
	}
	return value, nil
}

func decodeRole(key, value []byte) (*role, error) {
	var m authpb.Role
	if err := proto.Unmarshal(value, &m); err != nil {
		return nil, fmt.Errorf("%w: role %q: %w", ErrCorrupt, key, err)
	}
	if string(m.GetName()) != string(key) {
		return nil, fmt.Errorf("%w: the record of role %q holds role %q", ErrCorrupt, key, m.GetName())
	}
	r := &role{name: string(key)}
	for _, p := range m.GetKeyPermission() {
		r.permissions = append(r.permissions,
			Permission{Access: Access(p.GetPermType()), Key: p.GetKey(), End: p.GetRangeEnd()})
	}
	r.derive()
	return r, nil
}

// get returns nil for a key that is not there.
func get(s engine.Snapshot, key string) ([]byte, error) {
	value, err := s.Get(engine.TableKey(engine.TableAuth, []byte(key)))
	if errors.Is(err, engine.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("auth: load %s: %w", key, err)
	}
	return value, nil
}

// scan calls fn for each record of a table. Key and value are valid only within the call.
func scan(s engine.Snapshot, table byte, fn func(key, value []byte) error) error {
	var bad error
	lo, hi := engine.TableRange(table)
	err := s.Scan(lo, hi, false, func(k, v []byte) bool {
		bad = fn(k[1:], v)
		return bad == nil
	})
	if err != nil {
		return fmt.Errorf("auth: load: %w", err)
	}
	return bad
}

func (v *View) load(s engine.Snapshot) error {
	enabled, err := get(s, enabledKey)
	if err != nil {
		return err
	}
	switch {
	case enabled == nil:
	case len(enabled) == 1 && enabled[0] <= 1:
		v.enabled = enabled[0] == 1
	default:
		return fmt.Errorf("%w: %s is %x, neither 00 nor 01", ErrCorrupt, enabledKey, enabled)
	}
	revision, err := get(s, revisionKey)
	if err != nil {
		return err
	}
	switch len(revision) {
	case 0:
	case 8:
		v.revision = binary.BigEndian.Uint64(revision)
	default:
		return fmt.Errorf("%w: %s is %x, not 8 bytes long", ErrCorrupt, revisionKey, revision)
	}
	// A new table counts as its own first change: to a check the revision 0 means nobody.
	v.revision = max(v.revision, 1)
	if err := scan(s, engine.TableAuthRole, func(key, value []byte) error {
		r, err := decodeRole(key, value)
		v.roles = append(v.roles, r)
		return err
	}); err != nil {
		return err
	}
	return scan(s, engine.TableAuthUser, func(key, value []byte) error {
		u, err := decodeUser(key, value)
		if err != nil {
			return err
		}
		v.link(u)
		v.users = append(v.users, u)
		return nil
	})
}
