package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/ordering"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/embed"
	"github.com/dolmen-io/dolmen/tests/harness"
)

const testDeadline = time.Minute

// newClient returns a client of the server and a context that bounds the test.
func newClient(t *testing.T, endpoint string) (*clientv3.Client, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testDeadline)
	t.Cleanup(cancel)
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c, ctx
}

// start starts a server and returns its endpoint: ours inside this process, where the race detector sees
// both sides, another's as a process.
func start(t *testing.T) string {
	t.Helper()
	if harness.Subject() != harness.Dolmen {
		return startProcess(t).Endpoint()
	}
	cfg := embed.NewConfig()
	cfg.DataDir = t.TempDir()
	cfg.Flags = []string{"--unsafe-no-fsync"}
	if engine := os.Getenv("DOLMEN_TEST_ENGINE"); engine != "" {
		cfg.StorageEngine = engine
	}
	m, err := embed.Start(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), testDeadline)
		defer cancel()
		must(t, m.Close(ctx))
	})
	return m.Endpoints()[0]
}

func startProcess(t *testing.T) *harness.Server {
	t.Helper()
	return harness.Start(t, harness.Subject(), harness.Options{NoFsync: true})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newSession(t *testing.T, c *clientv3.Client) *concurrency.Session {
	t.Helper()
	s, err := concurrency.NewSession(c, concurrency.WithTTL(10))
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// TestMutex: increments under a lock from several sessions lose nothing, and TryLock fails while another holds it.
func TestMutex(t *testing.T) {
	t.Parallel()
	c, ctx := newClient(t, start(t))
	const holders, rounds = 4, 10
	var wg sync.WaitGroup
	for range holders {
		session := newSession(t, c)
		wg.Go(func() {
			for range rounds {
				m := concurrency.NewMutex(session, "/lock")
				if err := m.Lock(ctx); err != nil {
					t.Error(err)
					return
				}
				resp, err := c.Get(ctx, "counter")
				if err != nil {
					t.Error(err)
					return
				}
				n := 0
				if len(resp.Kvs) > 0 {
					n, _ = strconv.Atoi(string(resp.Kvs[0].Value))
				}
				if _, err := c.Put(ctx, "counter", strconv.Itoa(n+1)); err != nil {
					t.Error(err)
				}
				if err := m.Unlock(ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if resp, err := c.Get(ctx, "counter"); err != nil || string(resp.Kvs[0].Value) != strconv.Itoa(holders*rounds) {
		t.Errorf("counter = %v, %v, want %d", resp, err, holders*rounds)
	}
	first, second := newSession(t, c), newSession(t, c)
	must(t, concurrency.NewMutex(first, "/try").Lock(ctx))
	waiting := concurrency.NewMutex(second, "/try")
	if err := waiting.TryLock(ctx); !errors.Is(err, concurrency.ErrLocked) {
		t.Errorf("TryLock of a held lock: %v, want ErrLocked", err)
	}
	// A holder's session ends: the next in line gets the lock.
	must(t, first.Close())
	must(t, waiting.Lock(ctx))
}

// TestElection: the next candidate leads when the first resigns, and an observer sees both and a proclamation.
func TestElection(t *testing.T) {
	t.Parallel()
	c, ctx := newClient(t, start(t))
	first := concurrency.NewElection(newSession(t, c), "/election")
	second := concurrency.NewElection(newSession(t, c), "/election")
	if _, err := first.Leader(ctx); !errors.Is(err, concurrency.ErrElectionNoLeader) {
		t.Errorf("leader before the election: %v, want ErrElectionNoLeader", err)
	}
	must(t, first.Campaign(ctx, "one"))
	observed := second.Observe(ctx)
	expect := func(want string) {
		t.Helper()
		resp, ok := <-observed
		if !ok || string(resp.Kvs[0].Value) != want {
			t.Fatalf("observed %v, want leader %q", resp, want)
		}
	}
	expect("one")
	won := make(chan error, 1)
	go func() { won <- second.Campaign(ctx, "two") }()
	must(t, first.Proclaim(ctx, "one again"))
	expect("one again")
	must(t, first.Resign(ctx))
	must(t, <-won)
	expect("two")
	if err := first.Proclaim(ctx, "late"); !errors.Is(err, concurrency.ErrElectionNotLeader) {
		t.Errorf("proclaim after resigning: %v, want ErrElectionNotLeader", err)
	}
}

// TestSessionEndsWithItsLease: revoking the lease ends the session and removes its keys.
func TestSessionEndsWithItsLease(t *testing.T) {
	t.Parallel()
	c, ctx := newClient(t, start(t))
	session := newSession(t, c)
	_, err := c.Put(ctx, "owned", "1", clientv3.WithLease(session.Lease()))
	must(t, err)
	_, err = c.Revoke(ctx, session.Lease())
	must(t, err)
	select {
	case <-session.Done():
	case <-ctx.Done():
		t.Fatal("the session did not notice that its lease is gone")
	}
	resp, err := c.Get(ctx, "owned")
	must(t, err)
	if resp.Count != 0 {
		t.Error("the key outlived its lease")
	}
}

// TestSTM moves amounts between accounts at every isolation level; the sum stays.
func TestSTM(t *testing.T) {
	t.Parallel()
	c, ctx := newClient(t, start(t))
	const accounts, movers, moves = 4, 3, 15
	account := func(i int) string { return fmt.Sprintf("account/%d", i) }
	for i := range accounts {
		_, err := c.Put(ctx, account(i), "100")
		must(t, err)
	}
	for _, level := range []concurrency.Isolation{concurrency.SerializableSnapshot, concurrency.Serializable, concurrency.RepeatableReads} {
		var wg sync.WaitGroup
		for m := range movers {
			wg.Go(func() {
				for i := range moves {
					from, to := account((m+i)%accounts), account((m+i+1)%accounts)
					_, err := concurrency.NewSTM(c, func(s concurrency.STM) error {
						a, _ := strconv.Atoi(s.Get(from))
						b, _ := strconv.Atoi(s.Get(to))
						s.Put(from, strconv.Itoa(a-1))
						s.Put(to, strconv.Itoa(b+1))
						return nil
					}, concurrency.WithIsolation(level), concurrency.WithAbortContext(ctx))
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		resp, err := c.Get(ctx, "account/", clientv3.WithPrefix())
		must(t, err)
		sum := 0
		for _, kv := range resp.Kvs {
			n, _ := strconv.Atoi(string(kv.Value))
			sum += n
		}
		if sum != accounts*100 {
			t.Errorf("isolation %v: the accounts sum up to %d, want %d", level, sum, accounts*100)
		}
	}
}

// TestLeasing: a cached key is read without the server until another client writes it.
func TestLeasing(t *testing.T) {
	t.Parallel()
	s := start(t)
	c, ctx := newClient(t, s)
	other, _ := newClient(t, s)
	cached, closeCached, err := leasing.NewKV(c, "leases/")
	must(t, err)
	defer closeCached()
	rival, closeRival, err := leasing.NewKV(other, "leases/")
	must(t, err)
	defer closeRival()
	for i := range 5 {
		want := strconv.Itoa(i)
		_, err = rival.Put(ctx, "k", want)
		must(t, err)
		for range 2 {
			resp, err := cached.Get(ctx, "k")
			must(t, err)
			if len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != want {
				t.Errorf("cached read = %v, want %q", resp.Kvs, want)
			}
		}
	}
	resp, err := cached.Txn(ctx).If(clientv3.Compare(clientv3.Value("k"), "=", "4")).Then(clientv3.OpPut("k", "5"), clientv3.OpGet("k")).Commit()
	must(t, err)
	if !resp.Succeeded {
		t.Error("transaction over a leased key failed")
	}
	_, err = rival.Delete(ctx, "k")
	must(t, err)
	got, err := cached.Get(ctx, "k")
	must(t, err)
	if len(got.Kvs) != 0 {
		t.Errorf("deleted key is still read as %v", got.Kvs)
	}
}

// TestMirror: a syncer reads the base in pages and then every update.
func TestMirror(t *testing.T) {
	t.Parallel()
	c, ctx := newClient(t, start(t))
	const base, updates = 1200, 50
	for i := range base {
		_, err := c.Put(ctx, fmt.Sprintf("m/%04d", i), "base")
		must(t, err)
	}
	syncer := mirror.NewSyncer(c, "m/", 0)
	pages, errs := syncer.SyncBase(ctx)
	n := 0
	for page := range pages {
		n += len(page.Kvs)
	}
	must(t, <-errs)
	if n != base {
		t.Errorf("mirrored %d keys, want %d", n, base)
	}
	watch := syncer.SyncUpdates(ctx)
	for i := range updates {
		_, err := c.Put(ctx, fmt.Sprintf("m/%04d", i), "update")
		must(t, err)
	}
	for got := 0; got < updates; {
		resp, ok := <-watch
		if !ok {
			t.Fatal("updates ended")
		}
		must(t, resp.Err())
		for _, e := range resp.Events {
			if string(e.Kv.Key) != fmt.Sprintf("m/%04d", got) {
				t.Fatalf("update %d is of key %q", got, e.Kv.Key)
			}
			got++
		}
	}
}

// TestNamespace: reads, writes, watches and leases under a prefix see nothing else and show no prefix.
func TestNamespace(t *testing.T) {
	t.Parallel()
	c, ctx := newClient(t, start(t))
	kv, watcher := namespace.NewKV(c.KV, "ns/"), namespace.NewWatcher(c.Watcher, "ns/")
	events := watcher.Watch(ctx, "", clientv3.WithFromKey(), clientv3.WithCreatedNotify())
	<-events
	_, err := c.Put(ctx, "outside", "1")
	must(t, err)
	_, err = c.Put(ctx, "zz", "1")
	must(t, err)
	_, err = kv.Put(ctx, "inside", "1")
	must(t, err)
	resp, err := kv.Get(ctx, "", clientv3.WithFromKey())
	must(t, err)
	if resp.Count != 1 || string(resp.Kvs[0].Key) != "inside" {
		t.Errorf("the namespace holds %v", resp.Kvs)
	}
	if e := (<-events).Events; len(e) != 1 || string(e[0].Kv.Key) != "inside" {
		t.Errorf("watch in the namespace had %v", e)
	}
	raw, err := c.Get(ctx, "ns/inside")
	must(t, err)
	if raw.Count != 1 {
		t.Error("the key is not stored under the prefix")
	}
}

// TestOrdering: revisions seen through an ordering client do not go back.
func TestOrdering(t *testing.T) {
	t.Parallel()
	c, ctx := newClient(t, start(t))
	kv := ordering.NewKV(c.KV, func(op clientv3.Op, resp clientv3.OpResponse, prev int64) error {
		return fmt.Errorf("an answer went back behind revision %d", prev)
	})
	for i := range 50 {
		_, err := c.Put(ctx, "k", strconv.Itoa(i))
		must(t, err)
		resp, err := kv.Get(ctx, "k", clientv3.WithSerializable())
		must(t, err)
		if string(resp.Kvs[0].Value) != strconv.Itoa(i) {
			t.Errorf("read %q after writing %d", resp.Kvs[0].Value, i)
		}
		_, err = kv.Txn(ctx).Then(clientv3.OpGet("k")).Commit()
		must(t, err)
	}
}

// TestClientWatchResumes: a client follows the server to another address and reads the history it missed.
func TestClientWatchResumes(t *testing.T) {
	t.Parallel()
	s := startProcess(t)
	c, ctx := newClient(t, s.Endpoint())
	_, err := c.Put(ctx, "a", "1")
	must(t, err)
	s.Kill()
	s.Restart()
	c.SetEndpoints(s.Endpoint())
	events := c.Watch(ctx, "a", clientv3.WithRev(2))
	_, err = c.Put(ctx, "a", "2")
	must(t, err)
	for want := 1; want <= 2; {
		resp, ok := <-events
		if !ok {
			t.Fatal("watch ended")
		}
		must(t, resp.Err())
		for _, e := range resp.Events {
			if string(e.Kv.Value) != strconv.Itoa(want) {
				t.Errorf("event %d has value %q", want, e.Kv.Value)
			}
			want++
		}
	}
}
