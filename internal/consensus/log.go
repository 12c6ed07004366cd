package consensus

import "go.etcd.io/raft/v3/raftpb"

// Log is the durable raft log as the log writer needs it. Only the log writer calls it, one call at a time, from
// Run's start until Run returns. Any error is final: the log writer calls nothing but Close after one, and the
// member stops, because what is on disk is no longer known.
//
// Entries and hard states are shared with raft: they must not be changed, and may be kept.
type Log interface {
	// Append writes a hard state (nil if it has not changed) and entries in ascending order of index without a gap.
	// The first entry may lie at or below the last one appended before: it then replaces everything from its index
	// on. When Append returns nil, everything that raft needs durable is durable: entries, term and vote. A hard
	// state that only moves the commit index may be written later.
	Append(hs *raftpb.HardState, ents []*raftpb.Entry) error

	// Mark records durably that the state up to index is durable in the engine, with the entry's term and the
	// configuration at that index. A restart reads the log from its newest mark that is not above the engine's
	// applied index.
	Mark(index, term uint64, cs *raftpb.ConfState) error

	// Install records durably that a snapshot of another member, durable beside the log, stands for everything up to
	// index, with the term there and the configuration after it, and that index is committed. What the log held before,
	// at or below index and above it, is void: the next entry follows on index. A crash before it returns leaves the
	// log as it was, or installed.
	Install(index, term uint64, cs *raftpb.ConfState) error

	// Release gives back the space of entries at or below index; the log may keep more than that. Never past the
	// last Mark.
	Release(index uint64) error

	// Close makes everything appended durable and releases the files. It is called once, also after an error.
	Close() error
}

// Transport carries messages to other members. It is called by the loop and by the log writer, possibly at once.
type Transport interface {
	// Send queues messages, each for the member in its To field, and never blocks: raft bears lost messages, and a
	// message that cannot be queued is dropped. The messages must not be changed.
	Send(msgs []*raftpb.Message)
}
