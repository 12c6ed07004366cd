package node

import (
	"time"

	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/mvcc"
	"github.com/dolmen-io/dolmen/internal/state"
)

// pace is how fast compaction goes: up to batch revisions, then a pause.
type pace struct {
	batch int
	pause time.Duration
}

// Etcd's defaults.
const (
	removeBatch = 1000
	removePause = 10 * time.Millisecond
)

func (p pace) withDefaults() pace {
	if p.batch <= 0 {
		p.batch = removeBatch
	}
	if p.pause <= 0 {
		p.pause = removePause
	}
	return p
}

// remover carries out compactions, one at a time and in steps between the applier's turns. It belongs to
// the applier. A compaction is finished when nothing is left to remove and the hasher has its checksum.
type remover struct {
	lg      *zap.Logger
	state   *state.State
	eng     engine.Engine
	hasher  *hasher
	pace    pace
	metrics *compactionMetrics
	// removed tells physical compactions how far removal has come.
	removed *milestones

	phase removalPhase
	now   mvcc.Compaction // the one under way
	began time.Time
	count int // of revisions removed
	sum   *mvcc.Hash
}

type removalPhase uint8

const (
	// removalIdle: no compaction is under way.
	removalIdle removalPhase = iota
	// removalAwaits: the hasher has not begun; nothing may be removed.
	removalAwaits
	// removalRuns: steps are due.
	removalRuns
	// removalEmpty: nothing is left to remove.
	removalEmpty
	// removalVoid: a snapshot has replaced the state meanwhile, and the hasher is not yet done with the one before.
	removalVoid
)

// hashBegun notes that the hasher needs nothing any more that is to be removed.
func (r *remover) hashBegun() {
	if r.phase == removalAwaits {
		r.phase = removalRuns
	}
}

// hashDone takes the checksum of the compaction under way.
func (r *remover) hashDone(sum mvcc.Hash) {
	if r.phase != removalVoid {
		r.sum = &sum
		return
	}
	select {
	case <-r.hasher.begun: // of what is void
	default:
	}
	r.phase = removalIdle
	r.begin()
}

// interrupt forgets the compaction under way: the state that it is of is being replaced.
func (r *remover) interrupt() {
	r.hasher.epoch.Add(1)
	switch {
	case r.phase == removalIdle, r.phase == removalVoid:
	case r.sum != nil: // the hasher is done with it
		r.phase = removalIdle
	default:
		r.phase = removalVoid
	}
}

// begin hands a compaction that has been accepted to the hasher, unless one is under way.
func (r *remover) begin() {
	if r.phase != removalIdle {
		return
	}
	c, due := r.state.BeginRemoval()
	if !due {
		return
	}
	r.phase, r.now, r.began, r.count, r.sum = removalAwaits, c, time.Now(), 0, nil
	r.hasher.jobs <- hashJob{c, r.hasher.epoch.Load()} // it has room: the one before is done
}

// resume takes up a compaction that a stop or a crash interrupted.
func (r *remover) resume() {
	r.begin()
	if r.phase != removalIdle {
		r.lg.Info("resume scheduled compaction", zap.Int64("scheduled-compact-revision", r.now.Revision))
	}
}

// removedUpTo is the milestone of a compaction: there is one at revision 0, and -1 stands for none.
func removedUpTo(revision int64) uint64 { return uint64(revision + 1) }

// due says whether step has something to do.
func (r *remover) due() bool {
	return r.phase == removalRuns || r.phase == removalEmpty && r.sum != nil
}

// pause is how long to wait before the next step. Finishing removes nothing more.
func (r *remover) pause() time.Duration {
	if r.phase == removalEmpty {
		return 0
	}
	return r.pace.pause
}

// step removes some revisions, or finishes the compaction. It does nothing if a snapshot has come since it was due.
func (r *remover) step() error {
	if !r.due() {
		return nil
	}
	start := time.Now()
	finish := r.phase == removalEmpty
	if finish && r.now.Whole {
		r.state.KeepHash(*r.sum)
	}
	done, err := r.state.RemoveSome(r.pace.batch, finish)
	if err != nil {
		return err
	}
	r.count += done.Removed
	r.metrics.step(done, time.Since(start))
	if done.Empty {
		r.phase = removalEmpty
	}
	if done.Done {
		r.finished(done.Finished)
		r.phase = removalIdle
		r.begin() // one that was accepted meanwhile
	}
	return nil
}

func (r *remover) finished(revision int64) {
	took, files, live := time.Since(r.began), r.eng.Stats().DiskBytes, r.state.Bytes()
	r.metrics.finish(took, time.Now())
	r.lg.Info("finished scheduled compaction", zap.Int64("compact-revision", revision), zap.Duration("took", took),
		zap.Int("number-of-keys-compacted", r.count), zap.Uint32("hash", r.sum.Sum),
		zap.Int64("current-db-size-bytes", max(files, live)), zap.Int64("current-db-size-in-use-bytes", live))
	if r.now.Whole {
		r.lg.Info("storing new hash", zap.Uint32("hash", r.sum.Sum), zap.Int64("revision", r.sum.Revision),
			zap.Int64("compact-revision", r.sum.Compacted))
	} else {
		r.lg.Info("previous compaction was interrupted, skip storing compaction hash value", zap.Int64("compact-revision", revision))
	}
	r.removed.reach(removedUpTo(revision))
}
