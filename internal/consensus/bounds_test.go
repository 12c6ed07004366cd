package consensus

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"
)

// TestStalledApplierIsNotOfferedMore fills raft while nothing is applied. raft logs a warning for each proposal over
// its bound, so it must see none.
func TestStalledApplierIsNotOfferedMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		obs, logs := observer.New(zap.WarnLevel)
		n, err := Open(Config{ID: 1, Log: &fakeLog{}, Bootstrap: []raft.Peer{{ID: 1}}, TickInterval: 100 * time.Millisecond,
			ElectionTicks: 10, HeartbeatTicks: 1, PreVote: true, AdvanceTicks: true, Logger: zap.New(obs)})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		ran := make(chan error, 1)
		go func() { ran <- n.Run(ctx) }()
		apply := func(b Batch) {
			var changes []ConfChange
			if b.endsWithConfChange() {
				cc := ConfChange{ConfChange: &raftpb.ConfChange{}}
				require.NoError(t, proto.Unmarshal(b.Entries[len(b.Entries)-1].GetData(), cc.ConfChange))
				changes = append(changes, cc)
			}
			n.Applied(b, changes)
			synctest.Wait()
		}
		for !n.Status().SoleVoter {
			apply(<-n.Committed())
		}
		data := make([]byte, 1<<20)
		taken := n.Counters().Proposed.Load()
		for range 80 {
			require.NoError(t, n.Propose(Proposal{Data: data}))
			synctest.Wait()
		}
		require.Equal(t, uint64(64), n.Counters().Proposed.Load()-taken)
		for range 1000 {
			require.NoError(t, n.Propose(Proposal{Data: []byte("x")}))
			synctest.Wait()
		}
		require.Equal(t, uint64(64), n.Counters().Proposed.Load()-taken)
		for n.Counters().Proposed.Load()-taken < 1080 || n.Status().Applied < n.Status().Commit {
			apply(<-n.Committed())
		}
		require.Zero(t, logs.Len(), "%v", logs.All())
		cancel()
		require.NoError(t, <-ran)
	})
}

// TestForwardedProposalsHaveRoomToo steps another member's proposals into a leader that holds all it may.
func TestForwardedProposalsHaveRoomToo(t *testing.T) {
	obs, logs := observer.New(zap.WarnLevel)
	cs := &raftpb.ConfState{Voters: []uint64{1}}
	hs := &raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(0)), Commit: new(uint64(0))}
	c, err := newCore(coreConfig{id: 1, tail: newTail(hs, cs, position{}, nil), electionTicks: 10, heartbeatTicks: 1,
		campaignAtOnce: true, logger: zap.New(obs)})
	require.NoError(t, err)
	require.NoError(t, c.maybeCampaign())
	for _, m := range c.ready().write {
		require.NoError(t, c.written(m))
	}
	require.Equal(t, raft.StateLeader, c.rn.BasicStatus().RaftState)
	big := []*raftpb.Entry{{Data: make([]byte, maxUncommittedBytes-1)}}
	v, _ := c.propose(big)
	require.Equal(t, accepted, v)
	require.Equal(t, uint64(1), c.room())
	c.step(&raftpb.Message{Type: raftpb.MsgProp.Enum(), From: new(uint64(2)), Entries: []*raftpb.Entry{{Data: make([]byte, 2)}}})
	require.Equal(t, uint64(1), c.room())
	c.step(&raftpb.Message{Type: raftpb.MsgProp.Enum(), From: new(uint64(2)), Entries: []*raftpb.Entry{{Data: make([]byte, 1)}}})
	require.Zero(t, c.room())
	v, _ = c.propose([]*raftpb.Entry{{Data: []byte("x")}})
	require.Equal(t, retry, v)
	require.Zero(t, logs.Len())
}

