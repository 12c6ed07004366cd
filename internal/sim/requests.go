package sim

import (
	"errors"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/lease"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/state"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	// leaseInterval is how often a leader looks for ended leases, checkpointEvery how often it notes what is left.
	leaseInterval   = 500 * time.Millisecond
	checkpointEvery = 2 * time.Second
)

// errBehind says that a request needs the leader, which this member is not.
var errBehind = errors.New("sim: not the leader")

// propose proposes a request and calls done with its outcome, if it becomes known in this life.
func (m *member) propose(req *pb.InternalRaftRequest, done func(state.Result, error)) uint64 {
	return m.proposeIn(0, req, done)
}

// proposeIn is propose for what may enter the log only in a term that this member leads, if that is not 0.
func (m *member) proposeIn(term uint64, req *pb.InternalRaftRequest, done func(state.Result, error)) uint64 {
	id := m.world.id()
	req.Header = &pb.RequestHeader{ID: id}
	data, err := proto.Marshal(req)
	if err != nil {
		done(state.Result{}, err)
		return id
	}
	m.pending[id] = done
	dropped := func(err error) {
		if done := m.pending[id]; done != nil {
			delete(m.pending, id)
			done(state.Result{}, err)
		}
	}
	if err := m.node.Propose(consensus.Proposal{Type: raftpb.EntryNormal, Data: data, Term: term, Dropped: dropped}); err != nil {
		dropped(err)
	}
	return id
}

// change proposes a membership change.
func (m *member) change(c membership.Change, done func(state.Result, error)) {
	id := m.world.id()
	context, err := c.Context()
	if err != nil {
		done(state.Result{}, err)
		return
	}
	cc := &raftpb.ConfChange{Id: &id, Type: raftpb.ConfChangeType(c.Kind).Enum(), NodeId: &c.ID, Context: context}
	data, err := proto.Marshal(cc)
	if err != nil {
		done(state.Result{}, err)
		return
	}
	m.pending[id] = done
	dropped := func(err error) {
		if done := m.pending[id]; done != nil {
			delete(m.pending, id)
			done(state.Result{}, err)
		}
	}
	if err := m.node.Propose(consensus.Proposal{Type: raftpb.EntryConfChange, Data: data, Dropped: dropped}); err != nil {
		dropped(err)
	}
}

// read calls done when the state reflects all that was acknowledged before, at once if it need not.
func (m *member) read(linearizable bool, done func(error)) {
	if !linearizable || m.node.Status().SoleVoter {
		done(nil)
		return
	}
	m.node.ReadIndex(func(index uint64, err error) {
		if err != nil {
			done(err)
			return
		}
		m.whenApplied(index, func() { done(nil) })
	})
}

// keepLeases is the leader's work on leases, by its own clock, as internal/node does it.
func (m *member) keepLeases() {
	m.in(time.Duration(float64(leaseInterval)/m.speed), m.keepLeases)
	st := m.node.Status()
	if st.Lead != st.ID {
		return
	}
	if !m.primary {
		m.takeLeases()
		return
	}
	for _, id := range m.expiry.Expired(m.now(), 100) {
		m.proposeAsLeader(&pb.InternalRaftRequest{LeaseRevoke: &pb.LeaseRevokeRequest{ID: id}}, nil)
	}
	due := m.expiry.Checkpoints(m.now(), 100)
	if len(due) > 0 {
		m.proposeAsLeader(&pb.InternalRaftRequest{LeaseCheckpoint: checkpointRequest(due)}, due)
	}
}

func checkpointRequest(due []lease.Checkpoint) *pb.LeaseCheckpointRequest {
	req := &pb.LeaseCheckpointRequest{}
	for _, c := range due {
		req.Checkpoints = append(req.Checkpoints, &pb.LeaseCheckpoint{ID: c.ID, Remaining_TTL: c.Remaining})
	}
	return req
}

// takeLeases starts the clocks of all leases when this leader has applied all that was committed before it.
func (m *member) takeLeases() {
	if m.promoting {
		return
	}
	m.promoting = true
	term := m.node.Status().Term
	m.read(true, func(err error) {
		m.promoting = false
		if st := m.node.Status(); err != nil || st.Lead != st.ID || st.Term != term {
			return
		}
		m.primary = true
		now := m.now()
		if m.world.options.breaks.forgetLeases {
			now = now.Add(-time.Minute)
		}
		m.expiry.Promote(now, electionTimeout)
		m.world.note("%s keeps %d leases", m.name, m.expiry.Len())
	})
}

// proposeAsLeader proposes what only the leader of this term may. due are the checkpoints in it.
func (m *member) proposeAsLeader(req *pb.InternalRaftRequest, due []lease.Checkpoint) {
	term := m.node.Status().Term
	bound := term
	if m.world.options.breaks.forwardLeases {
		bound = 0
	}
	id := m.proposeIn(bound, req, func(_ state.Result, err error) {
		if err != nil {
			m.expiry.Dropped(due)
		}
	})
	if m.world.options.breaks.forgetNoted {
		m.expiry.Dropped(due)
	}
	m.world.leases.proposed(m, id, term)
}

// renew is a keep-alive at the member that leads. It is asked for its leadership first: one that was deposed and does
// not know would promise time that its successor does not give.
func (m *member) renew(id int64, done func(ttl int64, err error)) {
	st := m.node.Status()
	if st.Lead != st.ID {
		done(0, errBehind)
		return
	}
	m.read(!m.world.options.breaks.trustLeader, func(err error) {
		if err != nil {
			done(0, err)
			return
		}
		m.renewed(id, done)
	})
}

// renewed renews until no older checkpoint is left. What takes one back is bound to the term, because the next leader reads
// what is left when its own term begins.
func (m *member) renewed(id int64, done func(ttl int64, err error)) {
	r, err := m.expiry.Renew(id, m.now())
	if err != nil || !r.ClearCheckpoint {
		done(r.TTL, err)
		return
	}
	req := &pb.InternalRaftRequest{LeaseCheckpoint: checkpointRequest([]lease.Checkpoint{{ID: id}})}
	m.proposeIn(m.node.Status().Term, req, func(_ state.Result, err error) {
		if err != nil {
			done(0, err)
			return
		}
		m.renewed(id, done)
	})
}
