package auth

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/pkg/v3/adt"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// universe is every key of one or two letters out of a few, zero bytes and the largest byte among them. It
// is small enough for a model to look at each key.
func universe() [][]byte {
	alphabet := []byte{0, 1, 'a', 'b', 0xff}
	var keys [][]byte
	for _, x := range alphabet {
		keys = append(keys, []byte{x})
		for _, y := range alphabet {
			keys = append(keys, []byte{x, y})
		}
	}
	return keys
}

// holds says whether a key is in a range given as in requests.
func holds(key, end, k []byte) bool {
	switch {
	case len(end) == 0:
		return bytes.Equal(key, k)
	case bytes.Equal(end, []byte{0}):
		return bytes.Compare(k, key) >= 0
	}
	return bytes.Compare(k, key) >= 0 && bytes.Compare(k, end) < 0
}

// probes are keys that stand for all others: those of the universe, each with a successor and something
// behind that, and one after all of them.
func probes() [][]byte {
	all := [][]byte{{0xff, 0xff, 0xff, 0xff}}
	for _, k := range universe() {
		all = append(all, k, append(bytes.Clone(k), 0), append(bytes.Clone(k), 0, 0), append(bytes.Clone(k), 0x7f))
	}
	return all
}

// model says whether each key of a range is in some permission: the rule itself, without intervals.
func model(permissions []Permission, access Access, key, end []byte) bool {
	if !bytes.Equal(end, []byte{0}) && bytes.Compare(end, key) <= 0 {
		end = nil
	}
	for _, k := range probes() {
		if !holds(key, end, k) {
			continue
		}
		allowed := false
		for _, p := range permissions {
			allowed = allowed || (p.Access == access || p.Access == ReadWrite) && holds(p.Key, p.End, k)
		}
		if !allowed {
			return false
		}
	}
	return true
}

// tree is the set of keys as etcd keeps it, made with its library of intervals.
func tree(permissions []Permission, access Access) adt.IntervalTree {
	t := adt.NewIntervalTree()
	for _, p := range permissions {
		if p.Access == access || p.Access == ReadWrite {
			t.Insert(interval(p.Key, p.End), nil)
		}
	}
	return t
}

func interval(key, end []byte) adt.Interval {
	switch {
	case len(end) == 0:
		return adt.NewBytesAffinePoint(key)
	case bytes.Equal(end, []byte{0}):
		return adt.NewBytesAffineInterval(key, nil)
	}
	return adt.NewBytesAffineInterval(key, end)
}

func randomEnd(r *rand.Rand, keys [][]byte) []byte {
	switch r.IntN(6) {
	case 0:
		return []byte{0}
	case 1, 2:
		return nil
	}
	return keys[r.IntN(len(keys))]
}

func TestCheckAgainstModels(t *testing.T) {
	keys := universe()
	allowed, denied := 0, 0
	for seed := range uint64(120) {
		r := rand.New(rand.NewPCG(seed, 1))
		table, err := load(t, open(t))
		require.NoError(t, err)
		var b engine.Batch
		for _, name := range []string{RootUser, "u"} {
			require.NoError(t, table.UserAdd(&b, name, "", true))
		}
		require.NoError(t, table.UserGrantRole(&b, RootUser, RootRole))
		require.NoError(t, table.Enable(&b))
		var all []Permission
		for role := range 1 + r.IntN(3) {
			name := fmt.Sprint("r", role)
			require.NoError(t, table.RoleAdd(&b, name))
			if r.IntN(2) == 0 {
				require.NoError(t, table.UserGrantRole(&b, "u", name))
			}
			for range r.IntN(7) {
				p := Permission{Access(r.IntN(3)), keys[r.IntN(len(keys))], randomEnd(r, keys)}
				if err := table.RoleGrantPermission(&b, name, &p); err != nil {
					require.ErrorIs(t, err, ErrInvalidManagement)
				}
			}
			if err := table.UserGrantRole(&b, "u", name); err != nil {
				t.Fatal(err)
			}
			stored, err := table.Snapshot().Role(name)
			require.NoError(t, err)
			all = append(all, stored...)
		}
		v := table.Snapshot()
		who := v.Identity("u")
		for access := Read; access <= Write; access++ {
			etcd := tree(all, access)
			for range 150 {
				key, end := keys[r.IntN(len(keys))], randomEnd(r, keys)
				got := v.Check(who, key, end, access) == nil
				theirs := etcd.Contains(interval(key, end))
				require.Equal(t, theirs, got, "seed %d: etcd: %q %q %d of %v", seed, key, end, access, all)
				if isUpsideDown(key, end) {
					require.True(t, !got || model(all, access, key, end), "seed %d: %q %q %d of %v", seed, key, end, access, all)
					continue
				}
				require.Equal(t, model(all, access, key, end), got, "seed %d: %q %q %d of %v", seed, key, end, access, all)
				if got {
					allowed++
				} else {
					denied++
				}
			}
		}
	}
	require.Greater(t, allowed, 3_000)
	require.Greater(t, denied, 3_000)
}

