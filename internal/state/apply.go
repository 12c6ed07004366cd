package state

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/alarm"
	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/lease"
	"github.com/dolmen-io/dolmen/internal/membership"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Apply applies entries in order, commits what they change as one batch and publishes it. The entries
// must follow the last applied one without a gap, and a membership change must be the last. An error is
// a failure: nothing of the turn is published and the State must not be used again.
func (s *State) Apply(entries []Entry) (*Turn, error) {
	t := &Turn{Outcomes: make([]Outcome, 0, len(entries))}
	s.store.Begin(&s.batch)
	for i := range entries {
		e := &entries[i]
		if e.Index != s.applied.Index+1 {
			return nil, fmt.Errorf("state: entry %d follows entry %d", e.Index, s.applied.Index)
		}
		if e.Conf != nil && i != len(entries)-1 {
			// Raft must take the change before anything after it is applied.
			return nil, fmt.Errorf("state: entry %d is a membership change but not the last of its turn", e.Index)
		}
		if err := s.applyEntry(t, e); err != nil {
			return nil, fmt.Errorf("state: apply entry %d of term %d: %w", e.Index, e.Term, err)
		}
		s.applied.Index, s.applied.Term = e.Index, e.Term
	}
	t.Events, t.Leases, t.Auth = s.store.Events(), s.leases.Changes(), s.users.Changes()
	view, err := s.commit()
	t.View = view
	return t, err
}

func (s *State) applyEntry(t *Turn, e *Entry) error {
	if e.Conf != nil {
		return s.applyConf(t, e.Conf)
	}
	req := e.Request
	if req == nil {
		if len(e.Data) == 0 {
			return nil // a leader's first entry
		}
		req = &pb.InternalRaftRequest{}
		if err := proto.Unmarshal(e.Data, req); err != nil {
			return fmt.Errorf("not a request: %w", err)
		}
	}
	over := Exceeds(s.bytes(), Cost(req), s.quota)
	res, err := s.applyRequest(req)
	var f failed
	if errors.As(err, &f) {
		return f.error
	}
	if err != nil {
		res = Result{Err: err, Revision: s.store.Current()}
	} else if over {
		// It was admitted, so it is applied as on every other member. That the client is told and the alarm
		// asked for is this member's business: sizes differ.
		res = Result{Err: ErrNoSpace, Revision: s.store.Current()}
		t.OverQuota = e.Index
	}
	if id := RequestID(req); id != 0 {
		t.Outcomes = append(t.Outcomes, Outcome{ID: id, Result: res})
	}
	return nil
}

// RequestID returns the ID by which a proposer recognises its request.
func RequestID(req *pb.InternalRaftRequest) uint64 {
	if id := req.GetHeader().GetID(); id != 0 {
		return id
	}
	return req.GetID()
}

// gate refuses what a raised alarm forbids.
func (s *State) gate(req *pb.InternalRaftRequest) error {
	raised := s.alarms.Snapshot()
	if raised.Corrupt && (req.Put != nil || req.DeleteRange != nil || req.Txn != nil || req.Compaction != nil ||
		req.LeaseGrant != nil || req.LeaseRevoke != nil || req.Range != nil) {
		return ErrCorrupt
	}
	if raised.NoSpace && (req.Put != nil || req.LeaseGrant != nil || req.Txn != nil && putsIn(req.Txn)) {
		return ErrNoSpace
	}
	return nil
}

// putsIn says whether a transaction has a put on any path.
func putsIn(req *pb.TxnRequest) bool {
	for _, ops := range [][]*pb.RequestOp{req.GetSuccess(), req.GetFailure()} {
		for _, op := range ops {
			if op.GetRequestPut() != nil || op.GetRequestTxn() != nil && putsIn(op.GetRequestTxn()) {
				return true
			}
		}
	}
	return false
}

func (s *State) applyRequest(req *pb.InternalRaftRequest) (Result, error) {
	if err := s.permitAdmin(req); err != nil {
		return Result{}, err
	}
	if err := s.gate(req); err != nil {
		return Result{}, err
	}
	if err := s.permit(req); err != nil {
		return Result{}, err
	}
	switch {
	case req.Put != nil:
		return s.put(req.Put)
	case req.Txn != nil:
		return s.txn(req.Txn)
	case req.DeleteRange != nil:
		return s.deleteRange(req.DeleteRange)
	case req.LeaseGrant != nil:
		return s.grant(req.LeaseGrant)
	case req.LeaseRevoke != nil:
		return s.revoke(req.LeaseRevoke)
	case req.LeaseCheckpoint != nil:
		return s.checkpoint(req.LeaseCheckpoint)
	case req.Compaction != nil:
		return s.compact(req.Compaction)
	case req.Alarm != nil:
		return s.alarm(req.Alarm)
	case req.Range != nil:
		res, err := s.store.Txn().Range(RangeOptions(req.Range))
		return Result{Revision: res.Revision, Response: res}, rejection(err)
	}
	// The entry follows the last applied one.
	if res, known, err := s.applyAuth(req, s.applied.Index+1); known {
		return res, err
	}
	return s.applyCluster(req)
}

