// Package coordination is etcd's Lock and Election services. They are recipes of etcd's client, run inside
// the member for clients that have no library: each call uses a client of its own whose requests go to the
// member's services directly, with the caller's identity and deadline, and which is gone when the call ends.
//
// As in etcd, errors of the recipes lose their status on the way and reach the caller with an unknown code
// and their text.
package coordination

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// Services are the two services of one member.
type Services struct {
	methods *methods
	// running ends with Stop.
	running context.Context
	stop    context.CancelFunc
}

// New returns services over those that are registered with them afterwards: KV, Lease and Watch are needed.
func New(lg *zap.Logger) *Services {
	running, stop := context.WithCancel(context.Background())
	return &Services{methods: newMethods(lg), running: running, stop: stop}
}

// RegisterService adds a service for the recipes to call. It must be done before the first call.
func (s *Services) RegisterService(desc *grpc.ServiceDesc, implementation any) {
	s.methods.add(desc, implementation)
}

// Register adds the services to a server.
func (s *Services) Register(r grpc.ServiceRegistrar) {
	v3lockpb.RegisterLockServer(r, locks{Services: s})
	v3electionpb.RegisterElectionServer(r, elections{Services: s})
}

// Stop ends calls that wait for their turn, now and from now on: they could wait longer than a stop lasts.
// What they put is removed.
func (s *Services) Stop() { s.stop() }

// client returns the client for one call, and what ends it. The client's own context, with which recipes
// clean up after a caller has gone, keeps the caller's identity but not its deadline; the member bounds how
// long its requests take.
func (s *Services) client(ctx context.Context) (c *clientv3.Client, end func()) {
	conn := &connection{methods: s.methods}
	c = clientv3.NewCtxClient(context.WithoutCancel(ctx))
	c.KV = clientv3.NewKVFromKVClient(pb.NewKVClient(conn), c)
	c.Lease = unkept{clientv3.NewLeaseFromLeaseClient(pb.NewLeaseClient(conn), c, time.Second)}
	c.Watcher = clientv3.NewWatchFromWatchClient(pb.NewWatchClient(conn), c)
	return c, func() {
		_ = c.Close() // its context's error: it has been canceled by closing
		conn.streams.Wait()
	}
}

// unkept keeps no lease alive. A call's session is orphaned as soon as it is there: who holds a lock keeps
// its lease alive himself.
type unkept struct{ clientv3.Lease }

// KeepAlive implements clientv3.Lease.
func (unkept) KeepAlive(context.Context, clientv3.LeaseID) (<-chan *clientv3.LeaseKeepAliveResponse, error) {
	over := make(chan *clientv3.LeaseKeepAliveResponse)
	close(over)
	return over, nil
}

// bound returns a context that also ends with Stop.
func (s *Services) bound(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	forget := context.AfterFunc(s.running, func() { cancel(rpctypes.ErrGRPCStopped) })
	return ctx, func() {
		forget()
		cancel(nil)
	}
}

// noLease is the session of a call that puts nothing.
const noLease = -1

// call runs a recipe in a session on a lease, 0 for one that is granted for it. Such a lease is revoked if
// the recipe fails: the caller never learns of it, and the key must not stay as long as it would.
func call[T any](ctx context.Context, s *Services, lease int64, recipe func(context.Context, *concurrency.Session) (T, error)) (T, error) {
	var none T
	ctx, cancel := s.bound(ctx)
	defer cancel()
	c, end := s.client(ctx)
	defer end()
	session, err := concurrency.NewSession(c, concurrency.WithLease(clientv3.LeaseID(lease)), concurrency.WithContext(ctx))
	if err != nil {
		return none, reason(ctx, err)
	}
	session.Orphan()
	res, err := recipe(ctx, session)
	if err == nil {
		return res, nil
	}
	if lease == 0 {
		_, _ = c.Revoke(c.Ctx(), session.Lease()) // else it ends by itself
	}
	return none, reason(ctx, err)
}

// reason is the error that a caller gets: that the member stops, if that ended its call.
func reason(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, rpctypes.ErrGRPCStopped) {
		return cause
	}
	return err
}
