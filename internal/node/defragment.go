package node

import (
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// defragmenter reclaims the engine's space in the background, once at a time: an engine that is being
// compacted gains nothing from a second request.
type defragmenter struct {
	lg  *zap.Logger
	eng engine.Engine

	running sync.WaitGroup
	mu      struct {
		sync.Mutex
		busy, stopped bool
	}
}

// start begins a compaction unless one is running. It returns at once.
func (d *defragmenter) start() {
	d.lg.Info("starting defragment")
	compactor, able := d.eng.(engine.Compactor)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.mu.stopped:
		return
	case !able:
		d.lg.Info("finished defragment", zap.String("reason", "this engine has nothing to reclaim"))
		return
	case d.mu.busy:
		d.lg.Info("finished defragment", zap.String("reason", "the engine is being compacted already"))
		return
	}
	d.mu.busy = true
	d.running.Go(func() { d.compact(compactor) })
}

func (d *defragmenter) compact(c engine.Compactor) {
	before, begun := d.eng.Stats().DiskBytes, time.Now()
	err := c.Compact()
	d.mu.Lock()
	d.mu.busy = false
	d.mu.Unlock()
	switch {
	case errors.Is(err, engine.ErrClosed):
		return // the member stops
	case err != nil:
		d.lg.Warn("failed to defragment", zap.Error(err))
		return
	}
	d.lg.Info("finished defragmenting directory", zap.Int64("current-db-size-bytes-diff", d.eng.Stats().DiskBytes-before),
		zap.Int64("current-db-size-bytes", d.eng.Stats().DiskBytes), zap.Duration("took", time.Since(begun)))
	d.lg.Info("finished defragment")
}

// stop refuses further compactions. One that runs ends when the engine closes.
func (d *defragmenter) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.stopped = true
}

// Defragment implements etcdapi.Operator.
func (o operator) Defragment() { o.defragmenter.start() }
