package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/auth"
	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/etcdapi"
	"github.com/dolmen-io/dolmen/internal/state"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// requestBase is how long a request may take besides two elections, etcd's figure.
const requestBase = 5 * time.Second

// Propose implements etcdapi.Member.
func (m *Member) Propose(ctx context.Context, req *pb.InternalRaftRequest) (state.Result, error) {
	res, err := m.propose(ctx, req, 0)
	if err == nil && errors.Is(res.Err, state.ErrNoSpace) {
		// It may have been applied over the quota. A client that hears of that finds the alarm raised.
		m.quota.raise(ctx, m.quota.refused)
	}
	return res, err
}

// proposeAlarm proposes an alarm and waits until it is applied.
func (m *Member) proposeAlarm(ctx context.Context, req *pb.InternalRaftRequest) error {
	res, err := m.propose(ctx, req, 0)
	return errors.Join(err, res.Err)
}

// propose proposes a request, only in a term that this member leads if term is not 0, and waits for its outcome.
func (m *Member) propose(ctx context.Context, req *pb.InternalRaftRequest, term uint64) (state.Result, error) {
	if ctx.Err() != nil {
		return state.Result{}, m.ended(ctx, time.Now(), false)
	}
	id := m.ids.Next()
	if req.Header == nil {
		req.Header = &pb.RequestHeader{}
	}
	req.Header.ID = id
	data, err := proto.Marshal(req)
	if err != nil {
		return state.Result{}, fmt.Errorf("encode the request: %w", err)
	}
	if uint(len(data)) > m.cfg.MaxRequestBytes {
		return state.Result{}, etcdapi.ErrTooLarge
	}
	return m.decide(ctx, id, consensus.Proposal{Type: raftpb.EntryNormal, Data: data, Term: term})
}

// decide hands an entry with the request ID to the log and waits for what applying it leads to.
func (m *Member) decide(ctx context.Context, id uint64, p consensus.Proposal) (state.Result, error) {
	c, err := m.pending.add(id)
	if err != nil {
		return state.Result{}, err
	}
	begun := time.Now()
	offer := &consensus.Offer{}
	p.Offer = offer
	p.Dropped = func(err error) {
		if c := m.pending.remove(id); c != nil {
			c.finish(answer{err: err})
		}
	}
	if err := m.cons.Propose(p); err != nil {
		m.pending.remove(id)
		return state.Result{}, err
	}
	timer := time.NewTimer(m.patience)
	defer timer.Stop()
	select {
	case a := <-c.done:
		if errors.Is(a.err, consensus.ErrTimeout) {
			return a.result, m.timeout(begun, false)
		}
		return a.result, a.err
	case <-timer.C:
		m.pending.remove(id)
		return state.Result{}, m.timeout(begun, !offer.Withdraw())
	case <-ctx.Done():
		m.pending.remove(id)
		return state.Result{}, m.ended(ctx, begun, !offer.Withdraw())
	}
}

// Read implements etcdapi.Member.
func (m *Member) Read(ctx context.Context, linearizable bool) (*state.View, error) {
	if linearizable && !m.cons.Status().SoleVoter {
		if err := m.readIndex(ctx); err != nil {
			return nil, err
		}
	}
	return m.state.View(), nil
}

// ReadNow implements etcdapi.Immediate.
func (m *Member) ReadNow(linearizable bool) (*state.View, bool) {
	if linearizable && !m.cons.Status().SoleVoter {
		return nil, false
	}
	return m.state.View(), true
}

// readIndex returns when the state has applied everything that was acknowledged before the call.
func (m *Member) readIndex(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, m.patience)
	defer cancel()
	type position struct {
		index uint64
		err   error
	}
	got := make(chan position, 1)
	m.cons.ReadIndex(func(index uint64, err error) { got <- position{index, err} })
	var p position
	select {
	case p = <-got:
	case <-ctx.Done():
		return m.readTimeout(ctx)
	}
	if p.err != nil {
		if errors.Is(p.err, consensus.ErrTimeout) {
			return etcdapi.ErrTimeout
		}
		return p.err
	}
	return m.awaitApplied(ctx, p.index)
}

// Await implements etcdapi.Member.
func (m *Member) Await(ctx context.Context, index uint64) error {
	ctx, cancel := context.WithTimeout(ctx, m.patience)
	defer cancel()
	return m.awaitApplied(ctx, index)
}

func (m *Member) awaitApplied(ctx context.Context, index uint64) error {
	reached, forget := m.applier.applied.wait(index)
	defer forget()
	select {
	case <-reached:
		return nil
	case <-ctx.Done():
		return m.readTimeout(ctx)
	case <-m.stopping:
		return consensus.ErrStopped
	}
}

func (m *Member) readTimeout(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	return etcdapi.ErrTimeout
}

// Header implements etcdapi.Member.
func (m *Member) Header() etcdapi.Header {
	return etcdapi.Header{Cluster: m.id.cluster, Member: m.id.member, Term: m.cons.Status().Term}
}

// Users implements etcdapi.Member.
func (m *Member) Users() *auth.View { return m.state.Users() }

// HasLeader implements rpc.Membership.
func (m *Member) HasLeader() bool { return m.cons.Status().Lead != 0 }

// IsLearner implements rpc.Membership.
func (m *Member) IsLearner() bool { return m.cons.Status().IsLearner }
