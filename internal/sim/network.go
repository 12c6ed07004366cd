package sim

import (
	"context"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// link is a way from one member to another.
type link struct{ from, to uint64 }

// network carries messages between members. Each may be lost, late, twice, and behind one that was sent later.
type network struct {
	*world
	cut  map[link]bool
	loss int // percent of messages that are lost
	slow int // percent of messages that take long
	twin int // percent of messages that arrive twice
}

// delay is how long a message takes.
func (n *network) delay() time.Duration {
	if n.chance(n.slow) {
		return n.between(5*time.Millisecond, 800*time.Millisecond)
	}
	return n.between(100*time.Microsecond, 2*time.Millisecond)
}

// lost says whether something sent now will not arrive.
func (n *network) lost(from, to uint64) bool {
	return n.cut[link{from, to}] || n.chance(n.loss)
}

// carrier is the network as a member sees it.
type carrier struct{ *member }

// Send implements consensus.Transport.
func (c carrier) Send(msgs []*raftpb.Message) {
	for _, m := range msgs {
		c.world.says(c.member, m)
		if m.GetType() == raftpb.MsgSnap {
			c.sendSnapshot(m)
			continue
		}
		c.sendMessage(m)
	}
}

func (c carrier) sendMessage(m *raftpb.Message) {
	w := c.world
	to := w.byID(m.GetTo())
	if to == nil || w.net.lost(c.id, to.id) {
		c.in(w.between(time.Millisecond, 100*time.Millisecond), func() { c.node.ReportUnreachable(m.GetTo()) })
		return
	}
	w.after(w.net.delay(), func() { to.receive(m) })
	// A proposal that is forwarded is the one message that raft does not bear twice; a transport repeats none.
	if w.chance(w.net.twin) && m.GetType() != raftpb.MsgProp {
		w.after(w.net.delay(), func() { to.receive(m) })
	}
}

// receive steps a message that has arrived.
func (m *member) receive(msg *raftpb.Message) {
	m.in(0, func() {
		if m.removedFrom(msg.GetFrom()) {
			return
		}
		if err := m.node.Step(context.Background(), msg); err != nil {
			m.world.violated("failure", "%s cannot step a message: %v", m.name, err)
		}
	})
}

// removedFrom says whether a message is of a member that was removed: the transport refuses those.
func (m *member) removedFrom(id uint64) bool {
	v := m.state.View()
	defer v.Release()
	return v.Members.Removed(id)
}

// sendSnapshot makes the snapshot that a message speaks of from what is applied now, and sends it, as internal/node
// does with internal/peer.
func (c carrier) sendSnapshot(promise *raftpb.Message) {
	w := c.world
	content, err := c.eng.Snapshot()
	if err != nil {
		w.violated("failure", "%s cannot make a snapshot: %v", c.name, err)
		return
	}
	applied := c.state.Applied()
	m := proto.CloneOf(promise)
	m.Snapshot = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		Index: &applied.Index, Term: &applied.Term, ConfState: proto.CloneOf(applied.Conf)}}
	c.node.Hold(m.GetTo(), applied.Index)
	to := w.byID(m.GetTo())
	w.note("%s sends a snapshot at %d to %x", c.name, applied.Index, m.GetTo())
	lost := to == nil || w.net.lost(c.id, to.id)
	took := w.net.delay() + w.between(10*time.Millisecond, 400*time.Millisecond)
	report := func(failed bool) {
		c.in(w.net.delay(), func() {
			c.node.LetGo(m.GetTo())
			c.node.ReportSnapshot(m.GetTo(), failed)
		})
	}
	if lost {
		c.in(took, func() { report(true) })
		return
	}
	w.after(took, func() {
		if !to.up || w.net.lost(c.id, to.id) {
			report(true)
			return
		}
		to.receiveSnapshot(m, content, report)
	})
}

// receiveSnapshot makes the state of a snapshot durable and then steps its message.
func (m *member) receiveSnapshot(msg *raftpb.Message, content engine.Snapshot, report func(failed bool)) {
	life, ended := m.lives, false
	m.in(m.diskDelay(), func() {
		ended = true
		if m.removedFrom(msg.GetFrom()) {
			report(true)
			return
		}
		index := msg.GetSnapshot().GetMetadata().GetIndex()
		m.disk.sides[index] = content
		err := m.node.Step(context.Background(), msg)
		if err != nil {
			m.world.violated("failure", "%s cannot step a snapshot: %v", m.name, err)
		}
		report(err != nil)
	})
	// A stream breaks with its receiver, which its sender notices, however long a disk hangs before that.
	var look func()
	look = func() {
		switch {
		case ended:
		case m.up && m.lives == life:
			m.world.after(5*time.Second, look)
		default:
			report(true)
		}
	}
	m.world.after(5*time.Second, look)
}
