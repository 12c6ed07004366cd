package consensus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"
)

func TestLogFailureEndsRun(t *testing.T) {
	m := start(t, nil)
	require.NoError(t, m.Propose(Proposal{Data: []byte("a")}))
	m.applier.wait(t, "a")
	broken := errors.New("disk on fire")
	m.log.fail(broken)
	require.NoError(t, m.Propose(Proposal{Data: []byte("b"), Dropped: func(error) { t.Error("the log may hold it") }}))
	<-m.ended
	err := m.stop()
	require.ErrorIs(t, err, broken)
	require.Equal(t, "write the raft log: disk on fire", err.Error(), "it is reported once")
	require.True(t, m.log.mu.closed)
	require.Error(t, m.Run(context.Background()), "it runs once")
}

// TestFailureEndsWhatHasJustArrived fails the loop before it has looked at a proposal and a read.
func TestFailureEndsWhatHasJustArrived(t *testing.T) {
	n, err := Open(Config{ID: 1, Log: &fakeLog{}, TickInterval: time.Second, ElectionTicks: 10, HeartbeatTicks: 1, Logger: zap.NewNop()})
	require.NoError(t, err)
	var ends []error
	require.NoError(t, n.Propose(Proposal{Dropped: func(err error) { ends = append(ends, err) }}))
	n.ReadIndex(func(_ uint64, err error) { ends = append(ends, err) })
	broken := errors.New("disk on fire")
	n.inbox.fail(broken)
	require.ErrorIs(t, n.Run(context.Background()), broken)
	require.Equal(t, []error{ErrStopped, ErrStopped}, ends)
}

func TestCheckpointMarksReleasesAndCompacts(t *testing.T) {
	m := start(t, nil)
	for i := range 50 {
		require.NoError(t, m.Propose(Proposal{Data: fmt.Append(nil, i)}))
	}
	m.applier.wait(t, "49")
	m.Checkpoint(40, 2, &raftpb.ConfState{Voters: []uint64{1}}, 5)
	m.Checkpoint(30, 2, &raftpb.ConfState{Voters: []uint64{1}}, 5) // says less than the one before
	require.NoError(t, m.stop())
	require.Equal(t, position{40, 2}, m.log.mu.mark)
	require.Equal(t, uint64(40), m.log.mu.release)
}

func TestCheckpointCompactsTheTail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, nil)
		for i := range 50 {
			require.NoError(t, m.Propose(Proposal{Data: fmt.Append(nil, i)}))
		}
		synctest.Wait()
		m.Checkpoint(40, 2, &raftpb.ConfState{Voters: []uint64{1}}, 5)
		synctest.Wait()
		require.NoError(t, m.stop())
		require.Equal(t, position{35, 2}, m.loop.core.tail.first)
		require.Equal(t, uint64(52), m.loop.core.tail.last())
	})
}

func TestFailedMarkEndsRun(t *testing.T) {
	m := start(t, nil)
	require.NoError(t, m.Propose(Proposal{Data: []byte("a")}))
	m.applier.wait(t, "a")
	m.log.mu.Lock()
	m.log.mu.markErr = errors.New("disk on fire")
	m.log.mu.Unlock()
	m.Checkpoint(2, 2, nil, 0)
	<-m.ended
	require.ErrorContains(t, m.stop(), "record in the raft log that the engine is durable up to index 2: disk on fire")
}

