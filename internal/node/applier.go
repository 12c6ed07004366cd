package node

import (
	"context"
	"fmt"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/lease"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/state"
	"github.com/dolmen-io/dolmen/internal/watch"
)

// applier owns the state: it alone applies entries and removes what compaction left behind. It runs until
// consensus closes the queue of committed batches.
type applier struct {
	lg      *zap.Logger
	state   *state.State
	cons    *consensus.Node
	hub     *watch.Hub
	expiry  *lease.Expiry
	pending *pending
	users   *users
	logged  uint64 // index of the last entry that was in the log at the start
	// applied tells readers how far the state has come.
	applied *milestones
	remover *remover
	flusher *flusher
	quota   *quota
	slow    time.Duration
	// members gets a token, of which there is one, when the membership or the cluster's version has changed.
	members chan struct{}
	newest  *membership.View
	// follow, which may be nil, connects to the members of a view. removed is closed when this member is removed.
	follow  func(*membership.View) error
	self    uint64
	removed chan struct{}
	// install puts the engine of a snapshot in the place of the one in use; nil without other members.
	install  func(consensus.Batch) error
	replaced *replacements
}

// expireEvery is how often the state lets go of what reads at recent revisions need no more, which it keeps for a
// minute: often enough for that to be a minute.
const expireEvery = 5 * time.Second

func (a *applier) run() error {
	expire := time.NewTicker(expireEvery)
	defer expire.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var due <-chan time.Time // the next step of a compaction
	a.remover.resume()
	if err := a.noteMembersAtStart(); err != nil {
		return err
	}
	for {
		var pause time.Duration
		select {
		case b, ok := <-a.cons.Committed():
			if !ok {
				return nil
			}
			if err := a.apply(b); err != nil {
				return err
			}
			a.remover.begin()
		case <-a.remover.hasher.begun:
			a.remover.hashBegun()
		case sum := <-a.remover.hasher.done:
			a.remover.hashDone(sum)
		case now := <-expire.C:
			a.state.Expire(now)
		case <-due:
			due = nil
			if err := a.remover.step(); err != nil {
				return err
			}
			pause = a.remover.pause()
		}
		if due == nil && a.remover.due() {
			timer.Reset(pause)
			due = timer.C
		}
	}
}

func (a *applier) apply(b consensus.Batch) error {
	start := time.Now()
	if b.Snapshot != nil {
		return a.replace(b)
	}
	entries, size, err := a.decode(b.Entries)
	if err != nil {
		return err
	}
	turn, err := a.state.Apply(entries)
	if err != nil {
		return err
	}
	now := time.Now()
	if len(turn.Leases) > 0 {
		a.expiry.Apply(turn.Leases, now)
	}
	a.users.apply(withoutLogins(turn.Auth, a.logged), turn.View.Auth, now)
	// Also without events: watchers learn of the revision, readers of the index.
	a.hub.Publish(turn.Events, turn.View.KV.Current())
	// What was in the log at the start was dealt with then: the alarm was raised, and may have been disarmed since.
	if turn.OverQuota > a.logged {
		a.quota.exceeded()
	}
	// Before the answers: who has one for a membership change can then ask whether raft has taken it too.
	a.cons.Applied(b, turn.Confs)
	a.pending.finish(turn.Outcomes)
	a.applied.reach(turn.View.Applied.Index)
	if err := a.noteMembers(turn.View.Members); err != nil {
		return err
	}
	a.flusher.note(len(entries), size)
	if took := now.Sub(start); took > a.slow {
		a.lg.Warn("apply request took too long", zap.Duration("took", took), zap.Duration("expected-duration", a.slow),
			zap.Int("entries", len(entries)), zap.Uint64("index", turn.View.Applied.Index))
	}
	return nil
}

// replace takes up a snapshot of another member: all that lives from the state begins anew.
func (a *applier) replace(b consensus.Batch) error {
	start := time.Now()
	if a.install == nil {
		return fmt.Errorf("a snapshot at index %d has come from nowhere", b.Snapshot.GetIndex())
	}
	done := false
	a.replaced.begin()
	defer func() { a.replaced.end(done) }()
	a.state.Replace()
	a.remover.interrupt()
	if err := a.install(b); err != nil {
		return err
	}
	view, err := a.state.Reload()
	if err != nil {
		return err
	}
	done = true
	now := time.Now()
	a.expiry.Replace(a.state.LoadedLeases(), now)
	a.users.apply(nil, view.Auth, now)
	a.hub.Publish(nil, view.KV.Current())
	a.cons.Applied(b, nil)
	a.remover.removed.reach(removedUpTo(a.state.Removed()))
	a.applied.reach(view.Applied.Index)
	if err := a.noteMembers(view.Members); err != nil {
		return err
	}
	a.flusher.ask()
	a.lg.Info("applied snapshot", zap.Uint64("snapshot-index", view.Applied.Index), zap.Uint64("snapshot-term", view.Applied.Term),
		zap.Int64("current-revision", view.KV.Current()), zap.Duration("took", time.Since(start)))
	return nil
}

// noteMembersAtStart connects to the members that the state knew when it was opened.
func (a *applier) noteMembersAtStart() error {
	v := a.state.View()
	defer v.Release()
	return a.noteMembers(v.Members)
}

// noteMembers takes note of who the members are, if that has changed.
func (a *applier) noteMembers(v *membership.View) error {
	if v == a.newest {
		return nil
	}
	wasRemoved := a.newest != nil && a.newest.Removed(a.self)
	a.newest = v
	if v.Removed(a.self) && !wasRemoved {
		close(a.removed)
	}
	if a.follow != nil {
		if err := a.follow(v); err != nil {
			return err
		}
	}
	select {
	case a.members <- struct{}{}:
	default:
	}
	return nil
}

// lastIndex is the index of the last of some entries, 0 without any.
func lastIndex(entries []*raftpb.Entry) uint64 {
	if len(entries) == 0 {
		return 0
	}
	return entries[len(entries)-1].GetIndex()
}

// decode turns entries of the log into those of the state, which reads the requests in them.
func (a *applier) decode(in []*raftpb.Entry) (out []state.Entry, size int, err error) {
	out = make([]state.Entry, len(in))
	for i, e := range in {
		out[i] = state.Entry{Index: e.GetIndex(), Term: e.GetTerm(), Data: e.GetData()}
		size += len(e.GetData())
		switch {
		case e.GetType() == raftpb.EntryConfChange:
			cc := &raftpb.ConfChange{}
			if err := proto.Unmarshal(e.GetData(), cc); err != nil {
				return nil, 0, fmt.Errorf("entry %d is no membership change: %w", e.GetIndex(), err)
			}
			out[i].Conf = cc
		case e.GetType() != raftpb.EntryNormal:
			return nil, 0, fmt.Errorf("entry %d is of type %v, which no member of this kind writes", e.GetIndex(), e.GetType())
		}
	}
	return out, size, nil
}

// Compacted returns when compaction has removed everything that revision calls for.
func (m *Member) Compacted(ctx context.Context, revision int64) error {
	reached, cancel := m.applier.remover.removed.wait(removedUpTo(revision))
	defer cancel()
	select {
	case <-reached:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-m.stopping:
		return consensus.ErrStopped
	}
}
