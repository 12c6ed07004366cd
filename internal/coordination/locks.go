package coordination

import (
	"context"

	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
)

// locks is the Lock service.
type locks struct {
	v3lockpb.UnimplementedLockServer
	*Services
}

// Lock implements v3lockpb.LockServer. A caller that gives up while it waits leaves no key. One that is cut
// off in the moment of its first write may leave one, which ends with the lease it gave.
func (s locks) Lock(ctx context.Context, r *v3lockpb.LockRequest) (*v3lockpb.LockResponse, error) {
	return call(ctx, s.Services, r.GetLease(), func(ctx context.Context, session *concurrency.Session) (*v3lockpb.LockResponse, error) {
		m := concurrency.NewMutex(session, string(r.GetName()))
		if err := m.Lock(ctx); err != nil {
			return nil, err
		}
		return &v3lockpb.LockResponse{Header: m.Header(), Key: []byte(m.Key())}, nil
	})
}

// Unlock implements v3lockpb.LockServer. It asks nobody whether the caller holds the lock.
func (s locks) Unlock(ctx context.Context, r *v3lockpb.UnlockRequest) (*v3lockpb.UnlockResponse, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	c, end := s.client(ctx)
	defer end()
	res, err := c.Delete(ctx, string(r.GetKey()))
	if err != nil {
		return nil, reason(ctx, err)
	}
	return &v3lockpb.UnlockResponse{Header: res.Header}, nil
}
