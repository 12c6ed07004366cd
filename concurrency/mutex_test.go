package concurrency_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	etcd "go.etcd.io/etcd/client/v3/concurrency"

	"github.com/dolmen-io/dolmen/concurrency"
)

// holders are the ways to hold something alone.
var holders = map[string]func(ctx context.Context, s *concurrency.Session, name string) (*concurrency.Hold, error){
	"mutex": func(ctx context.Context, s *concurrency.Session, name string) (*concurrency.Hold, error) {
		return concurrency.NewMutex(s, name).Lock(ctx)
	},
	"rwmutex": func(ctx context.Context, s *concurrency.Session, name string) (*concurrency.Hold, error) {
		return concurrency.NewRWMutex(s, name).Lock(ctx)
	},
	"semaphore": func(ctx context.Context, s *concurrency.Session, name string) (*concurrency.Hold, error) {
		sem, err := concurrency.NewSemaphore(s, name, 1)
		if err != nil {
			return nil, err
		}
		return sem.Acquire(ctx)
	},
	"election": func(ctx context.Context, s *concurrency.Session, name string) (*concurrency.Hold, error) {
		term, err := concurrency.NewElection(s, name).Campaign(ctx, "me")
		if err != nil {
			return nil, err
		}
		return term.Hold, nil
	},
}

// forHolders runs a test with each of them.
func forHolders(t *testing.T, test func(t *testing.T, take func(*concurrency.Session) func() (*concurrency.Hold, error))) {
	t.Parallel()
	for kind, hold := range holders {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			test(t, func(s *concurrency.Session) func() (*concurrency.Hold, error) {
				return func() (*concurrency.Hold, error) { return hold(ctx, s, t.Name()) }
			})
		})
	}
}

// TestOrder: waiters get it in the order of arrival, with growing tokens, and each of them watches one
// key, which only one waiter does.
func TestOrder(t *testing.T) {
	const waiters = 6
	forHolders(t, func(t *testing.T, take func(*concurrency.Session) func() (*concurrency.Hold, error)) {
		last, err := take(ownSession(t, ttl))()
		require.NoError(t, err)
		var pending [waiters]<-chan result[*concurrency.Hold]
		watches := map[string]int{}
		var keys [waiters]<-chan string
		client := dial(t, endpoint)
		for i := range waiters {
			s := ownSession(t, ttl)
			keys[i] = watched(s.Client())
			pending[i] = start(take(s))
			watches[receive(t, keys[i])]++
			awaitKeys(t, client, t.Name()+"/", int64(i+2))
		}
		require.Len(t, watches, waiters, "each waits for another")
		for i := range waiters {
			select {
			case r := <-pending[i]:
				t.Fatalf("waiter %d does not wait: %v", i, r.err)
			default:
			}
			require.NoError(t, last.Release(testContext(t)))
			h := succeeded(t, pending[i])
			require.Greater(t, h.Token(), last.Token())
			last = h
		}
		again := 0
		if strings.HasSuffix(t.Name(), "semaphore") {
			again = 1 // the first of the line turns from the line to the slots
		}
		for i := range waiters {
			require.LessOrEqual(t, len(keys[i]), again, "a waiter was woken for another")
		}
	})
}

// TestKilled: the holder dies without a word; the next one gets it when the lease has ended.
func TestKilled(t *testing.T) {
	forHolders(t, func(t *testing.T, take func(*concurrency.Session) func() (*concurrency.Hold, error)) {
		s, other := ownSession(t, shortTTL), ownSession(t, ttl)
		held, err := take(s)()
		require.NoError(t, err)
		next := start(take(other))
		awaitKeys(t, other.Client(), t.Name()+"/", 2)
		require.NoError(t, s.Client().Close())
		receive(t, held.Context().Done())
		require.ErrorIs(t, context.Cause(held.Context()), concurrency.ErrSessionLost)
		require.Greater(t, succeeded(t, next).Token(), held.Token())
		require.Error(t, held.Release(testContext(t)))
	})
}

