package node

import (
	"context"
	"errors"
	"sync"

	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/alarm"
	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/state"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	// defaultQuota is etcd's quota when none is given, 2 GiB; above largeQuota, 8 GiB, etcd warns.
	defaultQuota = 2 << 30
	largeQuota   = 8 << 30
)

func quotaBytes(configured int64) int64 {
	if configured == 0 {
		return defaultQuota
	}
	return configured
}

// quota sees to it that the alarm is raised when this member's live bytes have reached the limit. It is
// the alarm that refuses writes on all members; see state.
type quota struct {
	lg    *zap.Logger
	limit int64
	self  uint64
	state *state.State
	// propose activates the alarm and returns when that is applied.
	propose func(context.Context, *pb.InternalRaftRequest) error
	// over holds one wake-up: the applier has applied what there was no room for.
	over chan struct{}

	mu struct {
		sync.Mutex
		raising chan struct{} // closed when the proposal under way has ended; nil for none
	}
}

func (q *quota) logStart() {
	size := zap.Int64("quota-size-bytes", q.limit)
	switch {
	case q.limit < 0:
		q.lg.Info("disabled backend quota", size)
		return
	case q.limit > largeQuota:
		q.lg.Warn("quota exceeds the maximum value", size, zap.Int64("quota-maximum-size-bytes", largeQuota))
	}
	q.lg.Info("enabled backend quota", size)
}

// Admit implements etcdapi.Space.
func (m *Member) Admit(ctx context.Context, req *pb.InternalRaftRequest) error {
	cost := state.Cost(req)
	if cost == 0 {
		return nil
	}
	if state.Exceeds(m.state.Bytes(), cost, m.quota.limit) {
		m.quota.raise(ctx, m.quota.raised)
		return state.ErrNoSpace
	}
	if m.space.low.Load() {
		return state.ErrNoSpace
	}
	return nil
}

// exceeded says that a write was applied for which there was no room. It never blocks.
func (q *quota) exceeded() {
	select {
	case q.over <- struct{}{}:
	default: // the alarm is on its way
	}
}

// run raises the alarm when the applier says so: whoever proposed the write may be gone, or another member.
func (q *quota) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-q.over:
			q.raise(ctx, q.refused)
		}
	}
}

// raised says whether this member's alarm is, refused whether any member's is.
func (q *quota) raised() bool { return q.state.Alarms().Raised(q.self, alarm.NoSpace) }

func (q *quota) refused() bool { return q.state.Alarms().NoSpace }

// raise has this member's alarm raised unless done says that there is no need, and waits for it. However
// many ask, one proposal is on its way.
func (q *quota) raise(ctx context.Context, done func() bool) {
	if done() {
		return
	}
	q.mu.Lock()
	raising := q.mu.raising
	first := raising == nil
	if first {
		raising = make(chan struct{})
		q.mu.raising = raising
	}
	q.mu.Unlock()
	if !first {
		select {
		case <-raising:
		case <-ctx.Done():
		}
		return
	}
	defer func() {
		q.mu.Lock()
		q.mu.raising = nil
		q.mu.Unlock()
		close(raising)
	}()
	if done() { // raised between the first look and the lock
		return
	}
	q.lg.Warn("message exceeded backend quota; raising alarm",
		zap.Int64("quota-size-bytes", q.limit), zap.Int64("live-bytes", q.state.Bytes()))
	err := q.propose(ctx, &pb.InternalRaftRequest{Alarm: &pb.AlarmRequest{
		Action: pb.AlarmRequest_ACTIVATE, MemberID: q.self, Alarm: pb.AlarmType_NOSPACE,
	}})
	if err != nil && ctx.Err() == nil && !errors.Is(err, consensus.ErrStopped) {
		q.lg.Warn("could not raise the NOSPACE alarm; the next write that finds no room tries again", zap.Error(err))
	}
}
