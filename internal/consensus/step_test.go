package consensus

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// simulated is a member of a cluster in memory: a core, its disk, and what is on its way between its parts. A crash
// forgets all but disk and engine.
type simulated struct {
	*core
	disk struct {
		hs   *raftpb.HardState
		ents []*raftpb.Entry
	}
	engine struct {
		applied uint64
		conf    *raftpb.ConfState
	}
	writes []*raftpb.Message
	down   bool
}

// cluster runs the commands of the scenarios in testdata/step.
type cluster struct {
	t       *testing.T
	members map[uint64]*simulated
	network []*raftpb.Message
	cut     map[uint64]bool // members whose messages are lost
	reject  map[uint64]bool // member ids whose conf changes the appliers reject
	out     strings.Builder
}

func TestStep(t *testing.T) {
	datadriven.Walk(t, "testdata/step", func(t *testing.T, path string) {
		c := &cluster{t: t, members: map[uint64]*simulated{}, cut: map[uint64]bool{}, reject: map[uint64]bool{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			c.t = t
			c.out.Reset()
			c.run(d)
			if c.out.Len() == 0 {
				return "ok"
			}
			return c.out.String()
		})
	})
}

func (c *cluster) run(d *datadriven.TestData) {
	var id uint64
	d.MaybeScanArgs(c.t, "id", &id)
	m := c.members[id]
	switch d.Cmd {
	case "open":
		c.open(d, id)
	case "campaign":
		require.NoError(c.t, m.rn.Campaign())
	case "forget-leader":
		require.NoError(c.t, m.rn.ForgetLeader())
	case "tick":
		n := 1
		d.MaybeScanArgs(c.t, "n", &n)
		for range n {
			m.tick()
		}
	case "propose":
		c.propose(m, strings.Fields(d.Input))
	case "read":
		var round uint64
		d.ScanArgs(c.t, "round", &round)
		if !m.canRead() {
			c.printf("cannot read yet\n")
			return
		}
		m.readIndex(round)
	case "transfer":
		var to uint64
		d.ScanArgs(c.t, "to", &to)
		command{kind: transferLeader, member: to}.run(m.core)
	case "cut":
		c.cut[id] = true
	case "heal":
		c.cut[id] = false
	case "reject":
		c.reject[id] = true
	case "ready":
		c.ready(id, true)
	case "write":
		c.write(id, true)
	case "apply":
		c.apply(id, true)
	case "deliver":
		c.deliver()
	case "stabilize":
		c.stabilize()
	case "crash":
		m.down = true
	case "status":
		c.status()
	case "log":
		for _, e := range m.disk.ents {
			c.printf("%s\n", describe(e))
		}
	default:
		c.t.Fatalf("unknown command %s", d.Cmd)
	}
}

func (c *cluster) printf(format string, v ...any) { fmt.Fprintf(&c.out, format, v...) }

// open starts a member: with peers= a new one of a new cluster, else from its disk and engine.
func (c *cluster) open(d *datadriven.TestData, id uint64) {
	var peers []uint64
	d.MaybeScanArgs(c.t, "peers", &peers)
	old := c.members[id]
	m := &simulated{}
	if old != nil {
		m.disk, m.engine = old.disk, old.engine
	}
	cfg := Config{ID: id, Log: &fakeLog{}, Logger: zap.NewNop(), TickInterval: 1, HardState: m.disk.hs, Entries: m.disk.ents,
		Applied: m.engine.applied}
	hs, err := cfg.check()
	if err != nil {
		c.printf("%v\n", err)
		return
	}
	var bootstrap []raft.Peer
	for _, p := range peers {
		bootstrap = append(bootstrap, raft.Peer{ID: p})
	}
	m.core, err = newCore(coreConfig{id: id, tail: newTail(hs, cloneConfState(m.engine.conf), position{}, m.disk.ents),
		applied: m.engine.applied, bootstrap: bootstrap, electionTicks: 10, heartbeatTicks: 1, preVote: true,
		campaignAtOnce: d.HasArg("at-once"), logger: zap.NewNop()})
	require.NoError(c.t, err)
	c.members[id] = m
}

// propose takes words; +n, -n and ~n are conf changes that add a voter, remove it, or add a learner.
func (c *cluster) propose(m *simulated, words []string) {
	var ents []*raftpb.Entry
	for _, w := range words {
		e := &raftpb.Entry{Data: []byte(w)}
		if typ, ok := map[byte]raftpb.ConfChangeType{'+': raftpb.ConfChangeAddNode, '-': raftpb.ConfChangeRemoveNode,
			'~': raftpb.ConfChangeAddLearnerNode}[w[0]]; ok {
			id, err := strconv.ParseUint(w[1:], 10, 64)
			require.NoError(c.t, err)
			data, err := proto.Marshal(&raftpb.ConfChange{Type: &typ, NodeId: &id})
			require.NoError(c.t, err)
			e = &raftpb.Entry{Type: raftpb.EntryConfChange.Enum(), Data: data}
		}
		ents = append(ents, e)
	}
	v, replaced := m.propose(ents)
	c.printf("%s", map[verdict]string{accepted: "accepted", retry: "retry", refused: "refused"}[v])
	if len(replaced) > 0 {
		c.printf(", but not %v", replaced)
	}
	c.printf("\n")
}

