package concurrency_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/concurrency"
	"github.com/dolmen-io/dolmen/embed"
)

const (
	// patience is how long a test waits for what must happen.
	patience = time.Minute
	// ttl of a session whose holder does not die in the test.
	ttl = 30 * time.Second
	// shortTTL is the least that a server with the default election timeout grants.
	shortTTL = 2 * time.Second
)

// endpoint is what all tests and examples talk to. The environment variable ENDPOINT names another server,
// such as etcd; without it, a member is started.
var endpoint = os.Getenv("ENDPOINT")

func TestMain(m *testing.M) {
	flag.Parse()
	// The tests wait for leases to end most of the time, and need no processor for that.
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	status, err := runWithMember(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

func runWithMember(m *testing.M) (status int, err error) {
	if endpoint != "" {
		return m.Run(), nil
	}
	dir, err := os.MkdirTemp("", "dolmen")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cfg := embed.NewConfig()
	cfg.DataDir, cfg.StorageEngine = filepath.Join(dir, "data"), embed.EngineMemory
	member, err := embed.Start(ctx, cfg)
	if err != nil {
		return 1, err
	}
	endpoint = member.Endpoints()[0]
	status = m.Run()
	ctx, cancel = context.WithTimeout(context.Background(), patience)
	defer cancel()
	return status, member.Close(ctx)
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func dial(t *testing.T, at string) *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{at}, Logger: zap.NewNop()})
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	return client
}

func newSession(t *testing.T, client *clientv3.Client, ttl time.Duration) *concurrency.Session {
	s, err := concurrency.NewSession(testContext(t), client, ttl)
	require.NoError(t, err)
	t.Cleanup(func() {
		if client.Ctx().Err() == nil {
			s.Close(testContext(t))
		}
	})
	return s
}

// ownSession is a session with a client of its own.
func ownSession(t *testing.T, ttl time.Duration) *concurrency.Session {
	return newSession(t, dial(t, endpoint), ttl)
}

// awaitKeys waits until there are exactly so many keys below a prefix.
func awaitKeys(t *testing.T, client *clientv3.Client, prefix string, want int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	resp, err := client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	require.NoError(t, err)
	events := client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(resp.Header.Revision+1))
	for resp.Count != want {
		w, ok := <-events
		require.True(t, ok, "want %d keys, have %d", want, resp.Count)
		if w.CompactRevision != 0 {
			events = client.Watch(ctx, prefix, clientv3.WithPrefix())
		}
		resp, err = client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
		require.NoError(t, err)
	}
}

// result is the outcome of a call that was made in the background.
type result[T any] struct {
	value T
	err   error
}

func start[T any](call func() (T, error)) <-chan result[T] {
	c := make(chan result[T], 1)
	go func() {
		value, err := call()
		c <- result[T]{value, err}
	}()
	return c
}

func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing happens")
		panic("unreachable")
	}
}

func succeeded[T any](t *testing.T, c <-chan result[T]) T {
	t.Helper()
	r := receive(t, c)
	require.NoError(t, r.err)
	return r.value
}

// spy passes on which keys are watched.
type spy struct {
	clientv3.Watcher
	keys chan string
}

func (s *spy) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	c := s.Watcher.Watch(ctx, key, opts...)
	s.keys <- key
	return c
}

func watched(client *clientv3.Client) <-chan string {
	s := &spy{Watcher: client.Watcher, keys: make(chan string, 100)}
	client.Watcher = s
	return s.keys
}

// lossy makes transactions, and loses the answers of those that lose is true for.
type lossy struct {
	clientv3.KV
	lose func() error
}

func (l *lossy) Txn(ctx context.Context) clientv3.Txn { return &lossyTxn{l.KV.Txn(ctx), l} }

type lossyTxn struct {
	clientv3.Txn
	kv *lossy
}

func (t *lossyTxn) If(cs ...clientv3.Cmp) clientv3.Txn   { t.Txn = t.Txn.If(cs...); return t }
func (t *lossyTxn) Then(ops ...clientv3.Op) clientv3.Txn { t.Txn = t.Txn.Then(ops...); return t }

func (t *lossyTxn) Commit() (*clientv3.TxnResponse, error) {
	resp, err := t.Txn.Commit()
	if lost := t.kv.lose(); lost != nil {
		return nil, lost
	}
	return resp, err
}

// line is a network connection to the endpoint that a test can cut.
type line struct {
	listener net.Listener
	target   string
	mu       struct {
		sync.Mutex
		cut   bool
		conns []net.Conn
	}
}

func newLine(t *testing.T) *line {
	u, err := url.Parse(endpoint)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := &line{listener: listener, target: u.Host}
	if u.Host == "" {
		l.target = endpoint
	}
	t.Cleanup(l.cut)
	go l.serve()
	return l
}

func (l *line) serve() {
	for {
		in, err := l.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", l.target)
		if err != nil {
			in.Close()
			continue
		}
		if !l.keep(in, out) {
			return
		}
		go io.Copy(in, out)
		go io.Copy(out, in)
	}
}

// keep notes connections that are open, unless the line is cut.
func (l *line) keep(conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.conns = append(l.mu.conns, conns...)
	if l.mu.cut {
		for _, c := range conns {
			c.Close()
		}
	}
	return !l.mu.cut
}

func (l *line) cut() {
	l.listener.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.cut = true
	for _, c := range l.mu.conns {
		c.Close()
	}
}
