package sim

import (
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/state"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// logCheck holds that there is one log: the entry of an index is the same for everybody who applies it, a term has one
// leader, nobody votes twice in a term, and what was durable at a member, or what it has answered for, is there again when
// it comes back.
type logCheck struct {
	*world
	entries []logEntry // by index
	newest  uint64     // index that anybody has applied
	leaders map[uint64]uint64
	members map[uint64]*durable
	// requests are those that anybody has applied.
	requests map[uint64]bool
}

// logEntry is what an entry was when it was first applied.
type logEntry struct{ term, sum uint64 }

// durable is what a member must know after a crash.
type durable struct {
	term, flushed uint64
	vote          uint64 // in term
}

func newLogCheck(w *world) logCheck {
	return logCheck{world: w, leaders: map[uint64]uint64{}, members: map[uint64]*durable{}, requests: map[uint64]bool{}}
}

func (c *logCheck) of(m *member) *durable {
	if c.members[m.id] == nil {
		c.members[m.id] = &durable{}
	}
	return c.members[m.id]
}

func (c *logCheck) began(m *member, hs *raftpb.HardState) {
	d := c.of(m)
	if at := m.state.Applied().Index; at < d.flushed {
		c.violated("durability", "%s comes back at index %d, it was durable up to %d", m.name, at, d.flushed)
	}
	if hs.GetTerm() < d.term {
		c.violated("durability", "%s comes back in term %d, it was in %d", m.name, hs.GetTerm(), d.term)
	}
}

// says is told of what a member sends: answers for which it needs its disk.
func (c *logCheck) says(m *member, msg *raftpb.Message) {
	d := c.of(m)
	switch msg.GetType() {
	case raftpb.MsgAppResp:
	case raftpb.MsgVoteResp:
		if msg.GetReject() {
			break
		}
		if msg.GetTerm() == d.term && d.vote != 0 && d.vote != msg.GetTo() {
			c.violated("leader", "%s votes for %x in term %d, it has voted for %x", m.name, msg.GetTo(), d.term, d.vote)
		}
		d.term, d.vote = msg.GetTerm(), msg.GetTo()
	default:
		return
	}
	if msg.GetTerm() > d.term {
		d.term, d.vote = msg.GetTerm(), 0
	}
}

func (c *logCheck) flushed(m *member, index uint64) {
	d := c.of(m)
	d.flushed = max(d.flushed, index)
}

func (c *logCheck) leads(m *member, term uint64) {
	id, known := c.leaders[term]
	switch {
	case !known:
		c.leaders[term] = m.id
		c.result.Leaders++
		c.note("%s leads term %d", m.name, term)
	case id != m.id:
		c.violated("leader", "term %d is led by %s and by member %x", term, m.name, id)
	}
}

func (c *logCheck) committed(m *member, e *raftpb.Entry) {
	index := e.GetIndex()
	got := logEntry{term: e.GetTerm(), sum: pairSum([]byte(e.GetType().String()), e.GetData())}
	for uint64(len(c.entries)) <= index {
		c.entries = append(c.entries, logEntry{})
	}
	switch want := c.entries[index]; {
	case want == logEntry{}:
		c.entries[index] = got
		c.request(e)
	case want != got:
		c.violated("log", "%s applies at index %d an entry of term %d, another member has applied one of term %d there",
			m.name, index, got.term, want.term)
	}
}

// request notes that the request in an entry is going to be applied. Nobody proposes one twice.
func (c *logCheck) request(e *raftpb.Entry) {
	if e.GetType() != raftpb.EntryNormal || len(e.GetData()) == 0 {
		return
	}
	req := &pb.InternalRaftRequest{}
	if err := proto.Unmarshal(e.GetData(), req); err != nil {
		c.violated("failure", "entry %d cannot be read: %v", e.GetIndex(), err)
	}
	id := state.RequestID(req)
	if c.requests[id] {
		c.violated("log", "request %d is in the log again at index %d", id, e.GetIndex())
	}
	c.requests[id] = true
	c.leases.entry(id, e.GetTerm())
}

// appliedRequest says whether any member has applied a request.
func (c *logCheck) appliedRequest(id uint64) bool { return c.requests[id] }

func (c *logCheck) applied(m *member, index uint64) {
	c.newest = max(c.newest, index)
	c.note("%s applies up to %d", m.name, index)
}
