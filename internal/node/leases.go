package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/auth"
	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/etcdapi"
	"github.com/dolmen-io/dolmen/internal/lease"
	"github.com/dolmen-io/dolmen/internal/membership"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	// expiryInterval is how often ended leases are looked for, expiryBatch how many are revoked each time:
	// together etcd's 1,000 a second.
	expiryInterval = 500 * time.Millisecond
	expiryBatch    = 500
	// checkpointBatch is how many remaining times go into one entry, etcd's figure.
	checkpointBatch = 1000
)

// keepLeases revokes leases that have ended and notes the remaining times of long ones, while this member
// leads.
func (m *Member) keepLeases(ctx context.Context) error {
	ticker := time.NewTicker(expiryInterval)
	defer ticker.Stop()
	var term uint64 // whose leases are kept, 0 for none
	for {
		changed := m.cons.LeaderChanged()
		now := m.leadsIn()
		if term != 0 && now != term {
			// Also if this member leads again: what another leader has promised meanwhile is not known here.
			term = 0
			m.primary.Store(false)
			m.expiry.Demote()
		}
		if term == 0 && now != 0 && m.readIndex(ctx) == nil && m.leadsIn() == now {
			// A leader has applied all that was committed before it: Promote must know of each checkpoint. If
			// it has not in time, the next turn tries again.
			term = now
			m.expiry.Promote(time.Now(), m.cfg.ElectionTimeout)
			m.primary.Store(true)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case now := <-ticker.C:
			if term != 0 {
				m.revokeExpired(now, term)
				m.checkpoint(m.expiry.Checkpoints(now, checkpointBatch), term)
			}
		}
	}
}

func (m *Member) leads() bool { return m.leadsIn() != 0 }

// leadsIn returns the term that this member leads, 0 if it does not lead.
func (m *Member) leadsIn() uint64 {
	if st := m.cons.Status(); st.Lead == st.ID {
		return st.Term
	}
	return 0
}

// revokeExpired proposes to revoke what has ended. Nobody waits for the outcome: what does not come
// through is due again later.
func (m *Member) revokeExpired(now time.Time, term uint64) {
	for _, id := range m.expiry.Expired(now, expiryBatch) {
		m.proposeQuietly(&pb.InternalRaftRequest{LeaseRevoke: &pb.LeaseRevokeRequest{ID: id}}, term, nil)
	}
}

func (m *Member) checkpoint(due []lease.Checkpoint, term uint64) {
	for len(due) > 0 {
		n := min(len(due), checkpointBatch)
		batch := due[:n]
		m.proposeQuietly(&pb.InternalRaftRequest{LeaseCheckpoint: checkpointRequest(batch)}, term, func() { m.expiry.Dropped(batch) })
		due = due[n:]
	}
}

func checkpointRequest(due []lease.Checkpoint) *pb.LeaseCheckpointRequest {
	req := &pb.LeaseCheckpointRequest{}
	for _, c := range due {
		req.Checkpoints = append(req.Checkpoints, &pb.LeaseCheckpoint{ID: c.ID, Remaining_TTL: c.Remaining})
	}
	return req
}

// proposeQuietly proposes, as the leader of a term, a request whose outcome shows in the state, in the name of root:
// what a member does by itself is not stopped by permissions. It is lost if another leader comes before it is in
// the log, because it rests on the times that this member keeps. dropped, if not nil, is called if it never gets there.
func (m *Member) proposeQuietly(req *pb.InternalRaftRequest, term uint64, dropped func()) {
	req.Header = &pb.RequestHeader{ID: m.ids.Next()}
	if users := m.state.Users(); users.Enabled() {
		root := users.Identity(auth.RootUser)
		req.Header.Username, req.Header.AuthRevision = root.User, root.Revision
	}
	data, err := proto.Marshal(req)
	if err == nil {
		p := consensus.Proposal{Type: raftpb.EntryNormal, Data: data, Term: term}
		if dropped != nil {
			p.Dropped = func(error) { dropped() }
		}
		err = m.cons.Propose(p)
	}
	if err != nil && dropped != nil {
		dropped()
	}
	if err != nil && !errors.Is(err, consensus.ErrStopped) {
		m.lg.Warn("could not propose lease work; it will be due again", zap.Error(err))
	}
}

// checkpointAll notes the remaining time of all leases, so that a stop and a start do not renew them. The
// last entry is waited for: the others are before it in the log.
func (m *Member) checkpointAll() {
	term := m.leadsIn()
	if !m.primary.Load() || term == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), m.patience)
	defer cancel()
	now := time.Now()
	var due []lease.Checkpoint
	for _, id := range m.expiry.All() {
		left, _, err := m.expiry.Remaining(id, now)
		if err == nil && left > 0 {
			// Rounded up, as the checkpoints in between: no lease loses what its holder was promised.
			due = append(due, lease.Checkpoint{ID: id, Remaining: 1 + int64((left-1)/time.Second)})
		}
	}
	last := max(0, len(due)-1) / checkpointBatch * checkpointBatch
	m.checkpoint(due[:last], term)
	if due = due[last:]; len(due) == 0 {
		return
	}
	if _, err := m.propose(ctx, &pb.InternalRaftRequest{LeaseCheckpoint: checkpointRequest(due)}, term); err != nil {
		m.lg.Warn("could not note the remaining times of all leases; some begin anew at the next start", zap.Error(err))
	}
}

// lessor implements etcdapi.Leases. The leader keeps the times; other members ask it.
type lessor struct{ *Member }