// TestSlowLog holds the disk up. The loop must go on ticking and answering, batch what waits, and apply nothing.
func TestSlowLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &fakeLog{gate: make(chan struct{})}
		m := start(t, func(cfg *Config) { cfg.Log = log })
		for !m.Status().SoleVoter {
			log.gate <- struct{}{}
			synctest.Wait()
		}
		before := log.mu.appends
		require.NoError(t, m.Propose(Proposal{Data: []byte("first")}))
		synctest.Wait()
		for i := range 1000 {
			require.NoError(t, m.Propose(Proposal{Data: fmt.Append(nil, i)}))
		}
		time.Sleep(30 * time.Second)
		index, err := m.read(t)
		require.NoError(t, err)
		require.Equal(t, uint64(2), index)
		require.Equal(t, uint64(2), m.Status().Applied)
		require.Equal(t, raft.StateLeader, m.Status().RaftState)
		close(log.gate)
		synctest.Wait()
		require.Equal(t, uint64(1003), m.Status().Applied)
		// The first proposal, all that waited meanwhile, and maybe the commit index of the first.
		require.LessOrEqual(t, log.mu.appends-before, 3, "what waited for the disk goes in one append")
		require.NoError(t, m.stop())
	})
}

// TestNoLeader lets proposals and reads wait for a leader that does not come.
func TestNoLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, func(cfg *Config) { cfg.Bootstrap = []raft.Peer{{ID: 1}, {ID: 2}} })
		began := time.Now()
		dropped := make(chan error, 1)
		require.NoError(t, m.Propose(Proposal{Data: []byte("a"), Dropped: func(err error) { dropped <- err }}))
		_, err := m.read(t)
		require.ErrorIs(t, err, ErrTimeout)
		require.ErrorIs(t, <-dropped, ErrTimeout)
		require.InDelta(t, 7*time.Second, time.Since(began), float64(200*time.Millisecond), "5 s and two election timeouts, as in etcd")

		require.NoError(t, m.Propose(Proposal{Data: []byte("b"), Dropped: func(err error) { dropped <- err }}))
		require.Equal(t, 1, m.ProposalsPending())
		require.NoError(t, m.stop())
		require.ErrorIs(t, <-dropped, ErrStopped)
		require.Zero(t, m.ProposalsPending())
		require.Equal(t, uint64(2), m.Counters().ProposalsDropped.Load())
	})
}

// TestWithdraw: what is withdrawn before raft has it never enters the log, and what raft has cannot be withdrawn.
func TestWithdraw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &fakeLog{gate: make(chan struct{})}
		m := start(t, func(cfg *Config) { cfg.Log = log })
		dropped := make(chan error, 3)
		offers := make([]Offer, 3)
		for i := range offers {
			require.NoError(t, m.Propose(Proposal{Data: fmt.Append(nil, i), Offer: &offers[i], Dropped: func(err error) { dropped <- err }}))
		}
		synctest.Wait()
		require.True(t, offers[0].Withdraw())
		require.True(t, offers[0].Withdraw())
		close(log.gate)
		synctest.Wait()
		require.Equal(t, raft.StateLeader, m.Status().RaftState)
		require.ErrorIs(t, <-dropped, ErrTimeout)
		require.Empty(t, dropped)
		require.False(t, offers[1].Withdraw())
		require.Zero(t, m.ProposalsPending())
		last := len(log.mu.ents) - 1
		require.Equal(t, "1", string(log.mu.ents[last-1].GetData()))
		require.Equal(t, "2", string(log.mu.ents[last].GetData()))
		require.NotEqual(t, "0", string(log.mu.ents[last-2].GetData()))
		require.NoError(t, m.stop())
	})
}

// TestWithdrawAll: a turn in which all that waits was withdrawn offers nothing.
func TestWithdrawAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &fakeLog{gate: make(chan struct{})}
		m := start(t, func(cfg *Config) { cfg.Log = log })
		var offer Offer
		require.NoError(t, m.Propose(Proposal{Data: []byte("a"), Offer: &offer}))
		synctest.Wait()
		require.True(t, offer.Withdraw())
		close(log.gate)
		synctest.Wait()
		require.Zero(t, m.ProposalsPending())
		index, err := m.read(t)
		require.NoError(t, err)
		require.Equal(t, m.Status().Applied, index)
		require.NoError(t, m.stop())
	})
}

func TestQueuesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, func(cfg *Config) { cfg.Bootstrap = []raft.Peer{{ID: 1}, {ID: 2}} })
		n := 0
		for m.Propose(Proposal{}) == nil {
			n++
		}
		require.ErrorIs(t, m.Propose(Proposal{}), ErrBusy)
		require.Equal(t, maxQueuedProposals, n)
		require.GreaterOrEqual(t, n, 5000, "no tighter than etcd")
		time.Sleep(10 * time.Second) // they time out
		require.NoError(t, m.Propose(Proposal{Data: make([]byte, maxQueuedBytes+1)}), "one alone may be larger than the bound")
		require.ErrorIs(t, m.Propose(Proposal{}), ErrBusy)

		reads := 0
		for busy := false; !busy; reads++ {
			m.ReadIndex(func(_ uint64, err error) { busy = busy || errors.Is(err, ErrBusy) })
		}
		require.Equal(t, maxQueuedReads+1, reads)

		require.NoError(t, m.stop())
	})
}

func TestMessagesAndCommandsAreBounded(t *testing.T) {
	n := &Node{inbox: newInbox()} // nothing takes from it
	heartbeat := &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: proto.Uint64(2), To: proto.Uint64(1)}
	for range maxQueuedMessages {
		require.NoError(t, n.Step(context.Background(), heartbeat))
	}
	require.ErrorIs(t, n.Step(context.Background(), heartbeat), ErrBusy)
	for range maxQueuedCommands + 1 {
		n.ReportUnreachable(2)
	}
	require.Len(t, n.inbox.mu.commands, maxQueuedCommands)
	n.inbox.stop()
	require.ErrorIs(t, n.Step(context.Background(), heartbeat), ErrStopped)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, n.Step(ctx, heartbeat), context.Canceled)
	require.ErrorContains(t, n.Step(context.Background(), &raftpb.Message{}), "step a message from member 0")
}

// TestLargeProposals proposes more than raft takes at once while the disk is slow.
// TestSnapshotReportsAreNotLost: raft waits for the end of a snapshot, for ever if nobody tells it.
func TestSnapshotReportsAreNotLost(t *testing.T) {
	n, err := Open(Config{ID: 1, Log: &fakeLog{}, TickInterval: time.Second, ElectionTicks: 10, HeartbeatTicks: 1, Logger: zap.NewNop()})
	require.NoError(t, err)
	for range 2 * maxQueuedCommands {
		n.ReportUnreachable(2)
	}
	n.ReportSnapshot(2, true)
	n.Hold(3, 7)
	n.LetGo(3)
	in, err := n.inbox.take(arrivals{})
	require.NoError(t, err)
	require.Equal(t, maxQueuedCommands+3, len(in.commands))
	require.Equal(t, command{kind: reportSnapshot, member: 2, failed: true}, in.commands[maxQueuedCommands])
	require.Equal(t, letEntriesGo, in.commands[maxQueuedCommands+2].kind)
}

func TestLargeProposals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &fakeLog{gate: make(chan struct{}, 1)}
		m := start(t, func(cfg *Config) { cfg.Log = log })
		for !m.Status().SoleVoter {
			log.gate <- struct{}{}
			synctest.Wait()
		}
		one := make([]byte, 3<<20)
		sent, taken := 0, m.Counters().Proposed.Load()
		for m.Propose(Proposal{Data: one}) == nil {
			synctest.Wait()
			sent++
		}
		inRaft := int(m.Counters().Proposed.Load() - taken)
		require.LessOrEqual(t, inRaft*len(one), maxUncommittedBytes)
		require.Greater(t, inRaft*len(one), maxUncommittedBytes-2*maxTurnBytes)
		require.Greater(t, (sent-inRaft+1)*len(one), maxQueuedBytes)
		close(log.gate)
		synctest.Wait()
		require.Equal(t, uint64(2+sent), m.Status().Applied)
		require.NoError(t, m.stop())
	})
}

