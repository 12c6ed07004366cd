package concurrency

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	etcd "go.etcd.io/etcd/client/v3/concurrency"
)

// giveUpTimeout bounds how long a call that has already failed still tries to take its key out of the line.
// It is what an election takes with etcd's defaults, several times over.
const giveUpTimeout = 5 * time.Second

// Session is a lease that is kept alive until Close, or until that fails.
type Session struct {
	client *clientv3.Client
	inner  *etcd.Session
	ttl    time.Duration
	ctx    context.Context
	cancel context.CancelCauseFunc
	drawn  atomic.Uint64 // keys named so far
}

// NewSession opens a session. The ttl is how long others wait for what the session held after its process
// died; it is rounded up to seconds, and a server may make it longer. A shorter one is noticed sooner and
// survives less: a session is lost when no keep-alive gets through for that long. ctx bounds the opening
// only. Errors are ErrInvalid, that of ctx, or the client's.
func NewSession(ctx context.Context, client *clientv3.Client, ttl time.Duration) (*Session, error) {
	if ttl <= 0 {
		return nil, fmt.Errorf("open session: %w: a time to live of %v; give at least a second", ErrInvalid, ttl)
	}
	seconds := int64(ttl / time.Second)
	if ttl%time.Second != 0 {
		seconds++
	}
	lease, err := client.Grant(ctx, seconds)
	if err != nil {
		return nil, fmt.Errorf("open session: grant lease: %w", err)
	}
	inner, err := etcd.NewSession(client, etcd.WithLease(lease.ID))
	if err == nil && inner == nil {
		err = ErrSessionLost // the client was closed meanwhile
	}
	if err != nil {
		return nil, fmt.Errorf("open session: keep lease alive: %w", err)
	}
	s := &Session{client: client, inner: inner, ttl: time.Duration(lease.TTL) * time.Second}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	context.AfterFunc(inner.Ctx(), func() { s.cancel(ErrSessionLost) })
	return s, nil
}

// Context ends when the session does; context.Cause is then ErrSessionLost or ErrSessionClosed. A lease
// that was revoked by another is noticed at the next keep-alive, after a third of the time to live.
func (s *Session) Context() context.Context { return s.ctx }

// Client is the client that the session uses.
func (s *Session) Client() *clientv3.Client { return s.client }

// Lease is what the session's keys are bound to.
func (s *Session) Lease() clientv3.LeaseID { return s.inner.Lease() }

// TTL is the time to live that the server granted.
func (s *Session) TTL() time.Duration { return s.ttl }

// Close ends the session: its context, and all that it holds, which others get at once. On an error the
// lease may remain until it expires; Close may be called again. Closing a session that is lost or closed
// does nothing.
func (s *Session) Close(ctx context.Context) error {
	s.cancel(ErrSessionClosed)
	s.inner.Orphan()
	_, err := s.client.Revoke(ctx, s.Lease())
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("close session: revoke lease %x: %w", int64(s.Lease()), err)
	}
	return nil
}

// join returns a context that ends with ctx or with the session.
func (s *Session) join(ctx context.Context) (context.Context, context.CancelFunc) {
	both, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.ctx, cancel)
	return both, func() {
		stop()
		cancel()
	}
}

// during calls f with a context that ends with ctx or with the session. Its error says which one ended.
func (s *Session) during(ctx context.Context, f func(context.Context) error) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx) // join ends the context only a moment later, when f may be done
	}
	both, done := s.join(ctx)
	defer done()
	err := f(both)
	switch {
	case err == nil:
		return nil
	case s.ctx.Err() != nil:
		return context.Cause(s.ctx)
	case errors.Is(err, rpctypes.ErrLeaseNotFound), s.client.Ctx().Err() != nil:
		return ErrSessionLost // which the keep-alive has not told yet
	case ctx.Err() != nil && !errors.Is(err, ctx.Err()):
		return fmt.Errorf("%w: %w", ctx.Err(), err)
	default:
		return err
	}
}
