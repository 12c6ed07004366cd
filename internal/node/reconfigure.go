package node

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/etcdapi"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/state"
)

const (
	// steadyAfter is how long a connection must have held to count for a quorum, etcd's figure.
	steadyAfter = 5 * time.Second
	// applyPatience is what a leader gets to apply what it has committed before it judges how far others are,
	// etcd's figure.
	applyPatience = time.Second
)

// operator implements etcdapi.Operator.
type operator struct{ *Member }

// Reconfigure implements etcdapi.Operator.
func (o operator) Reconfigure(ctx context.Context, c membership.Change) ([]membership.Member, error) {
	if ctx.Err() != nil {
		return nil, o.ended(ctx, time.Now(), false)
	}
	context, err := c.Context()
	if err != nil {
		return nil, err
	}
	id := o.ids.Next()
	kind := raftpb.ConfChangeType(c.Kind)
	data, err := proto.Marshal(&raftpb.ConfChange{Id: &id, Type: &kind, NodeId: &c.ID, Context: context})
	if err != nil {
		return nil, err
	}
	if uint(len(data)) > o.cfg.MaxRequestBytes {
		return nil, etcdapi.ErrTooLarge
	}
	res, err := o.decide(ctx, id, consensus.Proposal{Type: raftpb.EntryConfChange, Data: data})
	if err == nil {
		err = res.Err
	}
	if err != nil {
		return nil, err
	}
	// Raft takes the change a moment after the state has. Until then it would refuse the next one.
	if _, err := o.progress(ctx); err != nil {
		return nil, err
	}
	o.lg.Info("applied a configuration change through raft", zap.Stringer("local-member-id", types.ID(o.id.member)),
		zap.Stringer("raft-conf-change", kind), zap.Stringer("raft-conf-change-node-id", types.ID(c.ID)))
	return res.Response.(state.MembersResponse).Members, nil
}

// progress asks raft how far the members are, nil unless this one leads.
func (m *Member) progress(ctx context.Context) (map[uint64]uint64, error) {
	type answer struct {
		matches map[uint64]uint64
		err     error
	}
	got, begun := make(chan answer, 1), time.Now()
	m.cons.Progress(func(matches map[uint64]uint64, err error) { got <- answer{matches, err} })
	select {
	case a := <-got:
		return a.matches, a.err
	case <-ctx.Done():
		return nil, m.ended(ctx, begun, true)
	}
}

// Matches implements etcdapi.Operator.
func (o operator) Matches(ctx context.Context) (map[uint64]uint64, error) {
	begun := time.Now()
	reached, forget := o.applier.applied.wait(o.cons.Status().Commit)
	defer forget()
	timer := time.NewTimer(applyPatience)
	defer timer.Stop()
	select {
	case <-reached:
		return o.progress(ctx)
	case <-timer.C:
		return nil, etcdapi.ErrApplyTimeout
	case <-o.stopping:
		return nil, consensus.ErrStopped
	case <-ctx.Done():
		return nil, o.ended(ctx, begun, true)
	}
}

// Connected implements etcdapi.Operator.
func (o operator) Connected(id uint64) membership.Connected {
	since := o.others.ActiveSince(id)
	return membership.Connected{Now: !since.IsZero(), Steadily: !since.IsZero() && time.Since(since) > steadyAfter}
}

// PromoteByLeader implements etcdapi.Operator. As in etcd it asks again, of whoever leads by then, until the time of a
// request has passed, unless the answer is about the learner itself.
func (o operator) PromoteByLeader(ctx context.Context, id uint64) ([]membership.Member, error) {
	ctx, cancel := context.WithTimeout(ctx, o.patience)
	defer cancel()
	ticker := time.NewTicker(leaderPoll)
	defer ticker.Stop()
	for {
		leader, found := o.leader()
		if found {
			members, err := o.others.Promote(ctx, leader, id)
			if err == nil || errors.Is(err, membership.ErrNotFound) || errors.Is(err, rpctypes.ErrGRPCLearnerNotReady) ||
				errors.Is(err, rpctypes.ErrGRPCMemberNotLearner) {
				return members, err
			}
			o.lg.Debug("could not have the leader promote a member", zap.Stringer("leader", types.ID(leader.ID)), zap.Error(err))
		}
		select {
		case <-ticker.C:
		case <-o.stopping:
			return nil, consensus.ErrStopped
		case <-ctx.Done():
			switch {
			case errors.Is(ctx.Err(), context.Canceled):
				return nil, etcdapi.ErrCanceled
			case found:
				return nil, etcdapi.ErrTimeout
			}
			return nil, etcdapi.ErrNoLeader
		}
	}
}

// leader returns the member that leads, if this one knows it.
func (m *Member) leader() (membership.Member, bool) {
	v := m.state.View()
	defer v.Release()
	return v.Members.Member(m.cons.Status().Lead)
}

// MoveLeader implements etcdapi.Operator. As in etcd only the client's patience bounds it.
func (o operator) MoveLeader(ctx context.Context, target uint64) error {
	begun := time.Now()
	from, to := zap.Stringer("current-leader-member-id", types.ID(o.id.member)), zap.Stringer("transferee-member-id", types.ID(target))
	o.lg.Info("leadership transfer starting", zap.Stringer("local-member-id", types.ID(o.id.member)), from, to)
	o.cons.TransferLeader(target)
	for {
		changed := o.cons.LeaderChanged()
		if o.cons.Status().Lead == target {
			break
		}
		select {
		case <-changed:
		case <-o.stopping:
			return consensus.ErrStopped
		case <-ctx.Done():
			return etcdapi.ErrTransferTimeout
		}
	}
	o.lg.Info("leadership transfer finished", zap.Stringer("local-member-id", types.ID(o.id.member)),
		zap.Stringer("old-leader-member-id", types.ID(o.id.member)), zap.Stringer("new-leader-member-id", types.ID(target)),
		zap.Duration("took", time.Since(begun)))
	return nil
}
