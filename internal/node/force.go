package node

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/membership"
)

// forcing makes a member the only one of its cluster, as --force-new-cluster asks, for the case that a majority is gone
// for good. What is committed stays; then the log goes on with entries that nobody voted for:
//
//	... committed entries | a vote for itself | promote or add itself, if needed | remove each other member
//
// Membership follows when they are applied, as it always does. The log is written in two steps, and a crash after any
// record of them leaves a log that raft can have come to by itself:
//
//  1. The member votes for itself in a new term, so that nobody else can have written what follows.
//  2. The entries of that term and their commit index. Without the latter they are uncommitted: the next start without
//     the flag is that of a member of the old cluster, one with the flag discards them and begins anew.
type forcing struct {
	lg   *zap.Logger
	id   identity
	urls []string // where this member is reached, if its log does not say so
	eng  engine.Engine
	// maxLearners is that of the state.
	maxLearners int
}

// forceAlone makes the member the only one, and returns what consensus begins with then and who was dropped.
func (m *Member) forceAlone(c consensus.Config) (consensus.Config, []uint64, error) {
	f := &forcing{
		lg: m.lg, id: m.id, urls: texts(m.cfg.AdvertisePeerURLs), eng: m.eng, maxLearners: m.cfg.MaxLearners,
	}
	c, dropped, err := f.force(c)
	if err != nil {
		return c, nil, fmt.Errorf("--force-new-cluster: %w", err)
	}
	return c, dropped, nil
}

func (f *forcing) force(c consensus.Config) (_ consensus.Config, dropped []uint64, err error) {
	table, err := f.loadTable()
	if err != nil {
		return c, nil, err
	}
	at := &confPosition{table: table, conf: c.ConfState, self: f.id.member}
	commit := max(c.HardState.GetCommit(), c.Applied)
	if last := max(c.First.Index, lastIndex(c.Entries)); last < commit {
		return c, nil, fmt.Errorf("%w: the raft log ends at index %d, but up to %d was committed: it has lost its end; "+
			"restore the member from a backup", ErrMismatch, last, commit)
	}
	known := commit
	kept, err := at.committed(c.Entries, c.Applied, &commit)
	if err != nil {
		return c, nil, err
	}
	term := max(c.HardState.GetTerm(), c.First.Term)
	for _, e := range c.Entries {
		term = max(term, e.GetTerm())
	}
	if discarded := len(c.Entries) - kept; discarded > 0 {
		f.lg.Info("discarding uncommitted WAL entries", zap.Uint64("entry-index", commit+1),
			zap.Uint64("commit-index-from-wal", commit), zap.Int("number-of-discarded-entries", discarded))
	}
	c.Bootstrap, c.Entries = nil, c.Entries[:kept:kept]
	forced, dropped, err := f.entries(at, commit, term+1)
	if err != nil {
		return c, nil, err
	}
	c.HardState = &raftpb.HardState{Term: new(c.HardState.GetTerm()), Vote: new(c.HardState.GetVote()), Commit: &commit}
	if len(forced) > 0 {
		if c.HardState, err = f.write(c.Log, term+1, commit, forced); err != nil {
			return c, nil, err
		}
		c.Entries = append(c.Entries, forced...)
	}
	f.lg.Info("forcing restart member", zap.Stringer("cluster-id", types.ID(f.id.cluster)),
		zap.Stringer("local-member-id", types.ID(f.id.member)), zap.Uint64("wal-commit-index", known),
		zap.Uint64("commit-index", c.HardState.GetCommit()), zap.Stringers("dropped-members", memberIDs(dropped)))
	return c, dropped, nil
}

func memberIDs(ids []uint64) []types.ID {
	list := make([]types.ID, 0, len(ids))
	for _, id := range ids {
		list = append(list, types.ID(id))
	}
	return list
}

func (f *forcing) loadTable() (table *membership.Table, err error) {
	sn, err := f.eng.Snapshot()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sn.Close()) }()
	return membership.Load(sn, f.maxLearners)
}

// write makes the forced entries durable, and committed.
func (f *forcing) write(log consensus.Log, term, commit uint64, forced []*raftpb.Entry) (*raftpb.HardState, error) {
	if err := log.Append(&raftpb.HardState{Term: &term, Vote: &f.id.member, Commit: &commit}, nil); err != nil {
		return nil, err
	}
	last := lastIndex(forced)
	hs := &raftpb.HardState{Term: &term, Vote: &f.id.member, Commit: &last}
	return hs, log.Append(hs, forced)
}

