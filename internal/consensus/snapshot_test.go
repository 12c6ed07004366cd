package consensus

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// TestSnapshotForAMemberThatWasAway has the log move on while a member is away. It comes back through a snapshot,
// goes on from there, and finds itself again in its log after a restart.
func TestSnapshotForAMemberThatWasAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, nodes := startThree(t)
		lead := leader(t, nodes, 0)
		away := nodes[lead%3+1]
		for _, m := range nodes {
			m.applier.mu.Lock()
			m.applier.fetch = func(index uint64) []*raftpb.Entry { return nodes[lead].applier.upTo(index) }
			m.applier.mu.Unlock()
		}
		require.NoError(t, nodes[lead].Propose(Proposal{Data: []byte("before")}))
		synctest.Wait()
		w.cut(away.Status().ID, true)
		for i := range 100 {
			require.NoError(t, nodes[lead].Propose(Proposal{Data: fmt.Append(nil, i)}))
		}
		synctest.Wait()
		st := nodes[lead].Status()
		nodes[lead].Checkpoint(st.Applied, st.Term, &raftpb.ConfState{Voters: []uint64{1, 2, 3}}, 5)
		synctest.Wait()
		w.cut(away.Status().ID, false)
		require.NoError(t, nodes[lead].Propose(Proposal{Data: []byte("after")}))
		for range 50 {
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
		}
		away.applier.wait(t, "after")
		require.Equal(t, 1, away.applier.mu.installed)
		require.Equal(t, nodes[lead].Status().Applied, away.Status().Applied)
		require.Equal(t, []uint64{1, 2, 3}, away.Status().Voters)
		require.Equal(t, nodes[lead].applier.upTo(1<<60), away.applier.upTo(1<<60))
		require.Len(t, away.log.mu.installed, 1)
		for _, m := range nodes {
			require.NoError(t, m.stop())
		}

		at := away.log.mu.installed[0]
		again, err := Open(Config{ID: away.cfg.ID, Log: &fakeLog{}, HardState: away.log.mu.hs, Entries: away.log.mu.ents,
			First: First{Index: at.index, Term: at.term}, Applied: at.index, ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}},
			TickInterval: time.Second, ElectionTicks: 10, HeartbeatTicks: 1, Logger: away.cfg.Logger})
		require.NoError(t, err)
		require.Equal(t, away.Status().Commit, again.Status().Commit)
	})
}

// TestInstallOrder hands a snapshot out behind what was committed before it and before what follows on it.
func TestInstallOrder(t *testing.T) {
	apply := func(from, to uint64) *raftpb.Message {
		return &raftpb.Message{Type: raftpb.MsgStorageApply.Enum(), Entries: run(1, from, to)}
	}
	q := applyQueue{conf: &raftpb.ConfState{Voters: []uint64{1}}}
	q.push(apply(1, 3))
	q.install(&raftpb.SnapshotMetadata{Index: proto.Uint64(9), Term: proto.Uint64(2), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2}}})
	q.push(apply(10, 12))
	b, ok := q.next()
	require.True(t, ok)
	require.Equal(t, uint64(3), b.last())
	snap, ok := q.next()
	require.True(t, ok)
	require.Equal(t, uint64(9), snap.Snapshot.GetIndex())
	_, ok = q.next()
	require.False(t, ok, "the configuration is not known before")
	require.Error(t, q.acknowledge(snap, nil), "out of order")
	require.NoError(t, q.acknowledge(b, nil))
	require.NoError(t, q.acknowledge(snap, nil))
	require.Equal(t, uint64(9), q.applied)
	b, ok = q.next()
	require.True(t, ok)
	require.Equal(t, []uint64{1, 2}, b.ConfState.GetVoters())
	require.Equal(t, uint64(12), b.last())
	_, ok = q.next()
	require.False(t, ok)
}