// TestWaiterEnds: a waiter leaves the line, in the middle of it, whatever ends it, and those around it
// do not notice.
func TestWaiterEnds(t *testing.T) {
	tests := []struct {
		name string
		end  func(t *testing.T, s *concurrency.Session, cancel func())
		want error
	}{
		{"cancelled", func(_ *testing.T, _ *concurrency.Session, cancel func()) { cancel() }, context.Canceled},
		{"session closed", func(t *testing.T, s *concurrency.Session, _ func()) { require.NoError(t, s.Close(testContext(t))) }, concurrency.ErrSessionClosed},
		{"session revoked", func(t *testing.T, s *concurrency.Session, _ func()) {
			client := dial(t, endpoint)
			_, err := client.Revoke(testContext(t), s.Lease())
			require.NoError(t, err)
		}, concurrency.ErrSessionLost},
		{"client closed", func(t *testing.T, s *concurrency.Session, _ func()) { require.NoError(t, s.Client().Close()) }, concurrency.ErrSessionLost},
	}
	t.Parallel()
	for kind, hold := range holders {
		for _, tt := range tests {
			t.Run(kind+"/"+tt.name, func(t *testing.T) {
				t.Parallel()
				ctx, name := testContext(t), t.Name()
				client := dial(t, endpoint)
				first, err := hold(ctx, ownSession(t, ttl), name)
				require.NoError(t, err)
				s := ownSession(t, shortTTL)
				waiting, cancel := context.WithCancel(ctx)
				defer cancel()
				middle := start(func() (*concurrency.Hold, error) { return hold(waiting, s, name) })
				awaitKeys(t, client, name+"/", 2)
				behind := ownSession(t, ttl)
				last := start(func() (*concurrency.Hold, error) { return hold(ctx, behind, name) })
				awaitKeys(t, client, name+"/", 3)

				tt.end(t, s, cancel)
				r := receive(t, middle)
				require.ErrorIs(t, r.err, tt.want)
				require.Nil(t, r.value)
				awaitKeys(t, client, name+"/", 2)
				require.Empty(t, last)
				require.NoError(t, first.Release(ctx))
				require.NoError(t, succeeded(t, last).Release(ctx))
				awaitKeys(t, client, name+"/", 0)
			})
		}
	}
}

// TestCause: what ends the caller's context is told as that context's error, whatever its cause.
func TestCause(t *testing.T) {
	forHolders(t, func(t *testing.T, take func(*concurrency.Session) func() (*concurrency.Hold, error)) {
		s := ownSession(t, ttl)
		_, err := take(s)()
		require.NoError(t, err)
		keys := watched(s.Client())
		ctx, cancel := context.WithCancelCause(testContext(t))
		kind := t.Name()[len("TestCause/"):]
		waiting := start(func() (*concurrency.Hold, error) { return holders[kind](ctx, s, t.Name()) })
		receive(t, keys)
		cancel(errors.New("the caller's own reason"))
		require.ErrorIs(t, receive(t, waiting).err, context.Canceled)
		awaitKeys(t, s.Client(), t.Name()+"/", 1)
	})
}

// TestDeletedByAnother: a waiter whose key somebody deleted does not believe that it was its turn.
func TestDeletedByAnother(t *testing.T) {
	forHolders(t, func(t *testing.T, take func(*concurrency.Session) func() (*concurrency.Hold, error)) {
		ctx := testContext(t)
		s := ownSession(t, ttl)
		held, err := take(s)()
		require.NoError(t, err)
		next := start(take(s))
		awaitKeys(t, s.Client(), t.Name()+"/", 2)
		resp, err := s.Client().Get(ctx, t.Name()+"/", clientv3.WithLastCreate()...)
		require.NoError(t, err)
		_, err = s.Client().Delete(ctx, string(resp.Kvs[0].Key))
		require.NoError(t, err)
		require.NoError(t, held.Release(ctx))
		require.ErrorIs(t, receive(t, next).err, concurrency.ErrNotHeld)
	})
}

// TestBehindCompaction: what a waiter has missed was compacted away, so it looks again.
func TestBehindCompaction(t *testing.T) {
	forHolders(t, func(t *testing.T, take func(*concurrency.Session) func() (*concurrency.Hold, error)) {
		ctx := testContext(t)
		s, other := ownSession(t, ttl), ownSession(t, ttl)
		held, err := take(s)()
		require.NoError(t, err)
		gate := &gated{Watcher: other.Client().Watcher, asked: make(chan struct{}, 10), open: make(chan struct{})}
		other.Client().Watcher = gate
		next := start(take(other))
		receive(t, gate.asked)
		require.NoError(t, held.Release(ctx))
		compact(t, s.Client())
		close(gate.open)
		require.NoError(t, succeeded(t, next).Release(ctx))
	})
}

// TestRelease: a hold ends once.
func TestRelease(t *testing.T) {
	forHolders(t, func(t *testing.T, take func(*concurrency.Session) func() (*concurrency.Hold, error)) {
		ctx := testContext(t)
		s := ownSession(t, ttl)
		held, err := take(s)()
		require.NoError(t, err)
		require.NoError(t, held.Context().Err())
		require.NoError(t, held.Release(ctx))
		require.ErrorIs(t, context.Cause(held.Context()), concurrency.ErrReleased)
		require.NoError(t, s.Context().Err())
		again, err := take(s)()
		require.NoError(t, err)
		require.ErrorIs(t, held.Release(ctx), concurrency.ErrNotHeld, "a late release does not hurt the next holder")
		require.NoError(t, again.Release(ctx))
		awaitKeys(t, s.Client(), t.Name()+"/", 0)
	})
}