// The advisory GHSA-xg4h-6gfc-h4m8: an open-ended range was checked as one key, so that who could read one
// key could watch all keys after it.
func TestOpenEndIsNeverOneKey(t *testing.T) {
	for _, p := range []Permission{
		{ReadWrite, []byte("k"), nil},
		{ReadWrite, []byte("k"), []byte("l")},
		{ReadWrite, []byte("k"), []byte("\xff\xff\xff\xff")},
		{ReadWrite, []byte("k"), []byte("k\x00")},
		{ReadWrite, []byte("l"), []byte{0}},
	} {
		u := &user{}
		r := &role{permissions: []Permission{p}}
		r.derive()
		u.read, u.write = r.read, r.write
		v := &View{enabled: true, revision: 1, users: []*user{u}}
		for access := Read; access <= ReadWrite; access++ {
			require.ErrorIs(t, v.Check(v.Identity(""), []byte("k"), []byte{0}, access), ErrPermissionDenied, "%q", p)
			require.ErrorIs(t, v.Check(v.Identity(""), []byte{0}, []byte{0}, access), ErrPermissionDenied, "%q", p)
		}
	}
}

func TestCheckDoesNotAllocate(t *testing.T) {
	v := &View{enabled: true, revision: 3}
	r := &role{name: "r"}
	for i := range 1000 {
		key := fmt.Appendf(nil, "key-%04d", i)
		r.permissions = append(r.permissions, Permission{ReadWrite, key, append(bytes.Clone(key), 0xff)})
		v.users = append(v.users, &user{name: fmt.Sprintf("user-%04d", i), roles: []string{"r"}})
	}
	r.derive()
	require.Len(t, r.read, 1000)
	v.roles = []*role{r}
	for _, u := range v.users {
		v.link(u)
	}
	who, name := v.Identity("user-0500"), string([]byte("user-0999"))
	key, end := []byte("key-0500"), []byte("key-0500\xff")
	var err error
	for what, check := range map[string]func(){
		"key":     func() { err = v.Check(who, key, nil, Read) },
		"range":   func() { err = v.Check(who, key, end, ReadWrite) },
		"admin":   func() { err = v.CheckAdmin(who) },
		"refused": func() { err = v.Check(who, key, []byte{0}, Write) },
		"unknown": func() { err = v.Check(Identity{"nobody", 3}, key, nil, Read) },
		"has":     func() { v.IsAdmin(name); v.HasRole(name, "r"); v.HasUser(name) },
	} {
		err = nil
		require.Zero(t, testing.AllocsPerRun(100, check), what)
		require.Equal(t, what != "key" && what != "range" && what != "has", err != nil, what)
	}
}

func BenchmarkCheck(b *testing.B) {
	r := &role{name: "r"}
	for i := range 100 {
		key := fmt.Appendf(nil, "key-%04d", i)
		r.permissions = append(r.permissions, Permission{ReadWrite, key, append(bytes.Clone(key), 0xff)})
	}
	r.derive()
	v := &View{enabled: true, revision: 1, roles: []*role{r}, users: []*user{{name: "u", roles: []string{"r"}}}}
	v.link(v.users[0])
	who, key := v.Identity("u"), []byte("key-0050")
	for b.Loop() {
		if err := v.Check(who, key, nil, Write); err != nil {
			b.Fatal(err)
		}
	}
}

