package consensus

import (
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
)

// ConfChange is a configuration change as the applier has decided on it: taken, or rejected by the rules of
// membership (which are the same on every member).
type ConfChange struct {
	*raftpb.ConfChange
	Rejected bool
}

// Batch is a run of committed entries for the applier: ascending indexes without a gap, following on the batch before
// it. A conf change entry is always the last of its batch. The entries are shared and must not be changed.
//
// A batch with a Snapshot has no entries: the state is to be replaced by the one that was received with the message
// of this index. It is durable and recorded in the log by then. What follows, follows on it.
type Batch struct {
	Entries  []*raftpb.Entry
	Snapshot *raftpb.SnapshotMetadata
	// ConfState is the configuration before the first entry. The configuration after the last one is the same, unless
	// that is a conf change; then it is NextConfState's. It must not be changed.
	ConfState *raftpb.ConfState

	responses []*raftpb.Message // what raft is to be told when the batch is applied
}

func (b Batch) last() uint64 {
	if b.Snapshot != nil {
		return b.Snapshot.GetIndex()
	}
	return b.Entries[len(b.Entries)-1].GetIndex()
}

func (b Batch) endsWithConfChange() bool {
	return b.Snapshot == nil && isConfChange(b.Entries[len(b.Entries)-1])
}

func (b Batch) empty() bool { return len(b.Entries) == 0 && b.Snapshot == nil }

// applyQueue holds the committed entries that are not applied yet and cuts them into batches. The bytes in it are
// bounded by maxApplyingBytes, because raft hands out no more before it hears of applies.
type applyQueue struct {
	msgs  []*raftpb.Message // MsgStorageApply, not wholly handed out
	taken int               // entries of msgs[0] already handed out

	// snapshot waits to be handed out behind the messages that were there before it; behind is how many.
	snapshot *raftpb.SnapshotMetadata
	behind   int

	handed []uint64 // last index of each batch handed out and not yet acknowledged, in order
	gated  bool     // the newest batch handed out changes the configuration and is not acknowledged yet

	// conf is the configuration after everything acknowledged.
	conf        *raftpb.ConfState
	applied     uint64
	appliedTerm uint64 // of the entry at applied; zero until the first batch
}

func (q *applyQueue) push(m *raftpb.Message) {
	if len(m.GetEntries()) > 0 {
		q.msgs = append(q.msgs, m)
	}
}

// install queues a snapshot behind what waits. A newer one replaces one that was not handed out.
func (q *applyQueue) install(meta *raftpb.SnapshotMetadata) { q.snapshot, q.behind = meta, len(q.msgs) }

// nextSnapshot returns the batch of a snapshot whose turn it is.
func (q *applyQueue) nextSnapshot() Batch {
	b := Batch{Snapshot: q.snapshot, ConfState: q.conf}
	q.snapshot, q.gated = nil, true
	q.handed = append(q.handed, b.last())
	return b
}

// next returns the next batch: all that waits, up to the first conf change. Nothing is handed out after a conf change
// before that is acknowledged, because ConfState is not known until then.
func (q *applyQueue) next() (Batch, bool) {
	if !q.gated && q.snapshot != nil && q.behind == 0 {
		return q.nextSnapshot(), true
	}
	if q.gated || len(q.msgs) == 0 {
		return Batch{}, false
	}
	b := Batch{ConfState: q.conf}
	for len(q.msgs) > 0 && !q.gated && (q.snapshot == nil || q.behind > 0) {
		m := q.msgs[0]
		ents := m.GetEntries()[q.taken:]
		for i, e := range ents {
			if isConfChange(e) {
				ents, q.gated = ents[:i+1], true
				break
			}
		}
		q.taken += len(ents)
		if b.Entries == nil {
			b.Entries = ents[:len(ents):len(ents)]
		} else {
			b.Entries = append(b.Entries, ents...)
		}
		if q.taken < len(m.GetEntries()) {
			break
		}
		b.responses = append(b.responses, m.GetResponses()...)
		q.msgs[0], q.msgs, q.taken = nil, q.msgs[1:], 0
		q.behind = max(q.behind-1, 0)
	}
	q.handed = append(q.handed, b.last())
	return b, true
}

// acknowledge takes a batch back. It fails if batches come back out of order or twice, or without the decision on the
// conf change at the end: the applier's state is then not known.
func (q *applyQueue) acknowledge(b Batch, changes []ConfChange) error {
	if b.empty() || len(q.handed) == 0 || q.handed[0] != b.last() {
		return fmt.Errorf("%w: a batch of %d entries came back from the applier that was not the next one expected (applied: %d)",
			ErrImpossible, len(b.Entries), q.applied)
	}
	want := 0
	if b.endsWithConfChange() {
		want = 1
	}
	if len(changes) != want {
		return fmt.Errorf("%w: the applier decided on %d conf changes in the batch up to index %d, which has %d",
			ErrImpossible, len(changes), b.last(), want)
	}
	for _, cc := range changes {
		next, err := NextConfState(q.conf, cc)
		if err != nil {
			return fmt.Errorf("conf change at index %d: %w", b.last(), err)
		}
		q.conf, q.gated = next, false
	}
	q.handed = q.handed[1:]
	q.applied = b.last()
	if b.Snapshot != nil {
		q.appliedTerm, q.conf, q.gated = b.Snapshot.GetTerm(), cloneConfState(b.Snapshot.GetConfState()), false
		return nil
	}
	q.appliedTerm = b.Entries[len(b.Entries)-1].GetTerm()
	return nil
}
