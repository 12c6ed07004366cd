package robustness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// holder takes one lease after the other, with a key under each; it keeps each alive for a while and then revokes it or
// leaves it.
type holder struct {
	number   int
	rng      *rand.Rand
	etcd     *clientv3.Client
	journal  *journal
	promises *promises
}

// heldSeconds is how long a lease of a holder lasts at least; the longest lasts twice that.
const heldSeconds = 3

func (h *holder) run(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		if err := h.hold(ctx, fmt.Sprintf("%s%d/%d", leasePrefix, h.number, n)); err != nil {
			h.journal.failed(err)
		}
		pause(ctx, time.Duration(h.rng.Int64N(int64(time.Second))))
	}
}

// patience bounds a request of a holder.
const patience = 5 * time.Second

// hold takes a lease and keeps it for a while.
func (h *holder) hold(ctx context.Context, key string) error {
	asked := h.journal.now()
	call, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	granted, err := h.etcd.Grant(call, heldSeconds+h.rng.Int64N(heldSeconds))
	if err != nil {
		return err
	}
	h.promises.extend(key, asked, granted.TTL)
	op := &operation{client: h.number, kind: opPut, key: key, value: "of " + key, lease: int64(granted.ID), called: h.journal.now()}
	err = op.put(call, h.etcd)
	op.returned = h.journal.now()
	if h.ended(key, err) {
		return nil // it took longer than the lease lives
	}
	h.journal.add(op, err)

	rounds, leave := h.rng.IntN(10), h.rng.IntN(3) == 0
	for range rounds {
		pause(ctx, time.Duration(granted.TTL)*time.Second/3)
		if gone, err := h.renew(ctx, key, granted.ID); gone {
			return nil
		} else if err != nil {
			h.journal.failed(err) // the next may be in time
		}
	}
	if leave {
		return nil
	}
	h.promises.revoke(key)
	call, cancel = context.WithTimeout(ctx, patience)
	defer cancel()
	_, err = h.etcd.Revoke(call, granted.ID)
	if h.ended(key, err) {
		return nil
	}
	return err
}

// renew keeps a lease alive, and says whether it is gone.
func (h *holder) renew(ctx context.Context, key string, id clientv3.LeaseID) (gone bool, err error) {
	asked := h.journal.now()
	call, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	kept, err := h.etcd.KeepAliveOnce(call, id)
	if err == nil {
		h.promises.extend(key, asked, kept.TTL)
	}
	return h.ended(key, err), err
}

// ended says whether an error is that there is no such lease, and holds that against what was promised.
func (h *holder) ended(key string, err error) bool {
	if err == nil || !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return false
	}
	h.promises.gone(key, h.journal.now())
	return true
}
