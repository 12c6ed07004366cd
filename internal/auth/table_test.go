package auth

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/enginetest"
	"github.com/dolmen-io/dolmen/internal/engine/memory"
)

func open(t *testing.T) engine.Engine {
	e, err := memory.Open("test", memory.Options{Directory: enginetest.NewDirectory()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	return e
}

func load(t *testing.T, e engine.Engine) (*Table, error) {
	s, err := e.Snapshot()
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	return Load(s)
}

// dump shows all that a view holds, derived permissions included.
func dump(v *View) string {
	var b strings.Builder
	fmt.Fprintf(&b, "enabled %v\n", v.enabled)
	for _, r := range v.roles {
		fmt.Fprintf(&b, "role %s:", r.name)
		for _, p := range r.permissions {
			fmt.Fprintf(&b, " %d[%q %q]", p.Access, p.Key, p.End)
		}
		b.WriteString("\n")
	}
	for _, u := range v.users {
		fmt.Fprintf(&b, "user %s: password %q none %v roles %q root %v read %s write %s\n",
			u.name, u.password, u.noPassword, u.roles, u.root, u.read, u.write)
	}
	return b.String()
}

func (all spans) String() string {
	var b strings.Builder
	for _, s := range all {
		if s.open {
			fmt.Fprintf(&b, "[%q ...)", s.lo)
		} else {
			fmt.Fprintf(&b, "[%q %q)", s.lo, s.hi)
		}
	}
	return "{" + b.String() + "}"
}

// scenario is a table with the engine below it.
type scenario struct {
	t      *testing.T
	engine engine.Engine
	table  *Table
}

func newScenario(t *testing.T) *scenario {
	e := open(t)
	table, err := load(t, e)
	require.NoError(t, err)
	return &scenario{t, e, table}
}

func arg(t *testing.T, d *datadriven.TestData, name string) (v string) {
	d.MaybeScanArgs(t, name, &v)
	return strings.ReplaceAll(v, `\0`, "\x00")
}

func (s *scenario) permission(d *datadriven.TestData) *Permission {
	if !d.HasArg("access") {
		return nil
	}
	p := &Permission{Key: []byte(arg(s.t, d, "key")), End: []byte(arg(s.t, d, "end"))}
	for i, name := range []string{"read", "write", "readwrite", "unknown"} {
		if arg(s.t, d, "access") == name {
			p.Access = Access(i)
		}
	}
	return p
}

func (s *scenario) change(d *datadriven.TestData, b *engine.Batch) error {
	name, role := arg(s.t, d, "name"), arg(s.t, d, "role")
	password := base64.StdEncoding.EncodeToString([]byte(arg(s.t, d, "password")))
	if d.HasArg("raw") {
		password = arg(s.t, d, "raw")
	}
	switch d.Cmd {
	case "enable":
		return s.table.Enable(b)
	case "disable":
		s.table.Disable(b)
		return nil
	case "authenticate":
		_, err := s.table.Authenticate(name, "prefix", 7)
		return err
	case "user-add":
		return s.table.UserAdd(b, name, password, d.HasArg("no-password"))
	case "user-delete":
		return s.table.UserDelete(b, name)
	case "change-password":
		return s.table.UserChangePassword(b, name, password)
	case "grant-role":
		return s.table.UserGrantRole(b, name, role)
	case "revoke-role":
		return s.table.UserRevokeRole(b, name, role)
	case "role-add":
		return s.table.RoleAdd(b, role)
	case "role-delete":
		return s.table.RoleDelete(b, role)
	case "grant":
		return s.table.RoleGrantPermission(b, role, s.permission(d))
	case "revoke":
		return s.table.RoleRevokePermission(b, role, []byte(arg(s.t, d, "key")), []byte(arg(s.t, d, "end")))
	}
	d.Fatalf(s.t, "unknown command %s", d.Cmd)
	return nil
}

// run applies a command and answers with the revision, the error, and what tokens must follow. Every
// change is read back from the engine and must give the same table; a rejection must change nothing.
func (s *scenario) run(d *datadriven.TestData) string {
	if out, ok := s.ask(d); ok {
		return out
	}
	var b engine.Batch
	old := s.table.Snapshot()
	before := dump(old)
	s.table.Changes()
	err := s.change(d, &b)
	require.Equal(s.t, before, dump(old), "%s: a view changed", d.Pos)
	now := s.table.Snapshot()
	out := fmt.Sprintf("revision %d\n", now.Revision())
	if err != nil {
		out = err.Error() + "\n"
		require.Same(s.t, old, now, "%s", d.Pos)
		require.Zero(s.t, b.Len(), "%s", d.Pos)
	}
	if now.Revision() == old.Revision() {
		require.LessOrEqual(s.t, b.Len(), 1, "%s", d.Pos)
	}
	for _, c := range s.table.Changes() {
		out += fmt.Sprintf("%s %+v\n", []string{"authenticated", "credentials changed", "reset"}[c.Kind], c.Login)
	}
	require.NoError(s.t, s.engine.Commit(&b))
	again, err := load(s.t, s.engine)
	require.NoError(s.t, err)
	require.Equal(s.t, dump(now), dump(again.Snapshot()), "%s", d.Pos)
	require.Equal(s.t, now.Revision(), again.Snapshot().Revision(), "%s", d.Pos)
	return out
}

func (s *scenario) ask(d *datadriven.TestData) (string, bool) {
	v := s.table.Snapshot()
	name, role := arg(s.t, d, "name"), arg(s.t, d, "role")
	who := v.Identity(name)
	if d.HasArg("revision") {
		d.ScanArgs(s.t, "revision", &who.Revision)
	}
	var err error
	switch d.Cmd {
	case "dump":
		return dump(v), true
	case "list":
		return fmt.Sprintf("users %q roles %q\n", v.Users(), v.Roles()), true
	case "user":
		var roles []string
		if roles, err = v.User(name); err == nil {
			return fmt.Sprintf("%q admin %v\n", roles, v.IsAdmin(name)), true
		}
	case "role":
		var permissions []Permission
		if permissions, err = v.Role(role); err == nil {
			var out strings.Builder
			for _, p := range permissions {
				fmt.Fprintf(&out, "%d %q %q\n", p.Access, p.Key, p.End)
			}
			return out.String(), true
		}
	case "password":
		var stored []byte
		if stored, err = v.Password(name); err == nil {
			return fmt.Sprintf("%q\n", stored), true
		}
	case "check":
		p := s.permission(d)
		err = v.Check(who, p.Key, p.End, p.Access)
	case "check-admin":
		err = v.CheckAdmin(who)
	case "check-signed-in":
		err = v.CheckSignedIn(who)
	case "check-user-get":
		err = v.CheckUserGet(who, arg(s.t, d, "of"))
	case "check-role-get":
		err = v.CheckRoleGet(who, role)
	default:
		return "", false
	}
	if err != nil {
		return err.Error() + "\n", true
	}
	return "allowed\n", true
}

func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := newScenario(t)
		datadriven.RunTest(t, path, func(_ *testing.T, d *datadriven.TestData) string { return s.run(d) })
	})
}

