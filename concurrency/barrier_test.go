package concurrency_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/concurrency"
)

// wait waits for the barrier of the test's name in the background, and returns when that watches.
func wait(t *testing.T, ctx context.Context) <-chan result[any] {
	s := ownSession(t, ttl)
	keys := watched(s.Client())
	b := concurrency.NewBarrier(s, t.Name())
	c := start(func() (any, error) { return nil, b.Wait(ctx) })
	receive(t, keys)
	return c
}

func TestBarrier(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b := concurrency.NewBarrier(ownSession(t, ttl), t.Name())
	require.NoError(t, b.Wait(ctx), "it is down")
	first, err := b.Raise(ctx)
	require.NoError(t, err)
	second, err := b.Raise(ctx)
	require.NoError(t, err)
	waiting := []<-chan result[any]{wait(t, ctx), wait(t, ctx)}
	late, err := b.Raise(ctx)
	require.NoError(t, err)
	ended, cancel := context.WithCancel(ctx)
	gone := wait(t, ended)
	cancel()
	require.ErrorIs(t, receive(t, gone).err, context.Canceled)

	require.NoError(t, second.Release(ctx))
	require.Empty(t, waiting[0])
	require.Empty(t, waiting[1])
	require.NoError(t, first.Release(ctx))
	for _, w := range waiting {
		succeeded(t, w)
	}
	require.NoError(t, late.Context().Err(), "who raises it later is not waited for")
	require.NoError(t, late.Release(ctx))
	awaitKeys(t, dial(t, endpoint), t.Name()+"/", 0)
}

// TestBarrierOfTheDead: a barrier falls with the session that held it up.
func TestBarrierOfTheDead(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	s := ownSession(t, shortTTL)
	b := concurrency.NewBarrier(s, t.Name())
	_, err := b.Raise(ctx)
	require.NoError(t, err)
	waiting := wait(t, ctx)
	require.NoError(t, s.Client().Close())
	succeeded(t, waiting)
	require.ErrorIs(t, b.Wait(ctx), concurrency.ErrSessionLost)
	_, err = b.Raise(ctx)
	require.ErrorIs(t, err, concurrency.ErrSessionLost)
}

func newDoubleBarrier(t *testing.T, n int) (*concurrency.DoubleBarrier, *concurrency.Session) {
	s := ownSession(t, shortTTL)
	b, err := concurrency.NewDoubleBarrier(s, t.Name(), n)
	require.NoError(t, err)
	return b, s
}

