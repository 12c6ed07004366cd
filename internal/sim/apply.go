package sim

import (
	"fmt"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/state"
	"github.com/dolmen-io/dolmen/internal/watch"
)

// removeBatch is how many revisions a step of compaction removes: few, so that crashes come between.
const removeBatch = 20

// apply applies a batch and tells everybody whom it concerns, in the order of internal/node's applier.
func (m *member) apply(b consensus.Batch) {
	w := m.world
	if b.Snapshot != nil {
		m.install(b)
		return
	}
	entries, err := decode(b.Entries)
	if err != nil {
		w.violated("failure", "%s: %v", m.name, err)
		return
	}
	for _, e := range b.Entries {
		w.committed(m, e)
	}
	if w.options.breaks.reorder {
		reorder(entries)
	}
	turn, err := m.state.Apply(entries)
	if err != nil {
		w.violated("failure", "%s cannot apply: %v", m.name, err)
		return
	}
	m.expiry.Apply(turn.Leases, m.now())
	w.applied(m, entries, turn)
	m.publish(turn.Events, turn.View.KV.Current())
	for _, o := range turn.Outcomes {
		if done := m.pending[o.ID]; done != nil {
			delete(m.pending, o.ID)
			done(o.Result, nil)
		}
	}
	m.reached(turn.View.Applied.Index)
	m.node.Applied(b, turn.Confs)
	if w.options.breaks.bitRot && m == w.members[0] {
		m.rot()
	}
	w.hashed(m)
	m.removeSome()
	if m.unflushed += len(entries); m.unflushed >= w.shape.flushEvery {
		m.flush()
	}
}

// decode reads the entries of the log as internal/node does.
func decode(in []*raftpb.Entry) ([]state.Entry, error) {
	out := make([]state.Entry, len(in))
	for i, e := range in {
		out[i] = state.Entry{Index: e.GetIndex(), Term: e.GetTerm(), Data: e.GetData()}
		if e.GetType() != raftpb.EntryConfChange {
			continue
		}
		out[i].Conf = &raftpb.ConfChange{}
		if err := proto.Unmarshal(e.GetData(), out[i].Conf); err != nil {
			return nil, fmt.Errorf("entry %d is no membership change: %w", e.GetIndex(), err)
		}
	}
	return out, nil
}

// reorder swaps what the first two requests of a turn say.
func reorder(entries []state.Entry) {
	if len(entries) >= 2 && entries[0].Conf == nil && entries[1].Conf == nil {
		entries[0].Data, entries[1].Data = entries[1].Data, entries[0].Data
	}
}

// rot changes what is in the engine.
func (m *member) rot() {
	var b engine.Batch
	b.Put(engine.TableKey(engine.TableCluster, []byte("rot")), nil)
	m.did(m.eng.Commit(&b))
}

// publish hands events to watchers and has the hub dispatch them.
func (m *member) publish(events []watch.Event, current int64) {
	m.hub.Publish(events, current)
	if err := m.hub.Run(&oneRound{}); err != nil {
		m.world.violated("failure", "%s cannot dispatch to its watchers: %v", m.name, err)
	}
}

// reached lets those go on who waited for an index.
func (m *member) reached(index uint64) {
	waits := m.waits
	m.waits = nil
	for _, x := range waits {
		if x.index <= index {
			x.done()
		} else {
			m.waits = append(m.waits, x)
		}
	}
}

// whenApplied calls done when index is applied.
func (m *member) whenApplied(index uint64, done func()) {
	if m.state.Applied().Index >= index {
		done()
		return
	}
	m.waits = append(m.waits, wait{index, done})
}

// removeSome takes steps of compaction, with pauses between, until all is removed.
func (m *member) removeSome() {
	if m.removing || !m.state.RemovalDue() {
		return
	}
	m.removing = true
	m.in(m.world.between(time.Millisecond, 10*time.Millisecond), func() {
		m.removing = false
		if _, err := m.state.RemoveSome(removeBatch, true); err != nil {
			m.world.violated("failure", "%s cannot remove what was compacted: %v", m.name, err)
			return
		}
		m.world.hashed(m)
		m.removeSome()
	})
}

// flush makes the engine durable and lets the log go below that.
func (m *member) flush() {
	if m.flushing {
		return
	}
	m.flushing, m.unflushed = true, 0
	eng := m.eng
	finish := eng.beginFlush()
	m.in(10*m.diskDelay(), func() {
		m.flushing = false
		err := finish()
		durable, derr := state.Durable(eng)
		if err != nil || derr != nil {
			m.world.violated("failure", "%s cannot flush: %v, %v", m.name, err, derr)
			return
		}
		m.world.flushed(m, durable.Index)
		if durable.Index > m.checkpoint {
			m.node.Checkpoint(durable.Index, durable.Term, durable.Conf, m.world.shape.keep)
			m.checkpoint = durable.Index
		}
	})
}

// install switches to the state of a snapshot that was received.
func (m *member) install(b consensus.Batch) {
	w := m.world
	index := b.Snapshot.GetIndex()
	if err := m.switchTo(index); err != nil {
		w.violated("failure", "%s cannot install a snapshot: %v", m.name, err)
		return
	}
	if _, err := m.state.Reload(); err != nil {
		w.violated("failure", "%s cannot open the state of a snapshot: %v", m.name, err)
		return
	}
	m.expiry.Replace(m.state.LoadedLeases(), m.now())
	if at := m.state.Applied().Index; at != index {
		w.violated("failure", "%s has installed a snapshot at index %d that is at %d", m.name, index, at)
		return
	}
	w.result.Installs++
	w.note("%s installs a snapshot at %d", m.name, index)
	m.checkpoint, m.unflushed = index, 0
	w.flushed(m, index)
	current, _ := m.state.Revisions()
	m.publish(nil, current)
	m.reached(index)
	m.node.Applied(b, nil)
	w.hashed(m)
	m.removeSome()
}

// switchTo puts a received state in the place of the engine, in one durable step.
func (m *member) switchTo(index uint64) error {
	content := m.disk.sides[index]
	if content == nil {
		return fmt.Errorf("no state was received for the snapshot at index %d", index)
	}
	if err := m.disk.engine.replace(content); err != nil {
		return err
	}
	for i := range m.disk.sides {
		if i <= index {
			delete(m.disk.sides, i)
		}
	}
	return nil
}

// finishInstall does at a start what a crash has cut short: a received state is switched to if the log records it.
// Others are of snapshots that raft never took.
func (m *member) finishInstall() error {
	applied, err := state.Durable(m.disk.engine)
	if err != nil {
		return err
	}
	for _, mark := range m.disk.log.marks() {
		if mark.index > applied.Index && m.disk.sides[mark.index] != nil {
			if err := m.switchTo(mark.index); err != nil {
				return err
			}
			applied.Index = mark.index
			m.world.note("%s finishes the install of a snapshot at %d", m.name, mark.index)
		}
	}
	clear(m.disk.sides)
	return nil
}

// history is the state of a member as its watchers read it: the one that it has now.
type history struct{ *member }

// Events implements watch.History.
func (h history) Events(from, to int64, key, end []byte, fn func(watch.Event) bool) error {
	if h.world.options.breaks.shortHistory {
		whole := fn
		fn = func(e watch.Event) bool { return e.Main%5 == 0 || whole(e) }
	}
	return h.state.Events(from, to, key, end, fn)
}

// Revisions implements watch.History.
func (h history) Revisions() (current, compacted int64) { return h.state.Revisions() }
