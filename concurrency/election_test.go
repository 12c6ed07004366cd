package concurrency_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	etcd "go.etcd.io/etcd/client/v3/concurrency"

	"github.com/dolmen-io/dolmen/concurrency"
)

// until receives until a leader's value is seen, skips others, and returns it.
func until(t *testing.T, leaders <-chan concurrency.Leader, value string) concurrency.Leader {
	t.Helper()
	for {
		l := receive(t, leaders)
		if l.Value == value {
			return l
		}
		require.NotEqual(t, concurrency.Leader{}, l, "the channel is closed, or nobody is elected")
	}
}

// untilClosed receives what is left.
func untilClosed(t *testing.T, leaders <-chan concurrency.Leader) {
	t.Helper()
	require.Eventually(t, func() bool { _, ok := <-leaders; return !ok }, patience, 1)
}

func TestElection(t *testing.T) {
	t.Parallel()
	ctx, name := testContext(t), t.Name()
	s, other := ownSession(t, ttl), ownSession(t, ttl)
	e := concurrency.NewElection(s, name)
	_, err := e.Leader(ctx)
	require.ErrorIs(t, err, concurrency.ErrNoLeader)
	observing, cancel := context.WithCancel(ctx)
	leaders, err := concurrency.NewElection(ownSession(t, ttl), name).Observe(observing)
	require.NoError(t, err)
	require.Equal(t, concurrency.Leader{}, receive(t, leaders), "nobody is elected")

	term, err := e.Campaign(ctx, "a")
	require.NoError(t, err)
	want := concurrency.Leader{Key: term.Key(), Value: "a", Token: term.Token(), Revision: term.Token()}
	require.Equal(t, want, receive(t, leaders))
	got, err := e.Leader(ctx)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.NoError(t, term.Proclaim(ctx, "a2"))
	seen := receive(t, leaders)
	require.Equal(t, "a2", seen.Value)
	require.Equal(t, term.Token(), seen.Token)
	require.Greater(t, seen.Revision, term.Token())

	next := start(func() (*concurrency.Term, error) { return concurrency.NewElection(other, name).Campaign(ctx, "b") })
	awaitKeys(t, s.Client(), name+"/", 2)
	require.NoError(t, term.Resign(ctx))
	require.ErrorIs(t, context.Cause(term.Context()), concurrency.ErrReleased)
	require.ErrorIs(t, term.Proclaim(ctx, "too late"), concurrency.ErrNotHeld)
	require.ErrorIs(t, term.Resign(ctx), concurrency.ErrNotHeld)
	second := succeeded(t, next)
	require.Equal(t, second.Token(), receive(t, leaders).Token)

	// The end of a session resigns.
	require.NoError(t, other.Close(ctx))
	receive(t, second.Context().Done())
	require.ErrorIs(t, second.Proclaim(ctx, "x"), concurrency.ErrSessionClosed)
	require.Equal(t, concurrency.Leader{}, receive(t, leaders))
	cancel()
	untilClosed(t, leaders)
}

// TestSlowObserver: who does not receive gets the newest, and is no hindrance to the end.
func TestSlowObserver(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	e := concurrency.NewElection(ownSession(t, ttl), t.Name())
	term, err := e.Campaign(ctx, "0")
	require.NoError(t, err)
	observer := ownSession(t, ttl)
	leaders, err := concurrency.NewElection(observer, t.Name()).Observe(ctx)
	require.NoError(t, err)
	for _, value := range []string{"1", "2", "3", "last"} {
		require.NoError(t, term.Proclaim(ctx, value))
	}
	require.Greater(t, until(t, leaders, "last").Revision, term.Token())
	require.NoError(t, term.Proclaim(ctx, "nobody receives this"))
	require.NoError(t, observer.Close(ctx))
	untilClosed(t, leaders)
	_, err = concurrency.NewElection(observer, t.Name()).Observe(ctx)
	require.ErrorIs(t, err, concurrency.ErrSessionClosed)
}