// Renew implements etcdapi.Leases.
func (l lessor) Renew(ctx context.Context, id int64) (ttl int64, err error) {
	err = l.withLeader(ctx, func(ctx context.Context) error {
		ttl, err = l.renewHere(ctx, id)
		return err
	}, func(ctx context.Context, leader membership.Member) error {
		ttl, err = l.others.Renew(ctx, leader, id)
		return err
	})
	if errors.Is(err, lease.ErrNotFound) {
		return 0, nil
	}
	return ttl, err
}

// leaderPoll is how often a question to the leader is repeated, etcd's figure.
const leaderPoll = 50 * time.Millisecond

// withLeader answers here if this member leads, or has the leader answer. It tries again until there is an answer or
// the time of a request has passed; that a lease is not there is one.
func (l lessor) withLeader(ctx context.Context, here func(context.Context) error, there func(context.Context, membership.Member) error) error {
	ctx, cancel := context.WithTimeout(ctx, l.patience)
	defer cancel()
	ticker := time.NewTicker(leaderPoll)
	defer ticker.Stop()
	for {
		var err error
		switch leader, found := l.leader(); {
		case l.leads():
			err = here(ctx)
			if !errors.Is(err, lease.ErrNotPrimary) {
				return err
			}
		case found:
			err = there(ctx, leader)
			if err == nil || errors.Is(err, lease.ErrNotFound) {
				return err
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return l.leaderTimeout(ctx, err)
		case <-l.stopping:
			return consensus.ErrStopped
		}
	}
}

// leaderTimeout returns the error of a question that the leader, if there is one, has not answered in time.
func (l lessor) leaderTimeout(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, etcdapi.ErrApplyTimeout):
		return err
	case l.cons.Status().Lead == 0 && !errors.Is(ctx.Err(), context.Canceled):
		return etcdapi.ErrNoLeader
	}
	return l.readTimeout(ctx)
}

// renewHere renews a lease on the leader, and returns 0 for one that is not there. It returns lease.ErrNotPrimary if
// this member does not keep the times of leases, or not yet.
func (l lessor) renewHere(ctx context.Context, id int64) (int64, error) {
	for {
		if err := l.confirmLeadership(ctx); err != nil {
			return 0, err
		}
		term := l.leadsIn()
		r, err := l.expiry.Renew(id, time.Now())
		if term == 0 {
			err = lease.ErrNotPrimary // keepLeases will notice too
		}
		switch {
		case err == nil && r.ClearCheckpoint:
			// The remaining time that was noted is void now; it must not outlive this renewal. In this term or
			// not at all: the next leader reads what was noted when its own term begins.
			req := &pb.InternalRaftRequest{LeaseCheckpoint: checkpointRequest([]lease.Checkpoint{{ID: id}})}
			if _, err := l.propose(ctx, req, term); err != nil {
				return 0, err
			}
		case err == nil:
			return r.TTL, nil
		case errors.Is(err, lease.ErrNotFound):
			return 0, nil
		case errors.Is(err, lease.ErrExpired):
			if err := l.await(ctx, r.Settled); err != nil {
				return 0, err
			}
		default:
			return 0, err
		}
	}
}

// confirmLeadership asks the other voters whether this member still leads: the promise of a leader that was deposed
// and does not know it is worth nothing. Error: lease.ErrNotPrimary.
func (l lessor) confirmLeadership(ctx context.Context) error {
	if l.cons.Status().SoleVoter {
		return nil
	}
	if err := l.readIndex(ctx); err != nil {
		return fmt.Errorf("%w: %w", lease.ErrNotPrimary, err)
	}
	return nil
}

func (l lessor) await(ctx context.Context, ch <-chan struct{}) error {
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return l.readTimeout(ctx)
	case <-l.stopping:
		return consensus.ErrStopped
	}
}

// TimeToLive implements etcdapi.Leases.
func (l lessor) TimeToLive(ctx context.Context, id int64) (t etcdapi.LeaseTime, err error) {
	err = l.withLeader(ctx, func(ctx context.Context) error {
		if err := l.catchUp(ctx); err != nil {
			return err
		}
		t, err = l.timeToLiveHere(id)
		return err
	}, func(ctx context.Context, leader membership.Member) error {
		t, err = l.others.TimeToLive(ctx, leader, id)
		return err
	})
	if errors.Is(err, lease.ErrNotFound) {
		return etcdapi.LeaseTime{}, etcdapi.ErrLeaseGone
	}
	return t, err
}

// catchUp waits until this member, which leads, knows of every lease that another one has told its client of: the others
// may be ahead of it in applying. Error: etcdapi.ErrApplyTimeout.
func (m *Member) catchUp(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, applyPatience)
	defer cancel()
	err := m.awaitApplied(waiting, m.cons.Status().Commit)
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		return etcdapi.ErrApplyTimeout
	}
	return err
}

func (l lessor) timeToLiveHere(id int64) (etcdapi.LeaseTime, error) {
	left, granted, err := l.expiry.Remaining(id, time.Now())
	if err != nil {
		return etcdapi.LeaseTime{}, err
	}
	return etcdapi.LeaseTime{Remaining: left, Granted: granted, Keys: l.state.Leases().Keys(id)}, nil
}

// IDs implements etcdapi.Leases.
func (l lessor) IDs() []int64 { return l.expiry.All() }

// CheckKeys implements etcdapi.Leases.
func (l lessor) CheckKeys(users *auth.View, who auth.Identity, id int64, kind auth.Access) error {
	return l.state.CheckLeaseKeys(users, who, id, kind)
}
