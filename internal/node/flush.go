package node

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/state"
)

// flusher makes the engine durable from time to time and has the raft log cut below that point. It is
// what bounds the log on disk and in memory.
type flusher struct {
	lg     *zap.Logger
	eng    engine.Engine
	cons   *consensus.Node
	policy flushPolicy
	wake   chan struct{}

	// Of the applier, since the last flush was asked for.
	entries uint64
	bytes   int
	// last is the index of the newest checkpoint; it belongs to the goroutine.
	last uint64
}

// flushPolicy says when a flush is due: after some entries, or some bytes of log.
type flushPolicy struct {
	entries uint64
	bytes   int
	// keep is how many entries stay in memory behind a checkpoint for members that lag.
	keep uint64
	// whole says that a flush writes everything the engine holds and not just what is new. Then one is due
	// only when a part of that size has changed; the log's bytes stay bounded by it.
	whole bool
}

const (
	// flushBytes is how much log is kept at most before a flush, in bytes.
	flushBytes = 64 << 20
	// wholeShare is the part of an engine's content that must have been logged before all of it is written
	// again: writing costs at most so many times what the clients wrote.
	wholeShare = 4
)

// note counts what was applied, and asks for a flush when one is due. It is called by the applier.
func (f *flusher) note(entries, bytes int) {
	f.entries += uint64(entries)
	f.bytes += bytes
	if f.entries < f.policy.entries && f.bytes < f.policy.bytes {
		return
	}
	if f.policy.whole && int64(f.bytes) < f.eng.Stats().LiveBytes/wholeShare && f.entries < wholeShare*f.policy.entries {
		return
	}
	f.entries, f.bytes = 0, 0
	f.ask()
}

// ask asks for a flush.
func (f *flusher) ask() {
	select {
	case f.wake <- struct{}{}:
	default: // one is asked for already
	}
}

func (f *flusher) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
			if err := f.flush(); err != nil {
				return err
			}
		}
	}
}

// flush makes the engine durable, then lets go of the log that it made superfluous.
func (f *flusher) flush() error {
	start := time.Now()
	if err := f.eng.Flush(); err != nil {
		return fmt.Errorf("flush the engine: %w", err)
	}
	durable, err := state.Durable(f.eng)
	if err != nil {
		return err
	}
	if durable.Index <= f.last {
		return nil
	}
	f.cons.Checkpoint(durable.Index, durable.Term, durable.Conf, f.policy.keep)
	f.last = durable.Index
	f.lg.Info("saved snapshot to disk", zap.Uint64("snapshot-index", durable.Index),
		zap.Uint64("snapshot-term", durable.Term), zap.Duration("took", time.Since(start)))
	return nil
}
