package consensus

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"
)

const handTicks = 10

// handed is nodes driven by hand, whose messages arrive at once and whose disks hang on request.
type handed struct {
	t     *testing.T
	nodes map[uint64]*Node
	hands map[uint64]*Hand
	lines map[uint64]*observer.ObservedLogs
	hangs map[uint64]bool
	cut   map[uint64]bool
	deaf  bool // nobody hears that it should lead
	sent  []*raftpb.Message
}

// Send implements Transport.
func (h *handed) Send(msgs []*raftpb.Message) { h.sent = append(h.sent, msgs...) }

func newHanded(t *testing.T, members int, change func(*Config)) *handed {
	h := &handed{t: t, nodes: map[uint64]*Node{}, hands: map[uint64]*Hand{}, lines: map[uint64]*observer.ObservedLogs{},
		hangs: map[uint64]bool{}, cut: map[uint64]bool{}}
	var peers []Peer
	for id := range uint64(members) {
		peers = append(peers, Peer{ID: id + 1})
	}
	for _, p := range peers {
		watched, lines := observer.New(zapcore.InfoLevel)
		cfg := Config{ID: p.ID, Log: &fakeLog{}, Bootstrap: peers, TickInterval: time.Second, ElectionTicks: handTicks,
			HeartbeatTicks: 1, PreVote: true, Transport: h, Logger: zap.New(watched)}
		if change != nil {
			change(&cfg)
		}
		n, err := Open(cfg)
		require.NoError(t, err)
		hand, err := n.Take()
		require.NoError(t, err)
		h.nodes[p.ID], h.hands[p.ID], h.lines[p.ID] = n, hand, lines
	}
	h.pump()
	return h
}

// pump lets everything happen that needs no time.
func (h *handed) pump() {
	h.t.Helper()
	for busy := true; busy; {
		busy = false
		for _, m := range h.sent {
			if !h.cut[m.GetFrom()] && !h.cut[m.GetTo()] && (!h.deaf || m.GetType() != raftpb.MsgTimeoutNow) {
				require.NoError(h.t, h.nodes[m.GetTo()].Step(h.t.Context(), m))
			}
		}
		h.sent = nil
		for id, hand := range h.hands {
			took, err := hand.Turn()
			require.NoError(h.t, err)
			busy = busy || took
			if !h.hangs[id] && hand.LogWaits() {
				require.NoError(h.t, hand.WriteLog())
				busy = true
			}
			busy = h.apply(h.nodes[id]) || busy
		}
		busy = busy || len(h.sent) > 0
	}
}

func (h *handed) apply(n *Node) bool {
	select {
	case b := <-n.Committed():
		var changes []ConfChange
		if b.endsWithConfChange() {
			cc := ConfChange{ConfChange: &raftpb.ConfChange{}}
			require.NoError(h.t, proto.Unmarshal(b.Entries[len(b.Entries)-1].GetData(), cc.ConfChange))
			changes = append(changes, cc)
		}
		n.Applied(b, changes)
		return true
	default:
		return false
	}
}

func (h *handed) tick(times int) {
	h.t.Helper()
	for range times {
		for _, hand := range h.hands {
			require.NoError(h.t, hand.Tick())
		}
		h.pump()
	}
}

// leader waits for one that all know, among those that are not cut off.
func (h *handed) leader() uint64 {
	h.t.Helper()
	for range 100 * handTicks {
		var lead []uint64
		for id, n := range h.nodes {
			if !h.cut[id] {
				lead = append(lead, n.Status().Lead)
			}
		}
		if slices.Max(lead) == slices.Min(lead) && lead[0] != raft.None && !h.cut[lead[0]] {
			return lead[0]
		}
		h.tick(1)
	}
	require.FailNow(h.t, "no leader")
	return 0
}

func (h *handed) propose(id uint64) {
	h.t.Helper()
	require.NoError(h.t, h.nodes[id].Propose(Proposal{Data: []byte("x")}))
	h.pump()
}

func others(id uint64, members int) (ids []uint64) {
	for i := range uint64(members) {
		if i+1 != id {
			ids = append(ids, i+1)
		}
	}
	return ids
}

func (h *handed) said(id uint64, text string) int {
	return h.lines[id].FilterMessageSnippet(text).Len()
}

func TestLeaderWhoseDiskStallsHandsOver(t *testing.T) {
	h := newHanded(t, 3, nil)
	lead := h.leader()
	n := h.nodes[lead]
	h.hangs[lead] = true
	h.tick(3 * handTicks)
	require.Equal(t, lead, h.leader(), "nothing waits for the disk")
	require.False(t, n.Status().DiskStalled)

	term := n.Status().Term
	h.propose(lead)
	h.tick(handTicks - 1)
	require.Equal(t, lead, h.leader(), "it may still come back")
	h.tick(2)
	next := h.leader()
	require.NotEqual(t, lead, next)
	require.Equal(t, term+1, n.Status().Term, "nobody had to miss it")
	require.True(t, n.Status().DiskStalled)
	require.Equal(t, uint64(1), n.Counters().StallHandOvers.Load())
	require.Equal(t, uint64(1), n.Counters().DiskStalls.Load())
	require.Equal(t, 1, h.said(lead, "handing leadership over because the disk stalls"))

	// It does not campaign, whoever is away, and takes no office that it is offered.
	h.cut[next] = true
	h.tick(5 * handTicks)
	require.Equal(t, term+1, n.Status().Term)
	delete(h.cut, next)
	h.tick(5 * handTicks)
	again := h.leader()
	require.NotEqual(t, lead, again)
	h.nodes[again].TransferLeader(lead)
	h.tick(3 * handTicks)
	require.Equal(t, again, h.leader())

	h.hangs[lead] = false
	h.propose(again)
	require.False(t, n.Status().DiskStalled)
	require.Equal(t, 1, h.said(lead, "writes again"))
	require.Equal(t, h.nodes[again].Status().Applied, n.Status().Applied)
	h.nodes[again].TransferLeader(lead)
	h.tick(2)
	require.Equal(t, lead, h.leader(), "it is as good as any")
}

