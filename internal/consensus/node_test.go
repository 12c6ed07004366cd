package consensus

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap/zaptest"
	"google.golang.org/protobuf/proto"
)

// fakeLog is a Log in memory. Append waits for gate if there is one, and fails with err if there is one.
type fakeLog struct {
	mu struct {
		sync.Mutex
		hs      *raftpb.HardState
		ents    []*raftpb.Entry
		appends int
		mark    position
		release uint64
		closed  bool
		err     error // of Append
		markErr error

		base      uint64 // where ents begin
		installed []position
	}
	gate chan struct{}
}

func (l *fakeLog) Append(hs *raftpb.HardState, ents []*raftpb.Entry) error {
	if l.gate != nil {
		<-l.gate
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.err != nil {
		return l.mu.err
	}
	l.mu.appends++
	if hs != nil {
		l.mu.hs = hs
	}
	if len(ents) > 0 {
		keep := ents[0].GetIndex() - 1 - l.mu.base
		l.mu.ents = append(l.mu.ents[:keep:keep], ents...)
	}
	return nil
}

func (l *fakeLog) Mark(index, term uint64, _ *raftpb.ConfState) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.mark = position{index, term}
	return l.mu.markErr
}

func (l *fakeLog) Install(index, term uint64, _ *raftpb.ConfState) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.installed = append(l.mu.installed, position{index, term})
	l.mu.base, l.mu.ents = index, nil
	return l.mu.markErr
}

func (l *fakeLog) Release(index uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.release = index
	return nil
}

func (l *fakeLog) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.closed = true
	return nil
}

func (l *fakeLog) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.err = err
}

// applier applies what a node commits, as internal/node does.
type applier struct {
	mu struct {
		sync.Mutex
		entries []*raftpb.Entry
		conf    *raftpb.ConfState

		installed int
	}
	grown chan struct{} // of capacity 1
	// fetch returns what another member has applied up to an index.
	fetch func(index uint64) []*raftpb.Entry
}

func (a *applier) run(t testing.TB, n *Node, reject func(*raftpb.ConfChange) bool) {
	for b := range n.Committed() {
		if b.Snapshot != nil {
			a.install(n, b)
			continue
		}
		var changes []ConfChange
		conf := b.ConfState
		for _, e := range b.Entries {
			if e.GetType() != raftpb.EntryConfChange {
				continue
			}
			cc := ConfChange{ConfChange: &raftpb.ConfChange{}}
			if err := proto.Unmarshal(e.GetData(), cc.ConfChange); err != nil {
				t.Error(err)
			}
			cc.Rejected = reject != nil && reject(cc.ConfChange)
			next, err := NextConfState(conf, cc)
			if err != nil {
				t.Error(err)
			}
			conf = next
			changes = append(changes, cc)
		}
		a.mu.Lock()
		a.mu.entries = append(a.mu.entries, b.Entries...)
		a.mu.conf = conf
		a.mu.Unlock()
		n.Applied(b, changes)
		select {
		case a.grown <- struct{}{}:
		default:
		}
	}
}

// install takes the entries of the member whose snapshot it is.
func (a *applier) install(n *Node, b Batch) {
	a.mu.Lock()
	a.mu.entries, a.mu.conf = a.fetch(b.Snapshot.GetIndex()), b.Snapshot.GetConfState()
	a.mu.installed++
	a.mu.Unlock()
	n.Applied(b, nil)
}

// upTo returns a copy of what is applied up to an index.
func (a *applier) upTo(index uint64) (entries []*raftpb.Entry) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.mu.entries {
		if e.GetIndex() <= index {
			entries = append(entries, e)
		}
	}
	return entries
}

// wait waits until a proposal with this data is applied.
func (a *applier) wait(t testing.TB, data string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		a.mu.Lock()
		for _, e := range a.mu.entries {
			if string(e.GetData()) == data {
				a.mu.Unlock()
				return
			}
		}
		a.mu.Unlock()
		select {
		case <-a.grown:
		case <-deadline:
			t.Fatalf("%q was not applied", data)
		}
	}
}

// runningNode is a node with its log and applier.
type runningNode struct {
	*Node
	log     *fakeLog
	applier *applier
	ended   chan struct{} // closed when Run has returned
	stop    func() error
}

func start(t testing.TB, change func(*Config)) *runningNode {
	t.Helper()
	log := &fakeLog{}
	cfg := Config{ID: 1, Log: log, Bootstrap: []raft.Peer{{ID: 1, Context: []byte("one")}}, TickInterval: 100 * time.Millisecond,
		ElectionTicks: 10, HeartbeatTicks: 1, PreVote: true, AdvanceTicks: true, Logger: zaptest.NewLogger(t)}
	if change != nil {
		change(&cfg)
	}
	if l, ok := cfg.Log.(*fakeLog); ok {
		log = l
	}
	n, err := Open(cfg)
	require.NoError(t, err)
	m := &runningNode{Node: n, log: log, applier: &applier{grown: make(chan struct{}, 1)}, ended: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	ran, drained := make(chan error, 1), make(chan struct{})
	go func() { ran <- n.Run(ctx); close(m.ended) }()
	go func() { m.applier.run(t, n, nil); close(drained) }()
	m.stop = sync.OnceValue(func() error {
		cancel()
		err := <-ran
		<-drained
		return err
	})
	t.Cleanup(func() { _ = m.stop() })
	return m
}

func (m *runningNode) read(t testing.TB) (uint64, error) {
	t.Helper()
	type answer struct {
		index uint64
		err   error
	}
	c := make(chan answer, 1)
	m.ReadIndex(func(index uint64, err error) { c <- answer{index, err} })
	a := <-c
	return a.index, a.err
}

func TestSingleVoterProposesReadsAndStops(t *testing.T) {
	m := start(t, nil)
	require.NoError(t, m.Propose(Proposal{Data: []byte("a")}))
	m.applier.wait(t, "a")
	index, err := m.read(t)
	require.NoError(t, err)
	require.Equal(t, uint64(3), index) // the bootstrap, the leader's empty entry, a

	require.NoError(t, m.stop())
	require.ErrorIs(t, m.Propose(Proposal{}), ErrStopped)
	_, err = m.read(t)
	require.ErrorIs(t, err, ErrStopped)
	require.True(t, m.log.mu.closed)

	ents := m.log.mu.ents
	require.Len(t, ents, 3)
	require.Equal(t, raftpb.EntryConfChange, ents[0].GetType())
	require.Equal(t, uint64(1), ents[0].GetTerm())
	require.Equal(t, []uint64{1}, m.applier.mu.conf.GetVoters())
	require.Equal(t, uint64(3), m.log.mu.hs.GetCommit(), "the commit index is written at the end")
}
