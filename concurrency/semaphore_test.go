package concurrency_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/concurrency"
)

func newSemaphore(t *testing.T, s *concurrency.Session, n int) *concurrency.Semaphore {
	sem, err := concurrency.NewSemaphore(s, t.Name(), n)
	require.NoError(t, err)
	return sem
}

// TestSlots: whichever holder releases, the first of the line gets its slot.
func TestSlots(t *testing.T) {
	const n = 3
	t.Parallel()
	ctx := testContext(t)
	s := ownSession(t, ttl)
	sem := newSemaphore(t, s, n)
	var held []*concurrency.Hold
	for range n {
		h, err := sem.Acquire(ctx)
		require.NoError(t, err)
		held = append(held, h)
	}
	_, err := sem.TryAcquire(ctx)
	require.ErrorIs(t, err, concurrency.ErrLocked)
	client := dial(t, endpoint)
	var waiting []<-chan result[*concurrency.Hold]
	for i := range n {
		other := ownSession(t, ttl)
		keys := watched(other.Client())
		waiting = append(waiting, start(func() (*concurrency.Hold, error) { return newSemaphore(t, other, n).Acquire(ctx) }))
		key := receive(t, keys)
		if i == 0 {
			require.Equal(t, t.Name()+"/slot/", key, "the first of the line watches the slots")
		} else {
			require.Contains(t, key, t.Name()+"/wait/", "the others watch the one before them")
		}
	}
	awaitKeys(t, client, t.Name()+"/wait/", n)
	for i, which := range []int{2, 0, 1} {
		require.NoError(t, held[which].Release(ctx))
		h := succeeded(t, waiting[i])
		require.Equal(t, held[which].Key(), h.Key())
		require.Greater(t, h.Token(), held[n-1].Token())
		if i+1 < n {
			require.Empty(t, waiting[i+1])
		}
	}
}

// TestNeverMoreThanSlots: many contend, some by trying, and never more than n hold.
func TestNeverMoreThanSlots(t *testing.T) {
	const n, workers, rounds = 2, 6, 8
	t.Parallel()
	var holding atomic.Int64
	var running sync.WaitGroup
	for i := range workers {
		sem := newSemaphore(t, ownSession(t, ttl), n)
		ctx := testContext(t)
		acquire := sem.Acquire
		if i%2 == 0 {
			acquire = sem.TryAcquire
		}
		running.Go(func() {
			for range rounds {
				h, err := acquire(ctx)
				if errors.Is(err, concurrency.ErrLocked) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if now := holding.Add(1); now > n {
					t.Errorf("%d hold %d slots", now, n)
				}
				holding.Add(-1)
				if err := h.Release(ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}
	running.Wait()
	awaitKeys(t, dial(t, endpoint), t.Name()+"/", 0)
}

// TestTryAcquireLostAnswer: a slot taken without hearing of it is given back.
func TestTryAcquireLostAnswer(t *testing.T) {
	t.Parallel()
	lost := errors.New("lost")
	s := ownSession(t, ttl)
	sem := newSemaphore(t, s, 2)
	kv := s.Client().KV
	for step := 1; step <= 2; step++ {
		n := 0
		s.Client().KV = &lossy{kv, func() error {
			if n++; n == step {
				return lost
			}
			return nil
		}}
		_, err := sem.TryAcquire(testContext(t))
		require.ErrorIs(t, err, lost)
		awaitKeys(t, s.Client(), t.Name()+"/", 0)
	}
	s.Client().KV = kv
	h, err := sem.TryAcquire(testContext(t))
	require.NoError(t, err)
	require.NoError(t, h.Release(testContext(t)))
}

func TestSlotsOutOfRange(t *testing.T) {
	s := ownSession(t, ttl)
	for _, n := range []int{-1, 0, concurrency.MaxSlots + 1} {
		_, err := concurrency.NewSemaphore(s, "s", n)
		require.ErrorIs(t, err, concurrency.ErrInvalid)
	}
}
