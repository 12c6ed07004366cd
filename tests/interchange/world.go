package interchange

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/tests/harness"
)

const (
	rootPassword = "root-password"
	// deadline bounds one step against a server.
	deadline = 5 * time.Minute
	// txnPuts is how many puts go into one transaction while filling: below the 128 that servers take.
	txnPuts = 100
)

// connect returns a client, of the user root if auth is on.
func connect(t *testing.T, s *harness.Server, secured bool) *clientv3.Client {
	t.Helper()
	cfg := clientv3.Config{
		Endpoints: []string{s.Endpoint()}, DialTimeout: 20 * time.Second, Logger: zap.NewNop(), MaxCallRecvMsgSize: 1 << 30,
	}
	if secured {
		cfg.Username, cfg.Password = "root", rootPassword
	}
	c, err := clientv3.New(cfg)
	if err != nil {
		t.Fatalf("connect to %s: %v", s.Kind, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// filler writes the same things for the same seed.
type filler struct {
	t   *testing.T
	ctx context.Context
	c   *clientv3.Client
	rnd *rand.Rand
}

// fill writes keys with history: leases, overwrites, deletes, keys that come back, a compaction in the middle and
// changes after it.
func fill(t *testing.T, c *clientv3.Client, seed uint64, keys int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	f := &filler{t: t, ctx: ctx, c: c, rnd: rand.New(rand.NewPCG(seed, 2))}
	for id := range 50 {
		_, err := clientv3.RetryLeaseClient(c).LeaseGrant(ctx, lease(int64(seed*1000)+int64(id)+1))
		f.check(err)
	}
	changes := max(keys/20, 30)
	f.bulk(seed, keys)
	f.single(seed, keys, changes)
	rev := f.revision()
	f.bulk(seed, keys/10)
	_, err := c.Compact(ctx, rev, clientv3.WithCompactPhysical())
	f.check(err)
	f.single(seed, keys, changes)
}

func (f *filler) check(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *filler) key(i int) string { return fmt.Sprintf("/registry/pods/%07d", i) }

func (f *filler) value() string {
	b := make([]byte, f.rnd.IntN(200))
	for i := range b {
		b[i] = byte(f.rnd.Uint32())
	}
	return string(b)
}

func (f *filler) put(seed uint64, i int) clientv3.Op {
	var opts []clientv3.OpOption
	if f.rnd.IntN(10) == 0 {
		opts = append(opts, clientv3.WithLease(clientv3.LeaseID(int64(seed*1000)+f.rnd.Int64N(50)+1)))
	}
	return clientv3.OpPut(f.key(i), f.value(), opts...)
}

// bulk writes the first keys, many in each transaction.
func (f *filler) bulk(seed uint64, keys int) {
	f.t.Helper()
	for i := 0; i < keys; i += txnPuts {
		var ops []clientv3.Op
		for k := i; k < min(keys, i+txnPuts); k++ {
			ops = append(ops, f.put(seed, k))
		}
		_, err := f.c.Txn(f.ctx).Then(ops...).Commit()
		f.check(err)
	}
}

// single makes changes one by one anywhere among the keys.
func (f *filler) single(seed uint64, keys, changes int) {
	f.t.Helper()
	for range changes {
		i := f.rnd.IntN(keys)
		var err error
		switch f.rnd.IntN(6) {
		case 0, 1:
			_, err = f.c.Delete(f.ctx, f.key(i))
		case 2:
			_, err = f.c.Delete(f.ctx, f.key(i), clientv3.WithRange(f.key(i+3)))
		default:
			_, err = f.c.Do(f.ctx, f.put(seed, i))
		}
		f.check(err)
	}
}

func (f *filler) revision() int64 {
	res, err := f.c.Get(f.ctx, "x", clientv3.WithCountOnly())
	f.check(err)
	return res.Header.Revision
}

// secure makes users and roles and turns authentication on.
func secure(t *testing.T, c *clientv3.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	var errs []error
	try := func(_ any, err error) { errs = append(errs, err) }
	try(c.UserAdd(ctx, "root", rootPassword))
	try(c.UserGrantRole(ctx, "root", "root"))
	try(c.UserAdd(ctx, "alice", "alice-password"))
	try(c.UserAddWithOptions(ctx, "bob", "", &clientv3.UserAddOptions{NoPassword: true}))
	try(c.RoleAdd(ctx, "root"))
	try(c.UserGrantRole(ctx, "root", "root"))
	try(c.RoleAdd(ctx, "reader"))
	try(c.RoleGrantPermission(ctx, "reader", "/registry/", "/registry0", clientv3.PermissionType(authpb.READ)))
	try(c.RoleGrantPermission(ctx, "reader", "z", "\x00", clientv3.PermissionType(authpb.READWRITE)))
	try(c.UserGrantRole(ctx, "alice", "reader"))
	try(c.AuthEnable(ctx))
	for i, err := range errs {
		if err != nil && i != 1 { // the role does not exist yet, which etcd lets pass
			t.Fatalf("step %d of turning authentication on: %v", i, err)
		}
	}
}

// checkAlice fails unless the user alice may read what her role says, and nothing else.
func checkAlice(t *testing.T, s *harness.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{s.Endpoint()}, DialTimeout: 20 * time.Second, Logger: zap.NewNop(), Username: "alice", Password: "alice-password",
	})
	if err != nil {
		t.Fatalf("alice cannot sign in at %s: %v", s.Kind, err)
	}
	defer c.Close()
	if _, err := c.Get(ctx, "/registry/pods/0000001"); err != nil {
		t.Errorf("alice cannot read at %s: %v", s.Kind, err)
	}
	if _, err := c.Put(ctx, "/registry/pods/0000001", "x"); err == nil {
		t.Errorf("alice may write at %s", s.Kind)
	}
}

// world is all that a client can see, in lines that can be compared.
type world struct {
	lines    []string
	revision int64
	hashed   []int64 // the revisions at which the key space was hashed
}

// again are the revisions at which the next observation must hash to be compared with this one.
func (w *world) again() []int64 { return w.hashed[1:] }

// observe reads a server. hashes are further revisions at which the key space is hashed; those that are compacted
// are compared as refusals.
func observe(t *testing.T, s *harness.Server, secured bool, hashes ...int64) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	c := connect(t, s, secured)
	w := &world{}
	w.keys(ctx, t, c)
	w.hashed = append([]int64{0}, hashes...)
	for _, rev := range w.hashed {
		res, err := c.HashKV(ctx, s.Endpoint(), rev)
		if err != nil {
			w.add("hash at %d: %v", rev, err)
			continue
		}
		w.add("hash at %d: %08x, compacted %d, of %d", rev, res.Hash, res.CompactRevision, res.HashRevision)
	}
	w.leases(ctx, t, c)
	members, err := c.MemberList(ctx)
	must(t, err)
	for _, m := range members.Members {
		w.add("member %x %s %v %v %v", m.ID, m.Name, m.PeerURLs, m.ClientURLs, m.IsLearner)
	}
	alarms, err := c.AlarmList(ctx)
	must(t, err)
	w.add("alarms %v", alarms.Alarms)
	w.users(ctx, t, c)
	return w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) add(format string, args ...any) {
	w.lines = append(w.lines, fmt.Sprintf(format, args...))
}