// TestObserverEnds: whatever ends it closes the channel, with a leader and without.
func TestObserverEnds(t *testing.T) {
	tests := map[string]func(t *testing.T, s *concurrency.Session, cancel func()){
		"cancelled":      func(_ *testing.T, _ *concurrency.Session, cancel func()) { cancel() },
		"session closed": func(t *testing.T, s *concurrency.Session, _ func()) { require.NoError(t, s.Close(testContext(t))) },
		"client closed":  func(t *testing.T, s *concurrency.Session, _ func()) { require.NoError(t, s.Client().Close()) },
	}
	for name, end := range tests {
		for _, elected := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithCancel(testContext(t))
				s := ownSession(t, ttl)
				if elected {
					_, err := concurrency.NewElection(ownSession(t, ttl), t.Name()).Campaign(ctx, "a")
					require.NoError(t, err)
				}
				leaders, err := concurrency.NewElection(s, t.Name()).Observe(ctx)
				require.NoError(t, err)
				require.Equal(t, elected, receive(t, leaders).Token != 0)
				end(t, s, cancel)
				untilClosed(t, leaders)
				cancel()
			})
		}
	}
}

// TestObserveDeadLeader: the leader dies; the observer sees the next one.
func TestObserveDeadLeader(t *testing.T) {
	t.Parallel()
	ctx, name := testContext(t), t.Name()
	dying, s := ownSession(t, shortTTL), ownSession(t, ttl)
	_, err := concurrency.NewElection(dying, name).Campaign(ctx, "a")
	require.NoError(t, err)
	next := start(func() (*concurrency.Term, error) { return concurrency.NewElection(s, name).Campaign(ctx, "b") })
	awaitKeys(t, s.Client(), name+"/", 2)
	leaders, err := concurrency.NewElection(s, name).Observe(ctx)
	require.NoError(t, err)
	require.Equal(t, "a", receive(t, leaders).Value)
	require.NoError(t, dying.Client().Close())
	require.Equal(t, "b", receive(t, leaders).Value)
	require.NoError(t, succeeded(t, next).Resign(ctx))
}

// TestWithEtcdsElection: both kinds campaign in one election.
func TestWithEtcdsElection(t *testing.T) {
	t.Parallel()
	ctx, name := testContext(t), t.Name()
	s := ownSession(t, ttl)
	theirs, err := etcd.NewSession(dial(t, endpoint), etcd.WithTTL(30))
	require.NoError(t, err)
	first := etcd.NewElection(theirs, name)
	require.NoError(t, first.Campaign(ctx, "theirs"))
	e := concurrency.NewElection(s, name)
	ours := start(func() (*concurrency.Term, error) { return e.Campaign(ctx, "ours") })
	awaitKeys(t, s.Client(), name+"/", 2)
	leader, err := e.Leader(ctx)
	require.NoError(t, err)
	require.Equal(t, concurrency.Leader{Key: first.Key(), Value: "theirs", Token: first.Rev(), Revision: first.Rev()}, leader)
	seen := first.Observe(ctx)
	require.Equal(t, "theirs", string(receive(t, seen).Kvs[0].Value))
	require.NoError(t, first.Resign(ctx))
	require.Equal(t, "ours", string(receive(t, seen).Kvs[0].Value))
	require.NoError(t, succeeded(t, ours).Resign(ctx))
	require.NoError(t, theirs.Close())
}

// TestObserverBehindCompaction: what the observer has missed was compacted away, so it looks again.
func TestObserverBehindCompaction(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	s := ownSession(t, ttl)
	term, err := concurrency.NewElection(s, t.Name()).Campaign(ctx, "old")
	require.NoError(t, err)
	observer := ownSession(t, ttl)
	gate := &gated{Watcher: observer.Client().Watcher, asked: make(chan struct{}, 10), open: make(chan struct{})}
	observer.Client().Watcher = gate
	leaders, err := concurrency.NewElection(observer, t.Name()).Observe(ctx)
	require.NoError(t, err)
	receive(t, gate.asked)
	require.NoError(t, term.Proclaim(ctx, "new"))
	compact(t, s.Client())
	close(gate.open)
	require.Equal(t, "new", until(t, leaders, "new").Value)
	receive(t, gate.asked)
}

// compact drops the history up to now.
func compact(t *testing.T, client *clientv3.Client) {
	resp, err := client.Put(testContext(t), t.Name()+"-new", "")
	require.NoError(t, err)
	// Another test may have compacted later revisions already.
	if _, err = client.Compact(testContext(t), resp.Header.Revision); !errors.Is(err, rpctypes.ErrCompacted) {
		require.NoError(t, err)
	}
}

// gated holds up watches until it is open.
type gated struct {
	clientv3.Watcher
	asked, open chan struct{}
}

func (g *gated) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	g.asked <- struct{}{}
	<-g.open
	return g.Watcher.Watch(ctx, key, opts...)
}
