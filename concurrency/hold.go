package concurrency

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Hold is something held: a lock, a place in a semaphore, a barrier that is up.
type Hold struct {
	ticket *ticket
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func newHold(t *ticket) *Hold {
	h := &Hold{ticket: t}
	h.ctx, h.cancel = context.WithCancelCause(t.session.ctx)
	return h
}

// Token is the fencing token: greater than that of every earlier holder. The package comment says how to
// use it.
func (h *Hold) Token() int64 { return h.ticket.revision }

// Key is the key that stands for the hold.
func (h *Hold) Key() string { return h.ticket.key }

// Context ends with the hold; context.Cause is ErrReleased, ErrSessionLost or ErrSessionClosed. A key
// that somebody else deleted does not end it: Guard and Release tell.
func (h *Hold) Context() context.Context { return h.ctx }

// Guard is a condition for a transaction that is to be made only while this is held.
func (h *Hold) Guard() clientv3.Cmp { return h.ticket.mine() }

// Release gives back what is held, and ends the hold's context before it tries. The error is ErrNotHeld
// if it was not held any more. After another error it may be held still: call it again, or close the
// session.
func (h *Hold) Release(ctx context.Context) error {
	h.cancel(ErrReleased)
	t := h.ticket
	resp, err := t.session.client.Txn(ctx).If(t.mine()).Then(clientv3.OpDelete(t.key)).Commit()
	if err == nil && !resp.Succeeded {
		err = ErrNotHeld
	}
	if err != nil {
		return fmt.Errorf("release %q: %w", t.key, err)
	}
	return nil
}

// acquire takes a place below prefix and waits until no key below ahead is older.
func (s *Session) acquire(ctx context.Context, prefix, ahead, value string) (h *Hold, err error) {
	err = s.during(ctx, func(ctx context.Context) error {
		// The oldest key, read along: without a contender one request is enough.
		t, oldest, err := s.draw(ctx, prefix, value, clientv3.OpGet(ahead, append(clientv3.WithFirstCreate(), clientv3.WithKeysOnly())...))
		if err != nil {
			return err
		}
		if len(oldest.Kvs) > 0 && string(oldest.Kvs[0].Key) != t.key {
			if err := t.await(ctx, ahead); err != nil {
				return t.giveUp(err, clientv3.OpDelete(t.key))
			}
		}
		h = newHold(t)
		return nil
	})
	return h, err
}

// tryAcquire takes a place below prefix if there is no key below ahead.
func (s *Session) tryAcquire(ctx context.Context, prefix, ahead string) (h *Hold, err error) {
	err = s.during(ctx, func(ctx context.Context) error {
		none := clientv3.Compare(clientv3.CreateRevision(ahead), "=", 0).WithPrefix()
		t, _, err := s.draw(ctx, prefix, "", clientv3.OpGet(prefix, clientv3.WithCountOnly()), none)
		if err == nil {
			h = newHold(t)
		}
		return err
	})
	return h, err
}
