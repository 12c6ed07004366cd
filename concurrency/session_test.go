package concurrency_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dolmen-io/dolmen/concurrency"
)

func TestSessionEnds(t *testing.T) {
	tests := []struct {
		name string
		end  func(t *testing.T, s *concurrency.Session)
		want error
	}{
		{"closed", func(t *testing.T, s *concurrency.Session) { require.NoError(t, s.Close(testContext(t))) }, concurrency.ErrSessionClosed},
		{"lease revoked by another", func(t *testing.T, s *concurrency.Session) {
			_, err := s.Client().Revoke(testContext(t), s.Lease())
			require.NoError(t, err)
		}, concurrency.ErrSessionLost},
		{"client closed", func(t *testing.T, s *concurrency.Session) { require.NoError(t, s.Client().Close()) }, concurrency.ErrSessionLost},
	}
	t.Parallel()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			s, other := ownSession(t, shortTTL), ownSession(t, ttl)
			require.GreaterOrEqual(t, s.TTL(), shortTTL)
			require.NoError(t, context.Cause(s.Context()))
			name := t.Name()
			held, err := concurrency.NewMutex(s, name).Lock(ctx)
			require.NoError(t, err)
			next := start(func() (*concurrency.Hold, error) { return concurrency.NewMutex(other, name).Lock(ctx) })
			awaitKeys(t, other.Client(), name+"/", 2)

			tt.end(t, s)
			receive(t, s.Context().Done())
			require.ErrorIs(t, context.Cause(s.Context()), tt.want)
			receive(t, held.Context().Done())
			require.ErrorIs(t, context.Cause(held.Context()), tt.want)
			require.Greater(t, succeeded(t, next).Token(), held.Token())
			_, err = concurrency.NewMutex(s, name).TryLock(ctx)
			require.ErrorIs(t, err, tt.want)
			if s.Client().Ctx().Err() == nil {
				require.ErrorIs(t, held.Release(ctx), concurrency.ErrNotHeld)
				require.NoError(t, s.Close(ctx))
				require.NoError(t, s.Close(ctx), "closing it again")
			}
		})
	}
}

// TestCutOff: a holder whose network fails learns that its session is lost, the next one gets the lock
// after the time to live, and the late writes of the first are refused by their guard.
func TestCutOff(t *testing.T) {
	t.Parallel()
	ctx, name := testContext(t), t.Name()
	network := newLine(t)
	s, other := newSession(t, dial(t, "http://"+network.listener.Addr().String()), shortTTL), ownSession(t, ttl)
	held, err := concurrency.NewMutex(s, name).Lock(ctx)
	require.NoError(t, err)
	next := start(func() (*concurrency.Hold, error) { return concurrency.NewMutex(other, name).Lock(ctx) })
	awaitKeys(t, other.Client(), name+"/", 2)

	network.cut()
	receive(t, held.Context().Done())
	require.ErrorIs(t, context.Cause(held.Context()), concurrency.ErrSessionLost)
	h := succeeded(t, next)
	require.Greater(t, h.Token(), held.Token())
	for hold, want := range map[*concurrency.Hold]bool{held: false, h: true} {
		resp, err := other.Client().Txn(ctx).If(hold.Guard()).Then(clientv3.OpDelete(name + "-data")).Commit()
		require.NoError(t, err)
		require.Equal(t, want, resp.Succeeded)
	}
	// The session cannot reach the server to end the lease, and says so.
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.Close(short), context.DeadlineExceeded)
	require.NoError(t, s.Client().Close())
}

func TestSessionRefusals(t *testing.T) {
	t.Parallel()
	client := dial(t, endpoint)
	_, err := concurrency.NewSession(testContext(t), client, 0)
	require.ErrorIs(t, err, concurrency.ErrInvalid)
	ended, cancel := context.WithCancel(testContext(t))
	cancel()
	_, err = concurrency.NewSession(ended, client, ttl)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, client.Close())
	_, err = concurrency.NewSession(testContext(t), client, ttl)
	require.Error(t, err)
}

// TestTTLIsRoundedUp: half a second is granted as at least one.
func TestTTLIsRoundedUp(t *testing.T) {
	s := ownSession(t, 30*time.Second+time.Millisecond)
	require.Equal(t, 31*time.Second, s.TTL())
}