// TestRounds: in each round nobody is let in before all have come, and nobody leaves before all do.
func TestRounds(t *testing.T) {
	const participants, rounds = 4, 5
	t.Parallel()
	ctx := testContext(t)
	var mu sync.Mutex
	var entered, leaving [rounds]int
	var tokens [rounds]int64
	var running sync.WaitGroup
	for range participants {
		b, _ := newDoubleBarrier(t, participants)
		running.Go(func() {
			for round := range rounds {
				mu.Lock()
				entered[round]++
				mu.Unlock()
				e, err := b.Enter(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if entered[round] != participants || tokens[round] != 0 && tokens[round] != e.Token() {
					t.Errorf("round %d: let in with %d, token %d after %v", round, entered[round], e.Token(), tokens)
				}
				tokens[round] = e.Token()
				leaving[round]++
				mu.Unlock()
				if err := e.Leave(ctx); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if leaving[round] != participants {
					t.Errorf("round %d: left with %d", round, leaving[round])
				}
				mu.Unlock()
			}
		})
	}
	running.Wait()
	for i := 1; i < rounds; i++ {
		require.Greater(t, tokens[i], tokens[i-1])
	}
	awaitKeys(t, dial(t, endpoint), t.Name()+"/", 0)
}

// TestParticipantDies: who dies while waiting does not count, who dies inside is not waited for, and the
// door that the dead leave behind lets nobody in.
func TestParticipantDies(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	client := dial(t, endpoint)
	enter := func(b *concurrency.DoubleBarrier) <-chan result[*concurrency.Entry] {
		return start(func() (*concurrency.Entry, error) { return b.Enter(ctx) })
	}
	first, dying := newDoubleBarrier(t, 2)
	waiting := enter(first)
	awaitKeys(t, client, t.Name()+"/in/", 1)
	require.NoError(t, dying.Client().Close())
	require.ErrorIs(t, receive(t, waiting).err, concurrency.ErrSessionLost)
	awaitKeys(t, client, t.Name()+"/in/", 0)

	second, dying := newDoubleBarrier(t, 2)
	third, survivor := newDoubleBarrier(t, 2)
	waiting = enter(second)
	awaitKeys(t, client, t.Name()+"/in/", 1)
	require.Empty(t, waiting)
	e, err := third.Enter(ctx)
	require.NoError(t, err)
	inside := succeeded(t, waiting)
	require.NoError(t, dying.Client().Close())
	receive(t, inside.Context().Done())
	require.NoError(t, e.Leave(ctx))
	require.NoError(t, e.Leave(ctx), "leaving again")

	// A round whose participants all end without leaving keeps its door.
	fourth, other := newDoubleBarrier(t, 2)
	waiting = enter(fourth)
	awaitKeys(t, client, t.Name()+"/in/", 1)
	_, err = third.Enter(ctx)
	require.NoError(t, err)
	succeeded(t, waiting)
	require.NoError(t, other.Close(ctx))
	require.NoError(t, survivor.Close(ctx))
	awaitKeys(t, client, t.Name()+"/", 1)
	fifth, _ := newDoubleBarrier(t, 2)
	sixth, _ := newDoubleBarrier(t, 2)
	waiting = enter(fifth)
	awaitKeys(t, client, t.Name()+"/in/", 1)
	require.Empty(t, waiting)
	e, err = sixth.Enter(ctx)
	require.NoError(t, err)
	last := succeeded(t, waiting)
	require.Equal(t, e.Token(), last.Token())
	left := start(func() (any, error) { return nil, e.Leave(ctx) })
	require.NoError(t, last.Leave(ctx))
	succeeded(t, left)
	awaitKeys(t, client, t.Name()+"/", 0)
}

func TestEnterGivesUp(t *testing.T) {
	t.Parallel()
	b, s := newDoubleBarrier(t, 2)
	ctx, cancel := context.WithCancel(testContext(t))
	keys := watched(s.Client())
	waiting := start(func() (*concurrency.Entry, error) { return b.Enter(ctx) })
	require.Equal(t, t.Name()+"/door", receive(t, keys))
	cancel()
	require.ErrorIs(t, receive(t, waiting).err, context.Canceled)
	awaitKeys(t, dial(t, endpoint), t.Name()+"/", 0)

	waiting = start(func() (*concurrency.Entry, error) { return b.Enter(testContext(t)) })
	receive(t, keys)
	require.NoError(t, s.Close(testContext(t)))
	require.ErrorIs(t, receive(t, waiting).err, concurrency.ErrSessionClosed)
	for _, n := range []int{0, concurrency.MaxParticipants + 1} {
		_, err := concurrency.NewDoubleBarrier(s, "b", n)
		require.ErrorIs(t, err, concurrency.ErrInvalid)
	}
}

// TestEnterLostAnswer: a call whose answer is lost at any step leaves no participant behind.
func TestEnterLostAnswer(t *testing.T) {
	t.Parallel()
	lost := errors.New("lost")
	b, s := newDoubleBarrier(t, 1)
	kv := s.Client().KV
	for step := 1; step <= 3; step++ {
		n := 0
		s.Client().KV = &lossy{kv, func() error {
			if n++; n == step {
				return lost
			}
			return nil
		}}
		_, err := b.Enter(testContext(t))
		require.ErrorIs(t, err, lost)
		awaitKeys(t, s.Client(), t.Name()+"/in/", 0)
	}
	s.Client().KV = kv
	e, err := b.Enter(testContext(t))
	require.NoError(t, err)
	require.NoError(t, e.Leave(testContext(t)))
}
