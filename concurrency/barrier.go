package concurrency

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Barrier keeps others waiting for as long as it is up. It is counted: whoever raises it holds it up, and
// it is down when all have released, or their sessions have ended.
type Barrier struct {
	session *Session
	prefix  string
}

// NewBarrier returns the barrier of a name. Its keys are below name and a slash.
func NewBarrier(s *Session, name string) *Barrier { return &Barrier{session: s, prefix: name + "/"} }

// Raise holds the barrier up until the Hold is released or the session ends. It does not wait.
func (b *Barrier) Raise(ctx context.Context) (h *Hold, err error) {
	err = b.session.during(ctx, func(ctx context.Context) error {
		t, _, err := b.session.draw(ctx, b.prefix, "", clientv3.OpGet(b.prefix, clientv3.WithCountOnly()))
		if err == nil {
			h = newHold(t)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("raise barrier %q: %w", b.prefix, err)
	}
	return h, nil
}

// Wait returns when all have released who held the barrier up at the time of the call; who raises it
// later is not waited for. It returns at once if the barrier is down. When ctx or the session ends
// first, it returns why.
func (b *Barrier) Wait(ctx context.Context) error {
	err := b.session.during(ctx, func(ctx context.Context) error {
		return awaitNone(ctx, b.session.client, b.prefix, 0)
	})
	if err != nil {
		return fmt.Errorf("wait for barrier %q: %w", b.prefix, err)
	}
	return nil
}