// ready takes a member's effects, after its campaign if that is due.
func (c *cluster) ready(id uint64, print bool) bool {
	m := c.members[id]
	require.NoError(c.t, m.maybeCampaign())
	eff := m.ready()
	for _, s := range eff.send {
		if print {
			c.printf("send %v to %d\n", s.GetType(), s.GetTo())
		}
		c.network = append(c.network, s)
	}
	for _, w := range eff.write {
		if print {
			c.printf("write %d entries, %d responses\n", len(w.GetEntries()), len(w.GetResponses()))
		}
		m.writes = append(m.writes, w)
	}
	for _, rs := range eff.reads {
		round, ok := roundOf(rs)
		require.True(c.t, ok)
		c.printf("%d: read round %d may answer from index %d\n", id, round, rs.Index)
	}
	if print && eff.leaderChanged {
		c.printf("leader is %d\n", m.soft.Lead)
	}
	return len(eff.send)+len(eff.write) > 0
}

// write makes all durable that a member has to write, as the log writer does.
func (c *cluster) write(id uint64, print bool) bool {
	m := c.members[id]
	writes := m.writes
	m.writes = nil
	for _, w := range writes {
		if w.GetTerm() != 0 {
			m.disk.hs = &raftpb.HardState{Term: w.Term, Vote: w.Vote, Commit: w.Commit}
		}
		if ents := w.GetEntries(); len(ents) > 0 {
			m.disk.ents = append(slices.Clip(m.disk.ents[:ents[0].GetIndex()-1]), ents...)
		}
		if print {
			c.printf("durable: %d entries\n", len(m.disk.ents))
		}
		require.NoError(c.t, m.written(w))
		for _, resp := range w.GetResponses() {
			if resp.GetTo() != id {
				c.network = append(c.network, resp)
			}
		}
	}
	return len(writes) > 0
}

// apply hands out a batch and applies it, as the applier does.
func (c *cluster) apply(id uint64, print bool) bool {
	m := c.members[id]
	b, ok := m.applied.next()
	if !ok {
		if print {
			c.printf("nothing to apply\n")
		}
		return false
	}
	conf := b.ConfState
	var changes []ConfChange
	for _, e := range b.Entries {
		if print {
			c.printf("%s\n", describe(e))
		}
		if e.GetType() == raftpb.EntryConfChange {
			cc := ConfChange{ConfChange: &raftpb.ConfChange{}}
			require.NoError(c.t, proto.Unmarshal(e.GetData(), cc.ConfChange))
			cc.Rejected = c.reject[cc.GetNodeId()]
			next, err := NextConfState(conf, cc)
			require.NoError(c.t, err)
			conf = next
			changes = append(changes, cc)
		}
	}
	if print {
		c.printf("voters %v -> %v, learners %v\n", b.ConfState.GetVoters(), conf.GetVoters(), conf.GetLearners())
	}
	_, early := m.applied.next()
	require.False(c.t, early && b.endsWithConfChange(), "a batch was handed out before the conf change ahead of it was taken")
	m.engine.applied, m.engine.conf = b.last(), conf
	require.NoError(c.t, m.appliedBatch(b, changes))
	return true
}

func (c *cluster) deliver() bool {
	msgs := c.network
	c.network = nil
	for _, msg := range msgs {
		to := c.members[msg.GetTo()]
		if to == nil || to.down || c.cut[msg.GetFrom()] || c.cut[msg.GetTo()] {
			continue
		}
		require.NoError(c.t, checkMessage(msg))
		to.step(msg)
	}
	return len(msgs) > 0
}

func (c *cluster) ids() []uint64 {
	var ids []uint64
	for id, m := range c.members {
		if !m.down {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (c *cluster) stabilize() {
	for moved := true; moved; {
		moved = false
		for _, id := range c.ids() {
			moved = c.ready(id, false) || moved
			moved = c.write(id, false) || moved
			moved = c.apply(id, false) || moved
		}
		moved = c.deliver() || moved
	}
}

func (c *cluster) status() {
	for _, id := range c.ids() {
		m := c.members[id]
		c.printf("%d: %v lead=%d term=%d commit=%d applied=%d last=%d voters=%v sole=%v\n", id, m.soft.RaftState, m.soft.Lead, m.term,
			m.commit, m.applied.applied, m.tail.last(), m.conf.GetVoters(), m.soleVoterReads())
	}
}

func describe(e *raftpb.Entry) string {
	what := string(e.GetData())
	if e.GetType() == raftpb.EntryConfChange {
		var cc raftpb.ConfChange
		if err := proto.Unmarshal(e.GetData(), &cc); err != nil {
			return err.Error()
		}
		what = fmt.Sprintf("%v %d", cc.GetType(), cc.GetNodeId())
	}
	if what == "" {
		what = "(empty)"
	}
	return fmt.Sprintf("%d/%d %s", e.GetTerm(), e.GetIndex(), what)
}
