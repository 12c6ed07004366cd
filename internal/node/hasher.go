package node

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/dolmen-io/dolmen/internal/mvcc"
	"github.com/dolmen-io/dolmen/internal/state"
)

// hasher takes the checksum of a compaction from an engine snapshot while the applier removes what the
// compaction calls for. It reads what etcd's compaction reads, at the same pace, and holds up nobody.
type hasher struct {
	state *state.State
	pace  pace
	// jobs has room for the one compaction that is under way; each is answered by one value on begun, from
	// which on the applier may remove, and one on done. Neither blocks the hasher.
	jobs  chan hashJob
	begun chan struct{}
	done  chan mvcc.Hash
	// epoch counts the states. The answer to a job of one before is of no use, and need not be sound.
	epoch atomic.Uint64
}

// hashJob is a compaction of a state.
type hashJob struct {
	mvcc.Compaction
	epoch uint64
}

func newHasher(s *state.State, p pace) *hasher {
	return &hasher{
		state: s, pace: p,
		jobs: make(chan hashJob, 1), begun: make(chan struct{}, 1), done: make(chan mvcc.Hash, 1),
	}
}

func (h *hasher) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case c := <-h.jobs:
			err := h.hash(ctx, c)
			if h.epoch.Load() != c.epoch && err != nil {
				h.done <- mvcc.Hash{}
				continue
			}
			if err != nil {
				return err
			}
		}
	}
}

func (h *hasher) hash(ctx context.Context, c hashJob) (err error) {
	v := h.state.View()
	sum, err := v.KV.HashCompaction(c.Compaction)
	v.Release()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sum.Close()) }()
	h.begun <- struct{}{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		if h.epoch.Load() != c.epoch {
			return state.ErrReplaced
		}
		done, err := sum.Some(h.pace.batch)
		if err != nil {
			return err
		}
		if done {
			h.done <- sum.Sum()
			return nil
		}
		timer.Reset(h.pace.pause)
	}
}
