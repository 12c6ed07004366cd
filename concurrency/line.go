package concurrency

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// ticket is a place in a line: a key below the line's prefix, bound to the lease of its session. Places
// are in the order of their create revisions, of which no two are equal, because each key is created by a
// transaction of its own.
type ticket struct {
	session  *Session
	key      string
	revision int64
}

// name returns a key that was never used. Lease ids are not used twice, and a session counts its keys.
func (s *Session) name(prefix string) string {
	return fmt.Sprintf("%s%x-%x", prefix, int64(s.Lease()), s.drawn.Add(1))
}

// draw takes a place below prefix if the conditions hold, else the error is ErrLocked. It also reads, in
// the same transaction; the answer is the last response.
func (s *Session) draw(ctx context.Context, prefix, value string, read clientv3.Op, conditions ...clientv3.Cmp) (*ticket, *clientv3.GetResponse, error) {
	t := &ticket{session: s, key: s.name(prefix)}
	put := clientv3.OpPut(t.key, value, clientv3.WithLease(s.Lease()))
	resp, err := s.client.Txn(ctx).If(conditions...).Then(put, read).Commit()
	if err != nil {
		return nil, nil, t.giveUp(err, clientv3.OpDelete(t.key)) // the key may have been created all the same
	}
	if !resp.Succeeded {
		return nil, nil, ErrLocked
	}
	t.revision = resp.Header.Revision
	return t, (*clientv3.GetResponse)(resp.Responses[1].GetResponseRange()), nil
}

// mine holds as long as the place is in the line.
func (t *ticket) mine() clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(t.key), "=", t.revision)
}

// giveUp cleans up after a call that failed with err, which it returns. It must not use the call's context,
// because that may be what has ended. A request that is still under way to another member than the one
// asked here may be applied after this; what it creates ends with the session.
func (t *ticket) giveUp(err error, ops ...clientv3.Op) error {
	if t.session.ctx.Err() != nil {
		return err // the keys end with the lease
	}
	ctx, cancel := context.WithTimeout(t.session.client.Ctx(), giveUpTimeout)
	defer cancel()
	if _, e := t.session.client.Txn(ctx).Then(ops...).Commit(); e != nil {
		return fmt.Errorf("%w (and key %q stays until the session ends: %w)", err, t.key, e)
	}
	return err
}

// await returns when no key below prefix is older than the ticket. It fails with ErrNotHeld if the ticket
// is gone by then.
func (t *ticket) await(ctx context.Context, prefix string) error {
	last := append(clientv3.WithLastCreate(), clientv3.WithMaxCreateRev(t.revision-1), clientv3.WithKeysOnly())
	for {
		resp, err := t.session.client.Txn(ctx).If(t.mine()).Then(clientv3.OpGet(prefix, last...)).Commit()
		if err != nil {
			return err
		}
		if !resp.Succeeded {
			return ErrNotHeld
		}
		older := resp.Responses[0].GetResponseRange().Kvs
		if len(older) == 0 {
			return nil
		}
		if err := awaitEvent(ctx, t.session.client, string(older[0].Key), resp.Header.Revision+1, clientv3.WithFilterPut()); err != nil {
			return err
		}
	}
}

// awaitNone returns when no key below prefix with a create revision up to limit is left; 0 means all keys
// that exist at the time of the call.
func awaitNone(ctx context.Context, client *clientv3.Client, prefix string, limit int64) error {
	for {
		last := append(clientv3.WithLastCreate(), clientv3.WithMaxCreateRev(limit), clientv3.WithKeysOnly())
		resp, err := client.Get(ctx, prefix, last...)
		if err != nil {
			return err
		}
		if len(resp.Kvs) == 0 {
			return nil
		}
		if limit == 0 {
			limit = resp.Header.Revision
		}
		if err := awaitEvent(ctx, client, string(resp.Kvs[0].Key), resp.Header.Revision+1, clientv3.WithFilterPut()); err != nil {
			return err
		}
	}
}

// awaitEvent returns at the first event of a watch from a revision, or when the watch cannot tell and the
// caller has to look for itself.
func awaitEvent(ctx context.Context, client *clientv3.Client, key string, revision int64, opts ...clientv3.OpOption) error {
	// A member that is cut off from the others would keep silent for as long as that lasts.
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	for resp := range client.Watch(ctx, key, append(opts, clientv3.WithRev(revision))...) {
		if err := resp.Err(); err != nil {
			return unlessStale(err)
		}
		if len(resp.Events) > 0 {
			return nil
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return ErrSessionLost // only a closed client ends a watch without an error
}

// unlessStale drops the errors of a watch after which a look at the store helps: the revision was
// compacted away, or the member was cut off and the client has turned to another.
func unlessStale(err error) error {
	if errors.Is(err, rpctypes.ErrCompacted) || errors.Is(err, rpctypes.ErrNoLeader) {
		return nil
	}
	return err
}
