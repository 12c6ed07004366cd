package consensus

import (
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// entryOverhead is what an entry is taken to cost in memory beside its data: the struct, its index, term and type, and
// the pointer to it.
const entryOverhead = 160

// tail is the raft.Storage of a member: the durable log's newest part, in memory. The loop owns it, so it has no
// lock: entries are appended when the loop learns that they are durable, before raft does.
//
//	  first            entries[0]                          last
//	┌────────────────┬──────────────────────────────────────────┐
//	│ index, term    │ first.index+1 ...                        │
//	└────────────────┴──────────────────────────────────────────┘
//
// It is bounded by compaction. The entries kept below a checkpoint are bounded by the number that the caller asks for
// and by tailKeepBytes. Those above it are bounded by how often the caller makes one; should it make none any more,
// Propose refuses when their data exceeds Config.MaxUnflushedBytes. What was queued by then still comes, at most
// maxQueuedBytes and maxUncommittedBytes, and so does what another member leads to commit: its own bound holds that up.
type tail struct {
	hard    *raftpb.HardState
	conf    *raftpb.ConfState
	first   position // the entry before entries[0]: only its term is known
	entries []*raftpb.Entry
	bytes   uint64 // of entries, as entrySize counts

	flushed   uint64 // the engine is durable up to here
	unflushed uint64 // bytes of data in the entries above flushed

	// state is what a member that lags behind first is told that it will get, nil if nobody sends snapshots: the
	// position that is applied, with its configuration. What is sent may be newer.
	sends bool
	state *raftpb.SnapshotMetadata
	// holds are the members to whom a snapshot is on its way: what follows on it must still be there when it has
	// arrived. For each the index from which on entries are kept.
	holds map[uint64]uint64
}

// position names an entry of the log.
type position struct{ index, term uint64 }

// tailKeepBytes bounds the memory of the entries kept below a checkpoint for members that lag. It is one segment of
// etcd's log; a member further behind than that is cheaper to serve with a snapshot.
const tailKeepBytes = 64 << 20

// maxHeldBytes bounds what is kept for members to whom a snapshot is on its way. Beyond it they may need another
// snapshot, which is better than this member running out of memory.
const maxHeldBytes = 256 << 20

func newTail(hs *raftpb.HardState, cs *raftpb.ConfState, first position, ents []*raftpb.Entry) *tail {
	t := &tail{hard: hs, conf: cs, first: first, entries: ents[:len(ents):len(ents)]}
	for _, e := range ents {
		t.bytes += entrySize(e)
		t.unflushed += uint64(len(e.GetData()))
	}
	t.flushed = first.index
	return t
}

// flush notes that the engine is durable up to index.
func (t *tail) flush(index uint64) {
	for index = min(index, t.last()); t.flushed < index; t.flushed++ {
		t.unflushed -= uint64(len(t.entries[t.flushed-t.first.index].GetData()))
	}
}

func entrySize(e *raftpb.Entry) uint64 { return uint64(len(e.GetData())) + entryOverhead }

// encodedSize is at least what the entry encodes to: type 2, term and index 11 each, the data's tag and length 6. It
// stands in for proto.Size, which costs more than the rest of Entries.
func encodedSize(e *raftpb.Entry) uint64 { return uint64(len(e.GetData())) + 30 }

func (t *tail) last() uint64 { return t.first.index + uint64(len(t.entries)) }

// append adds durable entries, replacing what is at or above the first of them. It fails if they would leave a gap.
func (t *tail) append(ents []*raftpb.Entry) error {
	if len(ents) == 0 {
		return nil
	}
	from := ents[0].GetIndex()
	if from <= t.first.index || from > t.last()+1 {
		return fmt.Errorf("append entry %d to a log of entries %d to %d: out of order", from, t.first.index+1, t.last())
	}
	keep := from - t.first.index - 1
	for _, e := range t.entries[keep:] {
		t.bytes -= entrySize(e)
		if e.GetIndex() > t.flushed {
			t.unflushed -= uint64(len(e.GetData()))
		}
	}
	if keep < uint64(len(t.entries)) {
		// raft may still hold slices of what is replaced.
		t.entries = t.entries[:keep:keep]
	}
	t.entries = append(t.entries, ents...)
	for _, e := range ents {
		t.bytes += entrySize(e)
		if e.GetIndex() > t.flushed {
			t.unflushed += uint64(len(e.GetData()))
		}
	}
	return nil
}

// offer notes what is applied, which is what a snapshot would hold at least.
func (t *tail) offer(applied uint64, conf *raftpb.ConfState) {
	if !t.sends {
		return
	}
	term, err := t.Term(applied)
	if err != nil {
		return // older than the tail: the offer before stands
	}
	t.state = &raftpb.SnapshotMetadata{Index: &applied, Term: &term, ConfState: conf}
}

// install begins the log anew behind a snapshot.
func (t *tail) install(first position) {
	t.first, t.entries, t.bytes = first, nil, 0
	t.flushed, t.unflushed = first.index, 0
}

// hold keeps the entries above index for a member, until let go.
func (t *tail) hold(member, index uint64) {
	if t.holds == nil {
		t.holds = map[uint64]uint64{}
	}
	t.holds[member] = index
}

func (t *tail) letGo(member uint64) { delete(t.holds, member) }

// compact forgets entries at or below index-keep, and more, up to index, while those kept below index cost more than
// tailKeepBytes. index must be flushed.
func (t *tail) compact(index, keep uint64) {
	index = min(index, t.flushed)
	if t.bytes <= maxHeldBytes {
		for _, held := range t.holds {
			index = min(index, held)
		}
	}
	if index <= t.first.index {
		return
	}
	to := t.first.index
	if keep < index {
		to = max(to, index-keep)
	}
	var kept uint64
	for i := index; i > to; i-- {
		kept += entrySize(t.entries[i-t.first.index-1])
		if kept > tailKeepBytes {
			to = i
			break
		}
	}
	n := to - t.first.index
	if n == 0 {
		return
	}
	for _, e := range t.entries[:n] {
		t.bytes -= entrySize(e)
	}
	t.first = position{index: to, term: t.entries[n-1].GetTerm()}
	// A new array, so that the old entries can be freed and slices that raft holds stay whole.
	t.entries = append(make([]*raftpb.Entry, 0, len(t.entries)-int(n)), t.entries[n:]...)
}

// InitialState implements raft.Storage.
func (t *tail) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	return t.hard, t.conf, nil
}