// TestCheckpointAmidAnApply makes durable what raft has not heard of yet, keeps nothing, and lets raft campaign.
func TestCheckpointAmidAnApply(t *testing.T) {
	ents := run(1, 1, 6)
	for _, i := range []uint64{3, 5} {
		data, err := proto.Marshal(&raftpb.ConfChange{Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: &i})
		require.NoError(t, err)
		ents[i-1].Type, ents[i-1].Data = raftpb.EntryConfChange.Enum(), data
	}
	hs := &raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(0)), Commit: new(uint64(6))}
	c, err := newCore(coreConfig{id: 1, tail: newTail(hs, &raftpb.ConfState{Voters: []uint64{1, 2, 3}}, position{}, ents),
		electionTicks: 10, heartbeatTicks: 1, preVote: true, logger: zap.NewNop()})
	require.NoError(t, err)
	c.ready()
	b, ok := c.applied.next()
	require.True(t, ok)
	require.Equal(t, uint64(3), b.last())
	cc := &raftpb.ConfChange{}
	require.NoError(t, proto.Unmarshal(b.Entries[2].GetData(), cc))
	require.NoError(t, c.appliedBatch(b, []ConfChange{{ConfChange: cc}}))
	require.Zero(t, c.compactable(3))
	c.tail.flush(3)
	c.tail.compact(c.compactable(3), 0)
	require.NotPanics(t, func() {
		for range 25 {
			c.tick()
			c.ready()
		}
	})
	for c.applied.applied < 6 {
		b, ok := c.applied.next()
		require.True(t, ok)
		var changes []ConfChange
		if b.endsWithConfChange() {
			cc := &raftpb.ConfChange{}
			require.NoError(t, proto.Unmarshal(b.Entries[len(b.Entries)-1].GetData(), cc))
			changes = []ConfChange{{ConfChange: cc}}
		}
		require.NoError(t, c.appliedBatch(b, changes))
	}
	require.Equal(t, uint64(3), c.compactable(3))
}

// TestUnflushedLogIsBounded applies, but makes no checkpoint.
func TestUnflushedLogIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, func(cfg *Config) { cfg.MaxUnflushedBytes = 1 << 20 })
		one := make([]byte, 100<<10)
		n := 0
		for ; m.Propose(Proposal{Data: one}) == nil; n++ {
			synctest.Wait()
		}
		require.Equal(t, 11, n)
		require.ErrorIs(t, m.Propose(Proposal{}), ErrBusy)
		s := m.Status()
		require.Equal(t, s.Commit, s.Applied, "what was taken is applied")
		m.Checkpoint(s.Applied, s.Term, &raftpb.ConfState{Voters: []uint64{1}}, 1000)
		synctest.Wait()
		require.NoError(t, m.Propose(Proposal{Data: one}), "what is kept for others does not count")
		require.NoError(t, m.stop())
	})
}

// TestAppendTornBeforeItsHardState restarts from entries of a term that the hard state does not know.
func TestAppendTornBeforeItsHardState(t *testing.T) {
	cfg := Config{ID: 1, Log: &fakeLog{}, Logger: zap.NewNop(), TickInterval: 1, Entries: run(5, 1, 3),
		HardState: &raftpb.HardState{Term: new(uint64(4)), Vote: new(uint64(2)), Commit: new(uint64(1))}}
	hs, err := cfg.check()
	require.NoError(t, err)
	require.Equal(t, []uint64{5, 0, 1}, []uint64{hs.GetTerm(), hs.GetVote(), hs.GetCommit()})
	cfg.Entries = run(4, 1, 3)
	hs, err = cfg.check()
	require.NoError(t, err)
	require.Equal(t, []uint64{4, 2, 1}, []uint64{hs.GetTerm(), hs.GetVote(), hs.GetCommit()})
}

// TestLosingTheLeaderIsNoLeaderChange cuts a leader off for good.
func TestLosingTheLeaderIsNoLeaderChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, nodes := startThree(t)
		lead := leader(t, nodes, 0)
		before := nodes[lead].Counters().LeaderChanges.Load()
		require.Equal(t, uint64(1), before)
		changed := nodes[lead].LeaderChanged()
		w.cut(lead, true)
		<-changed
		require.Zero(t, nodes[lead].Status().Lead)
		require.Equal(t, before, nodes[lead].Counters().LeaderChanges.Load())
		for _, m := range nodes {
			require.NoError(t, m.stop())
		}
	})
}