func (s *State) applyCluster(req *pb.InternalRaftRequest) (Result, error) {
	ok := Result{Revision: s.store.Current()}
	switch {
	case req.ClusterVersionSet != nil:
		return ok, failure(s.members.SetVersion(&s.batch, req.ClusterVersionSet.GetVer()))
	case req.ClusterMemberAttrSet != nil:
		set := req.ClusterMemberAttrSet
		return ok, failure(s.members.SetAttributes(&s.batch, set.GetMember_ID(),
			set.GetMemberAttributes().GetName(), set.GetMemberAttributes().GetClientUrls()))
	case req.DowngradeInfoSet != nil:
		var d membership.Downgrade
		if req.DowngradeInfoSet.GetEnabled() {
			d = membership.Downgrade{Enabled: true, TargetVersion: req.DowngradeInfoSet.GetVer()}
		}
		return ok, failure(s.members.SetDowngrade(&s.batch, d))
	case req.DowngradeVersionTest != nil:
		return ok, nil // etcd's tests put these into a log; they mean nothing
	}
	// Going on would leave this member with another state than the one that knew the request.
	return Result{}, failed{ErrUnknownRequest}
}

func failure(err error) error {
	if err != nil {
		return failed{err}
	}
	return nil
}

func (s *State) grant(req *pb.LeaseGrantRequest) (Result, error) {
	ttl, err := s.leases.Grant(&s.batch, req.GetID(), req.GetTTL())
	if err != nil {
		return Result{}, leaseRejection(err)
	}
	return Result{Revision: s.store.Current(), Response: LeaseResponse{ID: req.GetID(), TTL: ttl}}, nil
}

func leaseRejection(err error) error {
	if errors.Is(err, lease.ErrNotFound) || errors.Is(err, lease.ErrExists) || errors.Is(err, lease.ErrTTLTooLarge) {
		return err
	}
	return failed{err}
}

// revoke ends a lease and deletes its keys, in key order, in one transaction.
func (s *State) revoke(req *pb.LeaseRevokeRequest) (Result, error) {
	keys, err := s.leases.Revoke(&s.batch, req.GetID())
	if err != nil {
		return Result{}, leaseRejection(err)
	}
	txn := s.store.Txn()
	for _, key := range keys {
		if _, err := txn.DeleteRange([]byte(key), nil); err != nil {
			return Result{}, failed{err}
		}
	}
	return Result{Revision: txn.End()}, nil
}

func (s *State) checkpoint(req *pb.LeaseCheckpointRequest) (Result, error) {
	for _, c := range req.GetCheckpoints() {
		if err := s.leases.Checkpoint(&s.batch, c.GetID(), c.GetRemaining_TTL()); err != nil {
			return Result{}, leaseRejection(err)
		}
	}
	return Result{Revision: s.store.Current()}, nil
}

func (s *State) alarm(req *pb.AlarmRequest) (Result, error) {
	kind := alarm.Type(req.GetAlarm())
	one := []alarm.Alarm{{Member: req.GetMemberID(), Type: kind}}
	res := AlarmResponse{}
	switch req.GetAction() {
	case pb.AlarmRequest_GET:
		res.Alarms = s.alarms.Snapshot().Get(kind)
	case pb.AlarmRequest_ACTIVATE:
		if kind != alarm.None {
			s.alarms.Activate(&s.batch, req.GetMemberID(), kind)
			res.Alarms = one
		}
	case pb.AlarmRequest_DEACTIVATE:
		if s.alarms.Deactivate(&s.batch, req.GetMemberID(), kind) {
			res.Alarms = one
		}
	default:
		return Result{}, ErrUnknownAction
	}
	return Result{Revision: s.store.Current(), Response: res}, nil
}

// applyConf applies a membership change, or rejects it: what is not possible for the members as they are
// changes nothing, here and in raft.
func (s *State) applyConf(t *Turn, cc *raftpb.ConfChange) error {
	change, err := membership.ParseChange(membership.Kind(cc.GetType()), cc.GetNodeId(), cc.GetContext())
	if err != nil {
		return err
	}
	conf := consensus.ConfChange{ConfChange: cc}
	rejected := s.members.Check(change)
	if rejected == nil {
		next, err := consensus.NextConfState(s.applied.Conf, conf)
		if err != nil {
			return err
		}
		if err := s.members.Apply(&s.batch, change); err != nil {
			return err
		}
		s.applied.Conf = next
		if s.conf, err = proto.Marshal(next); err != nil {
			return err
		}
	}
	conf.Rejected = rejected != nil
	t.Confs = append(t.Confs, conf)
	if id := cc.GetId(); id != 0 {
		t.Outcomes = append(t.Outcomes, Outcome{ID: id, Result: Result{
			Err: rejected, Response: MembersResponse{Members: s.members.Snapshot().Members()},
		}})
	}
	return nil
}
