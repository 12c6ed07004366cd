package concurrency

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Election chooses one of those who campaign as the leader, in the order of arrival. The leader has a
// value, such as its address, that others read and observe.
type Election struct {
	session *Session
	prefix  string
}

// NewElection returns the election of a name. Its keys are below name and a slash.
func NewElection(s *Session, name string) *Election { return &Election{session: s, prefix: name + "/"} }

// Term is the time of one leader. Its Token is the fencing token, its Context ends with it.
type Term struct {
	*Hold
}

// Campaign waits to be elected, and then has the value. When ctx or the session ends first, it withdraws
// and returns why.
func (e *Election) Campaign(ctx context.Context, value string) (*Term, error) {
	h, err := e.session.acquire(ctx, e.prefix, e.prefix, value)
	if err != nil {
		return nil, fmt.Errorf("campaign in %q: %w", e.prefix, err)
	}
	return &Term{h}, nil
}

// Proclaim gives the leader another value. The error is ErrNotHeld if the term is over.
func (t *Term) Proclaim(ctx context.Context, value string) error {
	s := t.ticket.session
	err := s.during(ctx, func(ctx context.Context) error {
		put := clientv3.OpPut(t.Key(), value, clientv3.WithLease(s.Lease()))
		resp, err := s.client.Txn(ctx).If(t.Guard()).Then(put).Commit()
		if err == nil && !resp.Succeeded {
			err = ErrNotHeld
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("proclaim %q: %w", t.Key(), err)
	}
	return nil
}

// Resign ends the term, as Release does; the next in line is elected. The end of the session resigns too.
func (t *Term) Resign(ctx context.Context) error { return t.Release(ctx) }

// Leader is who is elected. The zero Leader stands for nobody.
type Leader struct {
	Key   string
	Value string
	// Token is the leader's fencing token, 0 if there is none.
	Token int64
	// Revision is that of the leader's last proclamation.
	Revision int64
}

// Leader returns who is elected. The error is ErrNoLeader if nobody is.
func (e *Election) Leader(ctx context.Context) (Leader, error) {
	leader, _, err := e.read(ctx)
	if err == nil && leader.Token == 0 {
		err = ErrNoLeader
	}
	if err != nil {
		return Leader{}, fmt.Errorf("leader of %q: %w", e.prefix, err)
	}
	return leader, nil
}

// read returns the leader, which may be nobody, and the store's revision at which that is so.
func (e *Election) read(ctx context.Context) (leader Leader, revision int64, err error) {
	err = e.session.during(ctx, func(ctx context.Context) error {
		resp, err := e.session.client.Get(ctx, e.prefix, clientv3.WithFirstCreate()...)
		if err != nil {
			return err
		}
		for _, kv := range resp.Kvs {
			leader = leaderOf(kv)
		}
		revision = resp.Header.Revision
		return nil
	})
	return leader, revision, err
}