// TestHandsOverOnlyWhereItHelps: without a quorum of others who can write nobody could take over, and this leader at
// least answers reads.
func TestHandsOverOnlyWhereItHelps(t *testing.T) {
	for name, also := range map[string]func(h *handed, other uint64){
		"another disk hangs":   func(h *handed, other uint64) { h.hangs[other] = true },
		"another one is away":  func(h *handed, other uint64) { h.cut[other] = true },
		"nothing is committed": func(h *handed, other uint64) { h.hangs[other], h.hangs[6-other-h.leader()] = true, true },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHanded(t, 3, nil)
			lead := h.leader()
			also(h, others(lead, 3)[0])
			h.hangs[lead] = true
			h.propose(lead)
			h.tick(5 * handTicks)
			require.Equal(t, lead, h.leader())
			require.True(t, h.nodes[lead].Status().DiskStalled)
			require.Zero(t, h.nodes[lead].Counters().StallHandOvers.Load())
			require.Equal(t, 1, h.said(lead, "does not come back from a write"), "once a stall")
		})
	}
}

// TestHandOversAreBounded: who is handed leadership may not take it.
func TestHandOversAreBounded(t *testing.T) {
	h := newHanded(t, 3, func(cfg *Config) { cfg.ElectionTicks, cfg.StallTicks = handTicks, 2*handTicks })
	lead := h.leader()
	h.hangs[lead] = true
	h.propose(lead)
	h.deaf = true
	h.tick(2*handTicks + handOverPause*handTicks + 2)
	require.Equal(t, lead, h.leader())
	require.Equal(t, uint64(2), h.nodes[lead].Counters().StallHandOvers.Load())
}

func TestSuccessorIsTheFurthest(t *testing.T) {
	h := newHanded(t, 5, nil)
	lead := h.leader()
	h.propose(lead)
	o := others(lead, 5)
	h.hangs[lead] = true
	h.cut[o[0]], h.hangs[o[1]] = true, true
	h.propose(lead)
	require.Equal(t, raft.None, h.nodes[lead].loop.core.successor(), "two of five have it")
	delete(h.cut, o[0])
	h.tick(2)
	require.Equal(t, o[0], h.nodes[lead].loop.core.successor())
	h.cut[o[0]] = true
	h.hangs[o[1]] = false
	h.propose(lead)
	require.Equal(t, o[1], h.nodes[lead].loop.core.successor())
	require.Equal(t, raft.None, h.nodes[o[1]].loop.core.successor(), "a follower has none")
}

func TestStallCountsWhatTheWriterWrites(t *testing.T) {
	hs := func(term, vote uint64) *raftpb.Message {
		return &raftpb.Message{Term: &term, Vote: &vote, Commit: proto.Uint64(1)}
	}
	s := stall{bound: 10}
	commit := hs(1, 1)
	s.handed(1, []*raftpb.Message{hs(1, 1), commit})
	require.Len(t, s.waiting, 1)
	require.False(t, s.over(10))
	require.True(t, s.over(11))
	voted, entries := hs(1, 2), &raftpb.Message{Entries: run(1, 1, 1)}
	s.handed(5, []*raftpb.Message{voted, entries})
	require.True(t, s.over(11), "the oldest counts")
	s.written(11, []*raftpb.Message{s.waiting[0], commit})
	require.Len(t, s.waiting, 2)
	require.False(t, s.over(20), "it makes progress")
	require.True(t, s.over(21))
	s.written(21, []*raftpb.Message{voted, entries})
	require.Empty(t, s.waiting)
	require.False(t, s.over(99))
	s.handed(99, []*raftpb.Message{hs(1, 2)})
	require.False(t, s.over(200), "what moves the commit index wakes no writer")
}

// TestCommitIndexAfterAStart: what the log writer does not write by itself, nobody waits for, from the start on.
func TestCommitIndexAfterAStart(t *testing.T) {
	hs := &raftpb.HardState{Term: new(uint64(5)), Vote: new(uint64(2)), Commit: new(uint64(1))}
	n, err := Open(Config{ID: 1, Log: &fakeLog{}, HardState: hs, Entries: []*raftpb.Entry{{Term: new(uint64(5)), Index: new(uint64(1))}},
		ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}}, TickInterval: time.Second, ElectionTicks: handTicks, HeartbeatTicks: 1,
		Logger: zap.NewNop()})
	require.NoError(t, err)
	s := &n.loop.disk
	moved := &raftpb.Message{Term: hs.Term, Vote: hs.Vote, Commit: new(uint64(2))}
	s.handed(1, []*raftpb.Message{moved})
	require.Empty(t, s.waiting)

	// One that took the place of another before it was written stands for it.
	first, second := &raftpb.Message{Term: new(uint64(6))}, &raftpb.Message{Term: new(uint64(7))}
	s.handed(2, []*raftpb.Message{first})
	s.handed(3, []*raftpb.Message{second})
	require.Len(t, s.waiting, 2)
	s.written(4, []*raftpb.Message{second})
	require.Empty(t, s.waiting)
}
