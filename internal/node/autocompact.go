package node

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/compaction"
	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/mvcc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// autoCompact compacts as --auto-compaction-mode and --auto-compaction-retention say, while this member
// leads.
func (m *Member) autoCompact(ctx context.Context) error {
	retention, err := m.cfg.CompactionRetention()
	if err != nil || retention <= 0 {
		return err
	}
	var policy compaction.Policy
	mode, kept := "periodic", zap.Duration("compact-period", retention)
	if m.cfg.AutoCompactionMode == config.CompactionRevision {
		mode, kept = "revision", zap.Int64("revision-compaction-retention", int64(retention))
		policy = compaction.NewRevisions(int64(retention))
	} else {
		current, _ := m.state.Revisions()
		policy = compaction.NewPeriodic(retention, time.Now(), current)
	}
	ticker := time.NewTicker(policy.Every())
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		now := time.Now() // not the tick's: that may be old after a slow compaction
		current, _ := m.state.Revisions()
		revision, due := policy.Due(now, current, m.leads())
		if !due {
			continue
		}
		m.lg.Info("starting auto "+mode+" compaction", zap.Int64("revision", revision), kept)
		if err := m.compact(ctx, revision); err != nil {
			m.lg.Warn("failed auto "+mode+" compaction", zap.Int64("revision", revision), kept,
				zap.Duration("retry-interval", policy.Every()), zap.Error(err))
			continue
		}
		m.lg.Info("completed auto "+mode+" compaction", zap.Int64("revision", revision), kept, zap.Duration("took", time.Since(now)))
		policy.Done(time.Now(), revision)
	}
}

// compact compacts to a revision, unless that has happened already.
func (m *Member) compact(ctx context.Context, revision int64) error {
	res, err := m.Propose(ctx, &pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{Revision: revision}})
	if err = errors.Join(err, res.Err); errors.Is(err, mvcc.ErrCompacted) {
		return nil
	}
	return err
}
