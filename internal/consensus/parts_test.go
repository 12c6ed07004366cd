package consensus

import (
	"errors"
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

func run(term, from, to uint64) []*raftpb.Entry {
	var ents []*raftpb.Entry
	for i := from; i <= to; i++ {
		ents = append(ents, &raftpb.Entry{Term: &term, Index: new(i), Data: []byte("0123456789")})
	}
	return ents
}

func TestTail(t *testing.T) {
	first := run(1, 11, 20)
	tail := newTail(nil, nil, position{10, 1}, first)
	held, err := tail.Entries(11, 21, 1<<20)
	require.NoError(t, err)
	require.Len(t, held, 10)

	require.NoError(t, tail.append(run(2, 15, 16)))
	require.Equal(t, uint64(16), tail.last())
	require.Equal(t, uint64(6*(10+entryOverhead)), tail.bytes)
	require.Equal(t, uint64(1), held[5].GetTerm(), "what was read before stays")
	require.Equal(t, uint64(1), first[5].GetTerm())
	require.ErrorContains(t, tail.append(run(2, 18, 18)), "append entry 18 to a log of entries 11 to 16: out of order")
	require.Error(t, tail.append(run(2, 10, 10)))
	require.NoError(t, tail.append(nil))

	for i, want := range map[uint64]uint64{10: 1, 14: 1, 15: 2, 16: 2} {
		term, err := tail.Term(i)
		require.NoError(t, err)
		require.Equal(t, want, term)
	}
	_, err = tail.Term(9)
	require.ErrorIs(t, err, raft.ErrCompacted)
	_, err = tail.Term(17)
	require.ErrorIs(t, err, raft.ErrUnavailable)
	_, err = tail.Entries(10, 12, 0)
	require.ErrorIs(t, err, raft.ErrCompacted)
	_, err = tail.Entries(12, 18, 0)
	require.ErrorIs(t, err, raft.ErrUnavailable)
	some, err := tail.Entries(12, 16, 0)
	require.NoError(t, err)
	require.Len(t, some, 1, "at least one")
	some, err = tail.Entries(12, 16, 2*encodedSize(held[0]))
	require.NoError(t, err)
	require.Len(t, some, 2)
	require.GreaterOrEqual(t, encodedSize(held[0]), uint64(proto.Size(held[0])))
	_, err = tail.Snapshot()
	require.ErrorIs(t, err, raft.ErrSnapshotTemporarilyUnavailable)

	tail.compact(14, 2)
	require.Equal(t, position{10, 1}, tail.first, "nothing is flushed")
	require.Equal(t, uint64(60), tail.unflushed)
	tail.flush(14)
	require.Equal(t, uint64(20), tail.unflushed)
	require.NoError(t, tail.append(run(2, 15, 17)))
	require.Equal(t, uint64(30), tail.unflushed)
	require.NoError(t, tail.append(run(3, 15, 16)))
	tail.flush(99)
	require.Zero(t, tail.unflushed)
	tail.compact(14, 2)
	require.Equal(t, position{12, 1}, tail.first)
	tail.compact(12, 0)
	require.Equal(t, position{12, 1}, tail.first)
	tail.compact(14, 100)
	require.Equal(t, position{12, 1}, tail.first)
	tail.compact(99, 0)
	require.Equal(t, position{16, 3}, tail.first)
	require.Zero(t, tail.bytes)
}

func TestTailBoundsTheBytesItKeeps(t *testing.T) {
	one := make([]byte, tailKeepBytes/4)
	ents := run(1, 1, 10)
	for _, e := range ents {
		e.Data = one
	}
	tail := newTail(nil, nil, position{}, ents)
	tail.flush(8)
	tail.compact(8, 8)
	require.Equal(t, uint64(5), tail.first.index, "three of a quarter each, with what an entry costs beside, are below the bound")
}

func TestNextConfState(t *testing.T) {
	cc := func(typ raftpb.ConfChangeType, id uint64) ConfChange {
		return ConfChange{ConfChange: &raftpb.ConfChange{Type: &typ, NodeId: &id}}
	}
	one := &raftpb.ConfState{Voters: []uint64{1}}
	for _, tc := range []struct {
		from             *raftpb.ConfState
		change           ConfChange
		voters, learners []uint64
		err              string
	}{
		{nil, cc(raftpb.ConfChangeAddNode, 1), []uint64{1}, nil, ""},
		{one, cc(raftpb.ConfChangeAddNode, 2), []uint64{1, 2}, nil, ""},
		{one, cc(raftpb.ConfChangeAddLearnerNode, 2), []uint64{1}, []uint64{2}, ""},
		{&raftpb.ConfState{Voters: []uint64{1}, Learners: []uint64{2}}, cc(raftpb.ConfChangeAddNode, 2), []uint64{1, 2}, nil, ""},
		{one, ConfChange{ConfChange: cc(raftpb.ConfChangeRemoveNode, 1).ConfChange, Rejected: true}, []uint64{1}, nil, ""},
		{one, cc(raftpb.ConfChangeRemoveNode, 1), nil, nil, "next configuration: ConfChangeRemoveNode of member 1: removed all voters"},
		{one, ConfChange{}, nil, nil, "no change given"},
		{&raftpb.ConfState{Learners: []uint64{1}, Voters: []uint64{1}}, cc(raftpb.ConfChangeAddNode, 1), nil, nil, "restore"},
	} {
		before := proto.Clone(tc.from)
		got, err := NextConfState(tc.from, tc.change)
		require.True(t, tc.from == nil || proto.Equal(before, tc.from), "not modified")
		if tc.err != "" {
			require.ErrorContains(t, err, tc.err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, tc.voters, got.GetVoters())
		require.Equal(t, tc.learners, got.GetLearners())
	}
	require.Zero(t, ConfChange{Rejected: true}.forRaft().GetNodeId())
}

func TestCheckMessage(t *testing.T) {
	from := proto.Uint64(2)
	bad := &raftpb.Entry{Type: raftpb.EntryConfChange.Enum(), Data: []byte("?")}
	for want, m := range map[string]*raftpb.Message{
		"":                             {Type: raftpb.MsgApp.Enum(), From: from, Index: proto.Uint64(4), Entries: run(1, 5, 7)},
		"no message":                   nil,
		"never crosses":                {Type: raftpb.MsgHup.Enum(), From: from},
		"0 is no member id":            {Type: raftpb.MsgApp.Enum()},
		"a snapshot at index 0":        {Type: raftpb.MsgSnap.Enum(), From: from},
		"without entries":              {Type: raftpb.MsgProp.Enum(), From: from},
		"proposal of a conf change":    {Type: raftpb.MsgProp.Enum(), From: from, Entries: []*raftpb.Entry{{}, bad}},
		"unknown entry type 9":         {Type: raftpb.MsgProp.Enum(), From: from, Entries: []*raftpb.Entry{{Type: raftpb.EntryType(9).Enum()}}},
		"entry 5 follows on index 6":   {Type: raftpb.MsgApp.Enum(), From: from, Index: proto.Uint64(6), Entries: run(1, 5, 7)},
		"with 0 entries":               {Type: raftpb.MsgReadIndex.Enum(), From: from},
		"heartbeat context of 3 bytes": {Type: raftpb.MsgHeartbeatResp.Enum(), From: from, Context: []byte("abc")},
	} {
		err := checkMessage(m)
		if want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, want)
	}
	v2 := &raftpb.Entry{Type: raftpb.EntryConfChangeV2.Enum()}
	require.NoError(t, checkMessage(&raftpb.Message{Type: raftpb.MsgProp.Enum(), From: from, Entries: []*raftpb.Entry{v2}}))
}

func TestOpenRefuses(t *testing.T) {
	hs := func(commit uint64) *raftpb.HardState {
		return &raftpb.HardState{Term: proto.Uint64(1), Vote: proto.Uint64(1), Commit: &commit}
	}
	for want, change := range map[string]func(*Config){
		"0 cannot be a member id":            func(c *Config) { c.ID = 0 },
		"a log and a logger are needed":      func(c *Config) { c.Log = nil },
		"tick interval is 0s":                func(c *Config) { c.TickInterval = 0 },
		"election tick must be greater":      func(c *Config) { c.ElectionTicks = 1 },
		"has entry 3 where 2 is expected":    func(c *Config) { c.HardState, c.Entries = hs(0), append(run(1, 1, 1), run(1, 3, 3)...) },
		"up to 4: the engine is older":       func(c *Config) { c.HardState, c.First, c.Applied = hs(5), First{5, 1}, 4 },
		"ends at index 3 but the engine":     func(c *Config) { c.HardState, c.Entries, c.Applied = hs(3), run(1, 1, 3), 4 },
		"says that it is committed up to 4":  func(c *Config) { c.HardState, c.Entries, c.Applied = hs(4), run(1, 1, 3), 3 },
		"the log was lost":                   func(c *Config) { c.Applied = 3 },
		"entries but no state":               func(c *Config) { c.Entries = run(1, 1, 1) },
		"open consensus: start raft: consen": func(c *Config) { c.ConfState = &raftpb.ConfState{LearnersNext: []uint64{4}} },
	} {
		cfg := Config{ID: 1, Log: &fakeLog{}, TickInterval: time.Second, ElectionTicks: 10, HeartbeatTicks: 1, Logger: zap.NewNop()}
		change(&cfg)
		_, err := Open(cfg)
		require.ErrorContains(t, err, want)
	}
}

// TestTornBootstrapIsRepeated starts with the entries of a first write whose hard state a crash has lost.
func TestTornBootstrapIsRepeated(t *testing.T) {
	log := &fakeLog{}
	log.mu.ents = run(1, 1, 1)
	m := start(t, func(cfg *Config) { cfg.Log, cfg.Entries = log, log.mu.ents })
	require.NoError(t, m.Propose(Proposal{Data: []byte("a")}))
	m.applier.wait(t, "a")
	require.NoError(t, m.stop())
	require.Equal(t, raftpb.EntryConfChange, log.mu.ents[0].GetType())
}

// recordingLog writes down how it is called.
type recordingLog struct {
	fakeLog
	calls [][2]uint64 // index of the first and last entry
	terms []uint64
}

func (l *recordingLog) Append(hs *raftpb.HardState, ents []*raftpb.Entry) error {
	call := [2]uint64{}
	if len(ents) > 0 {
		call = [2]uint64{ents[0].GetIndex(), ents[len(ents)-1].GetIndex()}
	}
	l.calls = append(l.calls, call)
	l.terms = append(l.terms, hs.GetTerm())
	return nil
}

func TestLogWriterMergesWhatFollows(t *testing.T) {
	message := func(term uint64, ents []*raftpb.Entry, responses int) *raftpb.Message {
		m := &raftpb.Message{Type: raftpb.MsgStorageAppend.Enum(), Entries: ents}
		if term > 0 {
			m.Term, m.Vote, m.Commit = &term, proto.Uint64(1), proto.Uint64(0)
		}
		for range responses {
			m.Responses = append(m.Responses, &raftpb.Message{To: proto.Uint64(2)})
		}
		return m
	}
	log := &recordingLog{}
	sent := &sentMessages{}
	w := newLogWriter(log, sent, 1, newInbox(), &Counters{}, nil)
	w.add([]*raftpb.Message{message(1, run(1, 1, 3), 1), message(0, run(1, 4, 4), 0), message(2, run(2, 3, 5), 2), message(0, nil, 1)})
	w.stop()
	require.NoError(t, w.run())
	require.Equal(t, [][2]uint64{{1, 4}, {3, 5}}, log.calls, "a suffix that is overwritten is written first")
	require.Equal(t, []uint64{1, 2}, log.terms)
	require.Equal(t, 4, sent.n)
	require.Len(t, w.inbox.mu.written, 4)

	// What only moves the commit index wakes nobody, and the last of it stands for all.
	<-drained(w.wake)
	w.add([]*raftpb.Message{message(2, nil, 0)})
	w.add([]*raftpb.Message{message(2, nil, 0)})
	require.Empty(t, w.wake)
	require.Len(t, w.mu.msgs, 1)
	w.add([]*raftpb.Message{message(3, nil, 0)})
	require.Len(t, w.wake, 1, "a new term is written at once")
}

// drained empties a wake channel.
func drained(wake chan struct{}) <-chan struct{} {
	select {
	case <-wake:
	default:
	}
	done := make(chan struct{})
	close(done)
	return done
}

type sentMessages struct{ n int }

func (s *sentMessages) Send(msgs []*raftpb.Message) { s.n += len(msgs) }

func TestReadRounds(t *testing.T) {
	var ended []error
	done := func(_ uint64, err error) { ended = append(ended, err) }
	three := []func(uint64, error){done, done, done}
	r := readRounds{nextID: 7, retry: 5, deadline: 20}
	_, ok := r.start(0)
	require.False(t, ok, "nobody waits")
	for i := range uint64(maxReadRounds) {
		r.add(i, three)
		id, ok := r.start(i)
		require.True(t, ok)
		require.Equal(t, 7+i, id)
	}
	r.add(4, three)
	_, ok = r.start(4)
	require.False(t, ok, "rounds are bounded")
	require.Empty(t, r.due(4))
	require.Equal(t, []uint64{7, 8}, r.due(6))
	require.Len(t, r.answered(8), 3)
	require.Nil(t, r.answered(8), "an answer counts once")
	require.Len(t, r.expired(20), 3)
	require.Nil(t, r.answered(7), "its readers have gone")
	require.Len(t, r.expired(24), 9)
	require.Empty(t, r.waiting)
	require.Empty(t, r.abandoned())
	_, ok = roundOf(raft.ReadState{RequestCtx: []byte("not ours")[:3]})
	require.False(t, ok)
	require.Empty(t, ended, "the caller ends them")
}

func TestApplyQueueRefusesWrongAnswers(t *testing.T) {
	conf := &raftpb.Entry{Type: raftpb.EntryConfChange.Enum(), Index: proto.Uint64(2), Term: proto.Uint64(1)}
	q := applyQueue{}
	q.push(&raftpb.Message{})
	_, ok := q.next()
	require.False(t, ok)
	q.push(&raftpb.Message{Entries: append(run(1, 1, 1), conf), Responses: []*raftpb.Message{{}}})
	b, ok := q.next()
	require.True(t, ok)
	require.Len(t, b.responses, 1)
	require.ErrorContains(t, q.acknowledge(b, nil), "decided on 0 conf changes in the batch up to index 2, which has 1")
	all := ConfChange{ConfChange: &raftpb.ConfChange{Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: proto.Uint64(1)}}
	require.ErrorContains(t, q.acknowledge(b, []ConfChange{all}), "conf change at index 2: next configuration")
	all.Rejected = true
	require.NoError(t, q.acknowledge(b, []ConfChange{all}))
	require.ErrorIs(t, q.acknowledge(b, nil), ErrImpossible)
}

func TestRaftLogger(t *testing.T) {
	core, logs := observer.New(zapcore.InfoLevel)
	l := newRaftLogger(zap.New(core, zap.AddCaller()))
	l.Debug("no")
	l.Debugf("no")
	l.Info("became ", "leader")
	l.Infof("at term %d", 2)
	l.Warning("w")
	l.Warningf("w%d", 1)
	l.Error("e")
	l.Errorf("e%d", 1)
	var got []string
	for _, e := range logs.All() {
		require.Equal(t, "raft", e.LoggerName)
		require.Contains(t, e.Caller.File, "parts_test.go")
		got = append(got, e.Level.String()+" "+e.Message)
	}
	require.Equal(t, []string{"info became leader", "info at term 2", "warn w", "warn w1", "error e", "error e1"}, got)
	for _, f := range []func(){func() { l.Fatal("x") }, func() { l.Fatalf("x") }, func() { l.Panic("x") }, func() { l.Panicf("x") }} {
		require.PanicsWithValue(t, impossible{"x"}, f)
	}
	require.EqualError(t, panicError(errors.New("other")), "consensus: impossible state: other")
}
