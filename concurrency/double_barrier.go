package concurrency

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// MaxParticipants is the most that a DoubleBarrier can have: each of them reads the keys of all when it comes.
const MaxParticipants = 1024

// DoubleBarrier lets a number of participants begin together and end together, any number of times.
//
// Each participant is a key. Whoever finds that the number is complete with itself writes the door's key,
// and the door's modification revision is what opens: it lets through all who came before it. Nobody
// who came later is let through by it, so a door that was left behind by participants who died does no
// harm.
type DoubleBarrier struct {
	session  *Session
	in, door string
	n        int
}

// NewDoubleBarrier returns the barrier of a name for n participants, 1 to MaxParticipants; else the error
// is ErrInvalid. All who use a name must give it the same n. Its keys are below name and a slash.
func NewDoubleBarrier(s *Session, name string, n int) (*DoubleBarrier, error) {
	if n < 1 || n > MaxParticipants {
		return nil, fmt.Errorf("double barrier %q: %w: %d participants; give 1 to %d", name, ErrInvalid, n, MaxParticipants)
	}
	return &DoubleBarrier{session: s, in: name + "/in/", door: name + "/door", n: n}, nil
}

// Entry is a participant that was let in.
type Entry struct {
	barrier *DoubleBarrier
	hold    *Hold
	opened  int64
}

// Context ends when the entry is left or the session ends.
func (e *Entry) Context() context.Context { return e.hold.Context() }

// Token is the revision at which the barrier opened: equal for all who were let in together, and greater
// than that of earlier rounds.
func (e *Entry) Token() int64 { return e.opened }

// Enter waits until n participants are waiting, itself included. Those whose sessions end while they wait
// do not count; more than n may be let in if they come at the same time. When ctx or the session ends
// first, Enter takes itself out and returns why.
func (b *DoubleBarrier) Enter(ctx context.Context) (e *Entry, err error) {
	err = b.session.during(ctx, func(ctx context.Context) error {
		t, _, err := b.session.draw(ctx, b.in, "", clientv3.OpGet(b.door))
		if err != nil {
			return err
		}
		opened, err := b.await(ctx, t)
		if err != nil {
			return t.giveUp(err, clientv3.OpDelete(t.key))
		}
		e = &Entry{barrier: b, hold: newHold(t), opened: opened}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("enter barrier %q: %w", b.in, err)
	}
	return e, nil
}

// await returns the revision at which the door opened for t, and opens it if t makes the number complete.
func (b *DoubleBarrier) await(ctx context.Context, t *ticket) (int64, error) {
	client := b.session.client
	for {
		resp, err := client.Txn(ctx).If(t.mine()).Then(
			clientv3.OpGet(b.door), clientv3.OpGet(b.in, clientv3.WithPrefix(), clientv3.WithKeysOnly())).Commit()
		if err != nil {
			return 0, err
		}
		if !resp.Succeeded {
			return 0, ErrNotHeld
		}
		var opened int64
		for _, kv := range resp.Responses[0].GetResponseRange().Kvs {
			opened = kv.ModRevision
		}
		if opened > t.revision {
			return opened, nil
		}
		if waiting(resp.Responses[1].GetResponseRange().Kvs, opened, t.revision) < b.n {
			err = awaitEvent(ctx, client, b.door, resp.Header.Revision+1, clientv3.WithFilterDelete())
		} else {
			same := clientv3.Compare(clientv3.ModRevision(b.door), "=", opened)
			_, err = client.Txn(ctx).If(t.mine(), same).Then(clientv3.OpPut(b.door, "")).Commit()
		}
		if err != nil {
			return 0, err
		}
	}
}

// waiting counts the participants that came after the door was last opened, up to the one of a revision.
// Of those who make the number complete, the last to come counts all the others.
func waiting(in []*mvccpb.KeyValue, opened, last int64) (n int) {
	for _, kv := range in {
		if kv.CreateRevision > opened && kv.CreateRevision <= last {
			n++
		}
	}
	return n
}

// Leave waits until all who were let in together have left, or their sessions have ended. When ctx or the
// session ends first, it returns why; the participant counts as having left from the call on, and Leave may
// be called again to wait for the others.
func (e *Entry) Leave(ctx context.Context) error {
	b := e.barrier
	err := b.session.during(ctx, func(ctx context.Context) error {
		if err := e.hold.Release(ctx); err != nil && !errors.Is(err, ErrNotHeld) {
			return err
		}
		if err := awaitNone(ctx, b.session.client, b.in, e.opened); err != nil {
			return err
		}
		empty := clientv3.Compare(clientv3.CreateRevision(b.in), "=", 0).WithPrefix()
		_, err := b.session.client.Txn(ctx).If(empty).Then(clientv3.OpDelete(b.door)).Commit()
		return err
	})
	if err != nil {
		return fmt.Errorf("leave barrier %q: %w", b.in, err)
	}
	return nil
}