func TestStoredForm(t *testing.T) {
	e := open(t)
	table, err := load(t, e)
	require.NoError(t, err)
	var b engine.Batch
	require.NoError(t, table.RoleAdd(&b, "r"))
	require.NoError(t, table.RoleGrantPermission(&b, "r", &Permission{Write, []byte("k"), []byte{0}}))
	require.NoError(t, table.RoleGrantPermission(&b, "r", &Permission{Read, []byte("a"), nil}))
	require.NoError(t, table.UserAdd(&b, "root", "aGFzaA==", false))
	require.NoError(t, table.UserGrantRole(&b, "root", "root"))
	require.NoError(t, table.UserGrantRole(&b, "root", "r"))
	require.NoError(t, table.UserAdd(&b, "n", "ignored", true))
	require.NoError(t, table.Enable(&b))
	require.NoError(t, e.Commit(&b))

	stored := func(m proto.Message) []byte {
		value, err := proto.Marshal(m)
		require.NoError(t, err)
		return value
	}
	permissions := []*authpb.Permission{
		{PermType: authpb.Permission_READ, Key: []byte("a")},
		{PermType: authpb.Permission_WRITE, Key: []byte("k"), RangeEnd: []byte{0}},
	}
	for _, want := range []struct {
		table byte
		key   string
		value []byte
	}{
		{engine.TableAuth, "authEnabled", []byte{1}},
		{engine.TableAuth, "authRevision", []byte{0, 0, 0, 0, 0, 0, 0, 8}},
		{engine.TableAuthRole, "r", stored(&authpb.Role{Name: []byte("r"), KeyPermission: permissions})},
		{engine.TableAuthUser, "root", stored(&authpb.User{Name: []byte("root"), Password: []byte("hash"),
			Roles: []string{"r", "root"}, Options: &authpb.UserAddOptions{}})},
		{engine.TableAuthUser, "n", stored(&authpb.User{Name: []byte("n"), Options: &authpb.UserAddOptions{NoPassword: true}})},
	} {
		got, err := e.Get(engine.TableKey(want.table, []byte(want.key)))
		require.NoError(t, err)
		require.Equal(t, hex.EncodeToString(want.value), hex.EncodeToString(got), want.key)
	}
	require.Equal(t, "0a016e22020801", hex.EncodeToString(stored(&authpb.User{Name: []byte("n"),
		Options: &authpb.UserAddOptions{NoPassword: true}})))

	b.Reset()
	table.Disable(&b)
	require.NoError(t, e.Commit(&b))
	got, err := e.Get(engine.TableKey(engine.TableAuth, []byte("authEnabled")))
	require.NoError(t, err)
	require.Equal(t, []byte{0}, got)
}

// Records that older versions of etcd wrote: users without options, roles in any order, empty ranges.
func TestOldRecords(t *testing.T) {
	e := open(t)
	var b engine.Batch
	put := func(table byte, name string, m proto.Message) []byte {
		value, err := proto.Marshal(m)
		require.NoError(t, err)
		b.Put(engine.TableKey(table, []byte(name)), value)
		return value
	}
	old := put(engine.TableAuthUser, "u", &authpb.User{Name: []byte("u"), Password: []byte("p"), Roles: []string{"root", "r", "gone"}})
	put(engine.TableAuthRole, "r", &authpb.Role{Name: []byte("r"), KeyPermission: []*authpb.Permission{
		{Key: nil, RangeEnd: []byte{0}}, {Key: []byte("b"), RangeEnd: []byte("a")}, {Key: []byte("c")}}})
	require.NoError(t, e.Commit(&b))
	table, err := load(t, e)
	require.NoError(t, err)
	v := table.Snapshot()
	require.True(t, v.IsAdmin("u"))
	require.True(t, v.HasRole("u", "gone"))
	require.Equal(t, `{["c" "c\x00")}`, v.user("u").read.String())

	b.Reset()
	require.NoError(t, table.RoleAdd(&b, "new"))
	require.NoError(t, table.UserGrantRole(&b, "u", "new"))
	require.NoError(t, table.UserRevokeRole(&b, "u", "new"))
	require.NoError(t, e.Commit(&b))
	got, err := e.Get(engine.TableKey(engine.TableAuthUser, []byte("u")))
	require.NoError(t, err)
	var m, want authpb.User
	require.NoError(t, proto.Unmarshal(got, &m))
	require.NoError(t, proto.Unmarshal(old, &want))
	require.Nil(t, m.Options)
	require.ElementsMatch(t, want.Roles, m.Roles)
	require.Len(t, got, len(old))
}