// confPosition is the membership at a position of the log, as the state will have it when it has applied so far.
type confPosition struct {
	table   *membership.Table
	conf    *raftpb.ConfState
	self    uint64
	scratch engine.Batch
}

// committed goes through the entries that are committed, and says how many those are. Beside those up to commit, which
// it moves on, they are what this member has written as the only voter: nobody else had to agree.
func (p *confPosition) committed(entries []*raftpb.Entry, applied uint64, commit *uint64) (n int, err error) {
	for n = 0; n < len(entries); n++ {
		e := entries[n]
		if e.GetIndex() > *commit {
			if !p.alone() {
				break
			}
			*commit = e.GetIndex()
		}
		if e.GetIndex() > applied && e.GetType() == raftpb.EntryConfChange {
			if err := p.take(e); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

// alone says whether this member is the only voter.
func (p *confPosition) alone() bool {
	return slices.Equal(p.conf.GetVoters(), []uint64{p.self}) && len(p.conf.GetVotersOutgoing()) == 0
}

// take makes the change of an entry, or rejects it as the state will.
func (p *confPosition) take(e *raftpb.Entry) error {
	cc := &raftpb.ConfChange{}
	if err := proto.Unmarshal(e.GetData(), cc); err != nil {
		return fmt.Errorf("entry %d is no membership change: %w", e.GetIndex(), err)
	}
	change, err := membership.ParseChange(membership.Kind(cc.GetType()), cc.GetNodeId(), cc.GetContext())
	if err != nil {
		return fmt.Errorf("entry %d: %w", e.GetIndex(), err)
	}
	rejected := p.table.Apply(&p.scratch, change)
	p.conf, err = consensus.NextConfState(p.conf, consensus.ConfChange{ConfChange: cc, Rejected: rejected != nil})
	return err
}

// errNotMember says that a member cannot be made the only one.
var errNotMember = errors.New("this member cannot be made the only one of its cluster")

// entries returns what makes the member the only one: in this order, because a voter must always remain.
func (f *forcing) entries(at *confPosition, commit, term uint64) (forced []*raftpb.Entry, dropped []uint64, err error) {
	var changes []membership.Change
	id, view := f.id.member, at.table.Snapshot()
	self, found := view.Member(id)
	switch {
	case view.Removed(id):
		return nil, nil, fmt.Errorf("%w: its log says that member %s was removed, and an ID never comes back; force one that was not, "+
			"or restore a backup", errNotMember, types.ID(id))
	case !found:
		// It was to join, or its first write was torn: its log does not tell of it.
		changes = append(changes, membership.Change{Kind: membership.AddNode, ID: id,
			Member: membership.Member{ID: id, PeerURLs: f.urls}})
	case self.IsLearner:
		changes = append(changes, membership.Change{Kind: membership.AddNode, ID: id, Member: self, Promote: true})
	}
	for _, m := range view.Members() {
		if m.ID != id {
			dropped = append(dropped, m.ID)
			changes = append(changes, membership.Change{Kind: membership.RemoveNode, ID: m.ID})
		}
	}
	for i, change := range changes {
		if err := at.table.Apply(&at.scratch, change); err != nil {
			return nil, nil, fmt.Errorf("%w: member %s at %v: %w", errNotMember, types.ID(change.ID), change.Member.PeerURLs, err)
		}
		e, err := confEntry(change, commit+1+uint64(i), term)
		if err != nil {
			return nil, nil, err
		}
		forced = append(forced, e)
	}
	return forced, dropped, nil
}

// confEntry is a membership change as an entry of the log.
func confEntry(change membership.Change, index, term uint64) (*raftpb.Entry, error) {
	context, err := change.Context()
	if err != nil {
		return nil, err
	}
	data, err := proto.Marshal(&raftpb.ConfChange{
		Type: raftpb.ConfChangeType(change.Kind).Enum(), NodeId: &change.ID, Context: context,
	})
	if err != nil {
		return nil, err
	}
	return &raftpb.Entry{Type: raftpb.EntryConfChange.Enum(), Term: &term, Index: &index, Data: data}, nil
}