func TestLoadReportsReset(t *testing.T) {
	table, err := load(t, open(t))
	require.NoError(t, err)
	require.Equal(t, []Change{{Kind: Reset}}, table.Changes())
	require.Empty(t, table.Changes())
	require.Equal(t, uint64(1), table.Snapshot().Revision())
	require.False(t, table.Snapshot().Enabled())
	require.False(t, table.Snapshot().HasUser("root"))
}

func TestUnencodableNameChangesNothing(t *testing.T) {
	e := open(t)
	table, err := load(t, e)
	require.NoError(t, err)
	var b engine.Batch
	require.NoError(t, table.RoleAdd(&b, "bad\xff"))
	require.NoError(t, table.UserAdd(&b, "u", "", true))
	view, ops := table.Snapshot(), b.Len()
	err = table.UserGrantRole(&b, "u", "bad\xff")
	require.ErrorContains(t, err, `auth: encode user "u"`)
	require.Same(t, view, table.Snapshot())
	require.Equal(t, ops, b.Len())
}

func TestLoadRefusesDamage(t *testing.T) {
	for name, c := range map[string]struct {
		table byte
		key   string
		value string
	}{
		"enabled":            {engine.TableAuth, enabledKey, "\x02"},
		"enabled too long":   {engine.TableAuth, enabledKey, "\x01\x01"},
		"revision too short": {engine.TableAuth, revisionKey, "\x01"},
		"user":               {engine.TableAuthUser, "u", "\x0a"},
		"user's name":        {engine.TableAuthUser, "u", "\x0a\x01v"},
		"role":               {engine.TableAuthRole, "r", "\x0a"},
		"role's name":        {engine.TableAuthRole, "r", "\x0a\x01s"},
	} {
		e := open(t)
		var b engine.Batch
		b.Put(engine.TableKey(c.table, []byte(c.key)), []byte(c.value))
		require.NoError(t, e.Commit(&b))
		_, err := load(t, e)
		require.ErrorIs(t, err, ErrCorrupt, name)
	}
}

// failing is a snapshot whose reads fail from the given one on.
type failing struct {
	engine.Snapshot
	reads, failAt int
}

var errDisk = errors.New("disk on fire")

func (f *failing) Get(key []byte) ([]byte, error) {
	if f.reads++; f.reads > f.failAt {
		return nil, errDisk
	}
	return f.Snapshot.Get(key)
}

func (f *failing) Scan(lo, hi []byte, reverse bool, fn func(k, v []byte) bool) error {
	if f.reads++; f.reads > f.failAt {
		return errDisk
	}
	return f.Snapshot.Scan(lo, hi, reverse, fn)
}

func TestLoadReportsFailures(t *testing.T) {
	s, err := open(t).Snapshot()
	require.NoError(t, err)
	defer s.Close()
	for i := range 4 {
		_, err := Load(&failing{Snapshot: s, failAt: i})
		require.ErrorIs(t, err, errDisk, "read %d", i)
	}
	_, err = Load(&failing{Snapshot: s, failAt: 4})
	require.NoError(t, err)
}