func TestMemberChangesThroughANode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, nil)
		require.ErrorContains(t, m.Propose(Proposal{Type: raftpb.EntryConfChange, Data: []byte("?")}), "propose a conf change")
		require.ErrorContains(t, m.Propose(Proposal{Type: raftpb.EntryConfChangeV2}), "not in use")
		for id := uint64(2); id <= 6; id++ {
			data, err := proto.Marshal(&raftpb.ConfChange{Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: &id})
			require.NoError(t, err)
			require.NoError(t, m.Propose(Proposal{Type: raftpb.EntryConfChange, Data: data}))
			require.NoError(t, m.Propose(Proposal{Data: fmt.Append(nil, id)}))
		}
		synctest.Wait()
		require.Equal(t, []uint64{2, 3, 4, 5, 6}, m.applier.mu.conf.GetLearners(), "each waits for the one before, none is lost")
		require.Equal(t, []uint64{1}, m.Status().Voters)
		require.NoError(t, m.stop())
	})
}

// network carries messages between nodes in memory.
type network struct {
	mu struct {
		sync.Mutex
		nodes map[uint64]*Node
		cut   map[uint64]bool
	}
}

type endpoint struct {
	*network
	from uint64
}

func (e endpoint) Send(msgs []*raftpb.Message) {
	for _, m := range msgs {
		e.mu.Lock()
		to := e.mu.nodes[m.GetTo()]
		lost := to == nil || e.mu.cut[e.from] || e.mu.cut[m.GetTo()]
		e.mu.Unlock()
		if m.GetType() == raftpb.MsgSnap {
			e.report(m.GetTo(), lost)
		}
		if !lost {
			_ = to.Step(context.Background(), m) // messages may be lost
		}
	}
}

// report tells the sender of a snapshot what became of it.
func (e endpoint) report(to uint64, failed bool) {
	e.mu.Lock()
	sender := e.mu.nodes[e.from]
	e.mu.Unlock()
	sender.ReportSnapshot(to, failed)
}

func (w *network) cut(id uint64, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.cut[id] = cut
}

func startThree(t *testing.T) (*network, map[uint64]*runningNode) { return startThreeAs(t, nil) }

func startThreeAs(t *testing.T, change func(*Config)) (*network, map[uint64]*runningNode) {
	w := &network{}
	w.mu.nodes, w.mu.cut = map[uint64]*Node{}, map[uint64]bool{}
	nodes := map[uint64]*runningNode{}
	for id := uint64(1); id <= 3; id++ {
		m := start(t, func(cfg *Config) {
			cfg.ID, cfg.Transport = id, endpoint{w, id}
			cfg.Bootstrap = []raft.Peer{{ID: 1}, {ID: 2}, {ID: 3}}
			if change != nil {
				change(cfg)
			}
		})
		w.mu.Lock()
		w.mu.nodes[id], nodes[id] = m.Node, m
		w.mu.Unlock()
	}
	return w, nodes
}

func leader(t *testing.T, nodes map[uint64]*runningNode, not uint64) uint64 {
	t.Helper()
	for range 100 {
		synctest.Wait()
		for id, m := range nodes {
			if id != not && m.Status().RaftState == raft.StateLeader {
				return id
			}
		}
		time.Sleep(time.Second)
	}
	t.Fatal("no leader")
	return 0
}

// slowLog is a log whose appends take a while. Where the others are faster than the leader, entries commit before it has them.
type slowLog struct {
	*fakeLog
	late time.Duration
}

func (l slowLog) Append(hs *raftpb.HardState, ents []*raftpb.Entry) error {
	time.Sleep(l.late)
	return l.fakeLog.Append(hs, ents)
}

// TestAnAppendIsNoLine: members that are busy do not print a line for each append.
func TestAnAppendIsNoLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines, logs := observer.New(zapcore.InfoLevel)
		_, nodes := startThreeAs(t, func(cfg *Config) {
			cfg.Logger = zap.New(lines)
			cfg.Log = slowLog{&fakeLog{}, time.Duration(4-cfg.ID) * time.Millisecond}
		})
		m := nodes[leader(t, nodes, 0)]
		before := logs.Len()
		for i := range 1000 {
			require.NoError(t, m.Propose(Proposal{Data: fmt.Append(nil, i)}))
			time.Sleep(time.Millisecond / 2)
		}
		for _, m := range nodes {
			m.applier.wait(t, "999")
		}
		require.Empty(t, logs.All()[before:])
	})
}

func TestThreeNodesLoseTheirLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, nodes := startThree(t)
		first := leader(t, nodes, 0)
		follower := first%3 + 1
		require.NoError(t, nodes[follower].Propose(Proposal{Data: []byte("a")}))
		synctest.Wait()
		index, err := nodes[follower].read(t)
		require.NoError(t, err)
		require.Equal(t, nodes[first].Status().Commit, index)
		require.False(t, nodes[first].Status().SoleVoter)
		require.Equal(t, []uint64{1, 2, 3}, nodes[first].Status().Voters)

		// A read of the leader that is cut off fails when it notices.
		changed := nodes[first].LeaderChanged()
		w.cut(first, true)
		_, err = nodes[first].read(t)
		require.ErrorIs(t, err, ErrLeaderChanged)
		<-changed
		require.Zero(t, nodes[first].Status().Lead)

		second := leader(t, nodes, first)
		require.NoError(t, nodes[second].Propose(Proposal{Data: []byte("b")}))
		synctest.Wait()
		w.cut(first, false)
		time.Sleep(time.Second)
		synctest.Wait()
		nodes[first].applier.wait(t, "b")

		// Handing over the leadership drops proposals, with a word to each.
		w.cut(first, true) // the transfer does not come to an end
		dropped := make(chan error, 1)
		nodes[second].TransferLeader(first)
		synctest.Wait()
		require.NoError(t, nodes[second].Propose(Proposal{Data: []byte("c"), Dropped: func(err error) { dropped <- err }}))
		require.ErrorIs(t, <-dropped, raft.ErrProposalDropped)
		w.cut(first, false)
		nodes[second].ReportUnreachable(first)
		nodes[second].ReportSnapshot(first, true)
		nodes[second].ReportSnapshot(first, false)

		leader(t, nodes, 0)
		for _, m := range nodes {
			require.NoError(t, m.stop())
		}
		for _, m := range nodes {
			require.Equal(t, first != 0, m.Counters().LeaderChanges.Load() > 0)
		}
	})
}

// TestReadsRepeatLostRounds loses the answers to a round for a while.
func TestReadsRepeatLostRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, nodes := startThree(t)
		lead := leader(t, nodes, 0)
		follower := lead%3 + 1
		w.cut(follower, true)
		time.AfterFunc(300*time.Millisecond, func() { w.cut(follower, false) })
		_, err := nodes[follower].read(t)
		require.NoError(t, err)
		require.Positive(t, nodes[follower].Counters().SlowReadRounds.Load())
		for _, m := range nodes {
			require.NoError(t, m.stop())
		}
	})
}

// TestImpossibleStateEndsRun has a leader claim that more is committed than was ever sent.
func TestImpossibleStateEndsRun(t *testing.T) {
	m := start(t, func(cfg *Config) { cfg.Bootstrap = []raft.Peer{{ID: 1}, {ID: 2}} })
	require.NoError(t, m.Step(context.Background(), &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: proto.Uint64(2),
		To: proto.Uint64(1), Term: proto.Uint64(5), Commit: proto.Uint64(99)}))
	<-m.ended
	err := m.stop()
	require.ErrorIs(t, err, ErrImpossible)
	require.ErrorContains(t, err, "tocommit(99) is out of range")
}

func TestApplierOutOfOrderEndsRun(t *testing.T) {
	m := start(t, nil)
	require.NoError(t, m.Propose(Proposal{Data: []byte("a")}))
	m.applier.wait(t, "a")
	m.Applied(Batch{Entries: []*raftpb.Entry{{Index: proto.Uint64(3)}}}, nil)
	<-m.ended
	require.ErrorIs(t, m.stop(), ErrImpossible)
}