func (w *world) keys(ctx context.Context, t *testing.T, c *clientv3.Client) {
	t.Helper()
	from := "\x00"
	for {
		res, err := c.Get(ctx, from, clientv3.WithFromKey(), clientv3.WithLimit(2000))
		must(t, err)
		for _, kv := range res.Kvs {
			w.add("key %s %d %d %d %d %x", kv.Key, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease, kv.Value)
			from = string(kv.Key) + "\x00"
		}
		if w.revision = res.Header.Revision; !res.More {
			break
		}
	}
	w.add("revision %d", w.revision)
}

func (w *world) leases(ctx context.Context, t *testing.T, c *clientv3.Client) {
	t.Helper()
	res, err := c.Leases(ctx)
	must(t, err)
	var all []string
	for _, l := range res.Leases {
		ttl, err := c.TimeToLive(ctx, l.ID, clientv3.WithAttachedKeys())
		must(t, err)
		slices.SortFunc(ttl.Keys, slices.Compare)
		all = append(all, fmt.Sprintf("lease %x granted %d keys %s", l.ID, ttl.GrantedTTL, ttl.Keys))
	}
	slices.Sort(all)
	w.lines = append(w.lines, all...)
}

func (w *world) users(ctx context.Context, t *testing.T, c *clientv3.Client) {
	t.Helper()
	status, err := c.AuthStatus(ctx)
	must(t, err)
	w.add("auth %v, revision %d", status.Enabled, status.AuthRevision)
	users, err := c.UserList(ctx)
	must(t, err)
	for _, name := range users.Users {
		u, err := c.UserGet(ctx, name)
		must(t, err)
		w.add("user %s roles %v", name, u.Roles)
	}
	roles, err := c.RoleList(ctx)
	must(t, err)
	for _, name := range roles.Roles {
		r, err := c.RoleGet(ctx, name)
		must(t, err)
		w.add("role %s %v", name, r.Perm)
	}
}

// compare fails at the first difference.
func compare(t *testing.T, what string, want, got *world) {
	t.Helper()
	for i := range max(len(want.lines), len(got.lines)) {
		switch {
		case i >= len(want.lines):
			t.Fatalf("%s: more than before: %.300s", what, got.lines[i])
		case i >= len(got.lines):
			t.Fatalf("%s: missing: %.300s", what, want.lines[i])
		case want.lines[i] != got.lines[i]:
			t.Fatalf("%s: line %d\nwant %.300s\ngot  %.300s", what, i, want.lines[i], got.lines[i])
		}
	}
	t.Logf("%s: %d lines equal, revision %d", what, len(want.lines), want.revision)
}
