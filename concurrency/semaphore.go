package concurrency

import (
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// MaxSlots is the most that a semaphore can have: whoever is next reads a key for each slot that is taken.
const MaxSlots = 4096

// Semaphore is a lock that up to a number of holders have at a time, given in the order of arrival.
//
// Holders release in any order, so that no single holder is the one to wait for. Therefore there are two
// kinds of keys: a line, in which each waiter watches the one before it, and a key for each slot, on
// which only the first of the line has its eyes. A slot's key can exist once only, which is why there are
// never more holders than slots, whatever else happens.
type Semaphore struct {
	session     *Session
	wait, slots string
	n           int
}

// NewSemaphore returns the semaphore of a name with n slots, 1 to MaxSlots; else the error is ErrInvalid.
// All who use a name must give it the same n. Its keys are below name and a slash.
func NewSemaphore(s *Session, name string, n int) (*Semaphore, error) {
	if n < 1 || n > MaxSlots {
		return nil, fmt.Errorf("semaphore %q: %w: %d slots; give 1 to %d", name, ErrInvalid, n, MaxSlots)
	}
	return &Semaphore{session: s, wait: name + "/wait/", slots: name + "/slot/", n: n}, nil
}

// Acquire waits for a slot. When ctx or the session ends first, it leaves the line and returns why.
func (s *Semaphore) Acquire(ctx context.Context) (*Hold, error) {
	next, err := s.session.acquire(ctx, s.wait, s.wait, "")
	if err != nil {
		return nil, fmt.Errorf("acquire %q: %w", s.slots, err)
	}
	defer next.cancel(ErrReleased)
	t, slot := next.ticket, &ticket{session: s.session}
	err = s.session.during(ctx, func(ctx context.Context) error {
		for slot.revision == 0 {
			if err := s.take(ctx, t, slot); err != nil {
				return t.giveUp(err, t.leave(slot))
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("acquire %q: %w", s.slots, err)
	}
	return newHold(slot), nil
}

// take moves the first of the line into a free slot, or returns after the slots have changed.
func (s *Semaphore) take(ctx context.Context, t, slot *ticket) error {
	client := s.session.client
	resp, err := client.Txn(ctx).If(t.mine()).Then(s.taken()).Commit()
	if err != nil {
		return err
	}
	if !resp.Succeeded {
		return ErrNotHeld
	}
	slot.key = s.free(resp.Responses[0].GetResponseRange().Kvs)
	if slot.key == "" {
		return awaitEvent(ctx, client, s.slots, resp.Header.Revision+1, clientv3.WithPrefix(), clientv3.WithFilterPut())
	}
	moved, err := client.Txn(ctx).If(t.mine(), slot.mine()).
		Then(clientv3.OpPut(slot.key, t.key, clientv3.WithLease(s.session.Lease())), clientv3.OpDelete(t.key)).Commit()
	if err == nil && moved.Succeeded {
		slot.revision = moved.Header.Revision
	}
	return err
}

// leave takes a waiter out of the line, and out of the slot that it may have got without hearing of it.
func (t *ticket) leave(slot *ticket) clientv3.Op {
	out := clientv3.OpDelete(t.key)
	if slot.key == "" {
		return out
	}
	got := clientv3.Compare(clientv3.Value(slot.key), "=", t.key)
	return clientv3.OpTxn([]clientv3.Cmp{got}, []clientv3.Op{out, clientv3.OpDelete(slot.key)}, []clientv3.Op{out})
}

// TryAcquire takes a slot if one is free and nobody waits; otherwise the error is ErrLocked.
func (s *Semaphore) TryAcquire(ctx context.Context) (*Hold, error) {
	t, slot := &ticket{session: s.session, key: s.session.name(s.wait)}, &ticket{session: s.session}
	err := s.session.during(ctx, func(ctx context.Context) error {
		for slot.revision == 0 {
			if err := s.try(ctx, t, slot); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("try to acquire %q: %w", s.slots, err)
	}
	return newHold(slot), nil
}

// try takes a slot, or leaves slot.revision 0 if another was faster, so that it is worth trying again.
func (s *Semaphore) try(ctx context.Context, t, slot *ticket) error {
	idle := clientv3.Compare(clientv3.CreateRevision(s.wait), "=", 0).WithPrefix()
	resp, err := s.session.client.Txn(ctx).If(idle).Then(s.taken()).Commit()
	if err != nil {
		return err
	}
	if !resp.Succeeded {
		return ErrLocked
	}
	slot.key = s.free(resp.Responses[0].GetResponseRange().Kvs)
	if slot.key == "" {
		return ErrLocked
	}
	put := clientv3.OpPut(slot.key, t.key, clientv3.WithLease(s.session.Lease()))
	taken, err := s.session.client.Txn(ctx).If(idle, slot.mine()).Then(put).Commit()
	if err != nil {
		return slot.giveUp(err, t.leave(slot))
	}
	if taken.Succeeded {
		slot.revision = taken.Header.Revision
	}
	return nil
}

func (s *Semaphore) taken() clientv3.Op {
	return clientv3.OpGet(s.slots, clientv3.WithPrefix(), clientv3.WithKeysOnly())
}

// free returns the key of a slot that is not taken, "" if there is none.
func (s *Semaphore) free(taken []*mvccpb.KeyValue) string {
	used := make(map[string]bool, len(taken))
	for _, kv := range taken {
		used[string(kv.Key)] = true
	}
	for i := range s.n {
		if key := fmt.Sprintf("%s%03x", s.slots, i); !used[key] {
			return key
		}
	}
	return ""
}