// TestHold keeps what follows on a snapshot that is on its way, within bounds.
func TestHold(t *testing.T) {
	tail := newTail(nil, nil, position{0, 0}, run(1, 1, 100))
	tail.flush(100)
	tail.hold(2, 40)
	tail.compact(90, 0)
	require.Equal(t, uint64(40), tail.first.index)
	tail.letGo(2)
	tail.compact(90, 0)
	require.Equal(t, uint64(90), tail.first.index)

	tail.hold(2, 90)
	big := run(1, 101, 104)
	for _, e := range big {
		e.Data = make([]byte, maxHeldBytes/3)
	}
	require.NoError(t, tail.append(big))
	tail.flush(104)
	tail.compact(104, 0)
	require.Equal(t, uint64(104), tail.first.index, "memory is worth more than a second snapshot")

	_, err := tail.Snapshot()
	require.ErrorIs(t, err, raft.ErrSnapshotTemporarilyUnavailable)
	tail.sends = true
	tail.offer(50, &raftpb.ConfState{Voters: []uint64{1}})
	_, err = tail.Snapshot()
	require.Error(t, err, "the term is not known any more")
	tail.offer(104, &raftpb.ConfState{Voters: []uint64{1}})
	snap, err := tail.Snapshot()
	require.NoError(t, err)
	require.Equal(t, uint64(104), snap.GetMetadata().GetIndex())
}

// TestCheckpointFromBeforeASnapshot flushes an engine while a snapshot is on its way to the log.
func TestCheckpointFromBeforeASnapshot(t *testing.T) {
	log := &fakeLog{}
	w := newLogWriter(log, nil, 1, newInbox(), &Counters{}, nil)
	w.add([]*raftpb.Message{{Type: raftpb.MsgStorageAppend.Enum(), Snapshot: &raftpb.Snapshot{
		Metadata: &raftpb.SnapshotMetadata{Index: proto.Uint64(50), Term: proto.Uint64(2)}}}})
	w.mark(checkpoint{position: position{40, 1}})
	w.stop()
	require.NoError(t, w.run())
	require.Equal(t, []position{{50, 2}}, log.mu.installed)
	require.Zero(t, log.mu.mark, "the log begins behind it")
}

// TestConfChangeFromBeforeASnapshot applies a conf change when raft has already taken a snapshot that ends behind it,
// and that holds what became of it.
func TestConfChangeFromBeforeASnapshot(t *testing.T) {
	for name, installed := range map[string]bool{"while it is written": false, "when it is in the log": true} {
		t.Run(name, func(t *testing.T) {
			cc := &raftpb.ConfChange{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: proto.Uint64(3)}
			data, err := proto.Marshal(cc)
			require.NoError(t, err)
			ents := run(1, 1, 2)
			ents[1].Type, ents[1].Data = raftpb.EntryConfChange.Enum(), data
			before := &raftpb.ConfState{Voters: []uint64{1, 2}}
			hs := &raftpb.HardState{Term: proto.Uint64(1), Vote: proto.Uint64(0), Commit: proto.Uint64(2)}
			c, err := newCore(coreConfig{id: 1, tail: newTail(hs, before, position{}, ents), electionTicks: 10, heartbeatTicks: 1,
				logger: zap.NewNop()})
			require.NoError(t, err)
			c.ready()
			change, ok := c.applied.next()
			require.True(t, ok)
			require.Equal(t, uint64(2), change.last())

			// Member 3 has been removed again, and 4 came in its place.
			after := &raftpb.ConfState{Voters: []uint64{1, 2, 4}}
			c.step(&raftpb.Message{Type: raftpb.MsgSnap.Enum(), From: proto.Uint64(2), To: proto.Uint64(1), Term: proto.Uint64(1),
				Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: proto.Uint64(9), Term: proto.Uint64(1), ConfState: after}}})
			write := c.ready().write
			if installed {
				for _, m := range write {
					require.NoError(t, c.written(m))
				}
				c.ready()
			}
			require.NoError(t, c.appliedBatch(change, []ConfChange{{ConfChange: cc}}))
			require.Equal(t, uint64(2), c.applied.applied)
			require.Equal(t, []uint64{1, 2, 3}, c.applied.conf.GetVoters(), "the applier goes on from what it has applied")
			if !installed {
				for _, m := range write {
					require.NoError(t, c.written(m))
				}
				c.ready()
			}
			snap, ok := c.applied.next()
			require.True(t, ok)
			require.NoError(t, c.appliedBatch(snap, nil))
			require.Equal(t, after.GetVoters(), c.applied.conf.GetVoters())
			require.Equal(t, after.GetVoters(), c.conf.GetVoters())
			require.Equal(t, "(1 2 4)", c.rn.Status().Config.Voters.String(), "raft counts with the newest")
		})
	}
}