// Entries implements raft.Storage.
func (t *tail) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	if lo <= t.first.index {
		return nil, raft.ErrCompacted
	}
	if hi > t.last()+1 || lo >= hi {
		return nil, raft.ErrUnavailable
	}
	ents := t.entries[lo-t.first.index-1 : hi-t.first.index-1]
	var size uint64
	for i, e := range ents {
		size += encodedSize(e)
		if size > maxSize && i > 0 {
			ents = ents[:i]
			break
		}
	}
	return ents[:len(ents):len(ents)], nil
}

// Term implements raft.Storage.
func (t *tail) Term(i uint64) (uint64, error) {
	switch {
	case i < t.first.index:
		return 0, raft.ErrCompacted
	case i == t.first.index:
		return t.first.term, nil
	case i > t.last():
		return 0, raft.ErrUnavailable
	}
	return t.entries[i-t.first.index-1].GetTerm(), nil
}

// LastIndex implements raft.Storage.
func (t *tail) LastIndex() (uint64, error) { return t.last(), nil }

// FirstIndex implements raft.Storage.
func (t *tail) FirstIndex() (uint64, error) { return t.first.index + 1, nil }

// Snapshot implements raft.Storage, for a member that lags behind the tail. It is a promise: the transport makes
// the snapshot when it gets the message. Without one raft asks again later.
func (t *tail) Snapshot() (*raftpb.Snapshot, error) {
	if t.state == nil {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return &raftpb.Snapshot{Metadata: t.state}, nil
}