// TestLostAnswer: a transaction is made and its answer lost, at every step; the call fails and leaves
// no key behind.
func TestLostAnswer(t *testing.T) {
	lost := errors.New("lost")
	forHolders(t, func(t *testing.T, take func(*concurrency.Session) func() (*concurrency.Hold, error)) {
		s := ownSession(t, ttl)
		kv := s.Client().KV
		for step := 1; ; step++ {
			n := 0
			s.Client().KV = &lossy{kv, func() error {
				if n++; n == step {
					return lost
				}
				return nil
			}}
			held, err := take(s)()
			s.Client().KV = kv
			if n < step {
				require.NoError(t, err)
				require.NoError(t, held.Release(testContext(t)))
				require.Greater(t, step, 1)
				return
			}
			require.ErrorIs(t, err, lost)
			awaitKeys(t, s.Client(), t.Name()+"/", 0)
		}
	})
}

// TestCannotCleanUp: the error names the key that is left.
func TestCannotCleanUp(t *testing.T) {
	forHolders(t, func(t *testing.T, take func(*concurrency.Session) func() (*concurrency.Hold, error)) {
		lost := errors.New("lost")
		s := ownSession(t, ttl)
		s.Client().KV = &lossy{s.Client().KV, func() error { return lost }}
		_, err := take(s)()
		require.ErrorIs(t, err, lost)
		require.ErrorContains(t, err, "stays until the session ends")
	})
}

// TestExclusion: many that hold in turn count without losing a step.
func TestExclusion(t *testing.T) {
	const workers, rounds = 6, 10
	forHolders(t, func(t *testing.T, take func(*concurrency.Session) func() (*concurrency.Hold, error)) {
		counter := t.Name() + "-counter"
		var running sync.WaitGroup
		for range workers {
			s := ownSession(t, ttl)
			running.Go(func() {
				for range rounds {
					if err := step(testContext(t), take(s), s.Client(), counter); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		running.Wait()
		resp, err := dial(t, endpoint).Get(testContext(t), counter)
		require.NoError(t, err)
		require.Equal(t, strconv.Itoa(workers*rounds), string(resp.Kvs[0].Value))
		_, err = dial(t, endpoint).Delete(testContext(t), counter)
		require.NoError(t, err)
	})
}

func step(ctx context.Context, take func() (*concurrency.Hold, error), client *clientv3.Client, counter string) error {
	h, err := take()
	if err != nil {
		return err
	}
	resp, err := client.Get(ctx, counter)
	if err != nil {
		return err
	}
	n := 0
	for _, kv := range resp.Kvs {
		if n, err = strconv.Atoi(string(kv.Value)); err != nil {
			return err
		}
	}
	if _, err := client.Put(ctx, counter, strconv.Itoa(n+1)); err != nil {
		return err
	}
	return h.Release(ctx)
}

func TestTryLock(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	m := concurrency.NewMutex(ownSession(t, ttl), t.Name())
	held, err := m.TryLock(ctx)
	require.NoError(t, err)
	_, err = m.TryLock(ctx)
	require.ErrorIs(t, err, concurrency.ErrLocked)
	require.NoError(t, held.Release(ctx))
	held, err = m.TryLock(ctx)
	require.NoError(t, err)
	require.NoError(t, held.Release(ctx))
}

// TestWithEtcdsMutex: both kinds stand in one line.
func TestWithEtcdsMutex(t *testing.T) {
	t.Parallel()
	ctx, name := testContext(t), t.Name()
	s := ownSession(t, ttl)
	theirs, err := etcd.NewSession(dial(t, endpoint), etcd.WithTTL(30))
	require.NoError(t, err)
	first := etcd.NewMutex(theirs, name)
	require.NoError(t, first.Lock(ctx))
	ours := start(func() (*concurrency.Hold, error) { return concurrency.NewMutex(s, name).Lock(ctx) })
	awaitKeys(t, s.Client(), name+"/", 2)
	require.NoError(t, first.Unlock(ctx))
	h := succeeded(t, ours)
	require.ErrorIs(t, etcd.NewMutex(theirs, name).TryLock(ctx), etcd.ErrLocked)
	second := start(func() (any, error) { return nil, first.Lock(ctx) })
	awaitKeys(t, s.Client(), name+"/", 2)
	require.NoError(t, h.Release(ctx))
	succeeded(t, second)
	require.NoError(t, theirs.Close())
}
