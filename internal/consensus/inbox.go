package consensus

import (
	"sync"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// The bounds of what waits for the loop. etcd refuses proposals when more than 5000 entries are committed and not
// applied; ours counts those that are not in the log yet and must be no tighter.
const (
	maxQueuedProposals = 16384
	maxQueuedBytes     = 64 << 20 // one maxUncommittedBytes; a single larger proposal is taken if it is alone
	maxQueuedReads     = 65536    // no data, a function each
	maxQueuedMessages  = 4096     // from other members, who repeat what is lost
	maxQueuedCommands  = 1024
)

// arrivals is what has come in since the loop's last turn.
type arrivals struct {
	proposals []Proposal
	reads     []func(uint64, error)
	messages  []*raftpb.Message
	commands  []command
	applied   []appliedBatch
	written   []*raftpb.Message // MsgStorageAppend that are durable, in order
	released  checkpoint        // the newest one that the log has recorded
}

func (a *arrivals) reset() {
	clear(a.proposals)
	clear(a.reads)
	clear(a.messages)
	clear(a.commands)
	clear(a.applied)
	clear(a.written)
	*a = arrivals{proposals: a.proposals[:0], reads: a.reads[:0], messages: a.messages[:0],
		commands: a.commands[:0], applied: a.applied[:0], written: a.written[:0]}
}

type appliedBatch struct {
	batch   Batch
	changes []ConfChange
}

// command is a rare request to raft.
type command struct {
	kind   commandKind
	member uint64
	failed bool                           // of a snapshot
	index  uint64                         // from which on entries are held
	done   func(map[uint64]uint64, error) // of a question about progress
}

type commandKind int

const (
	transferLeader commandKind = iota
	reportUnreachable
	reportSnapshot
	askProgress
	holdEntries
	letEntriesGo
)

// aboutSnapshot says that the command tells of a snapshot for another member. There are a few of them for each that is
// sent, one at a time to a member, and nobody tells raft again: they are taken beyond any bound.
func (c command) aboutSnapshot() bool {
	return c.kind == reportSnapshot || c.kind == holdEntries || c.kind == letEntriesGo
}

// inbox is where everything for the loop arrives. Putting something in never blocks and wakes the loop. What clients
// and other members put in is bounded here. What the applier and the log writer put in answers what the loop gave
// them, and is bounded by that.
type inbox struct {
	wake chan struct{} // of capacity 1: a token means that the loop has something to look at

	mu struct {
		sync.Mutex
		arrivals
		// proposals, bytes and reads that wait here or with the loop, not in raft yet
		queued, queuedBytes, queuedReads int
		stopped                          bool
		full                             bool // the tail is
		failure                          error
	}
}

func newInbox() *inbox { return &inbox{wake: make(chan struct{}, 1)} }

func (in *inbox) poke() {
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

func (in *inbox) propose(p Proposal) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.mu.stopped:
		return ErrStopped
	case !in.admitLocked(1, len(p.Data)):
		return ErrBusy
	}
	in.mu.proposals = append(in.mu.proposals, p)
	in.poke()
	return nil
}

// admit counts proposals that came to the loop another way among those that wait, if the bounds allow it.
func (in *inbox) admit(proposals, bytes int) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.admitLocked(proposals, bytes)
}

func (in *inbox) admitLocked(proposals, bytes int) bool {
	if in.mu.full || in.mu.queued >= maxQueuedProposals || in.mu.queued > 0 && in.mu.queuedBytes+bytes > maxQueuedBytes {
		return false
	}
	in.mu.queued += proposals
	in.mu.queuedBytes += bytes
	return true
}

func (in *inbox) read(done func(uint64, error)) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.mu.stopped:
		return ErrStopped
	case in.mu.queuedReads >= maxQueuedReads:
		return ErrBusy
	}
	in.mu.queuedReads++
	in.mu.reads = append(in.mu.reads, done)
	in.poke()
	return nil
}

func (in *inbox) message(m *raftpb.Message) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.mu.stopped:
		return ErrStopped
	case len(in.mu.messages) >= maxQueuedMessages:
		return ErrBusy
	}
	in.mu.messages = append(in.mu.messages, m)
	in.poke()
	return nil
}

func (in *inbox) command(c command) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.mu.stopped:
		return ErrStopped
	case len(in.mu.commands) >= maxQueuedCommands && !c.aboutSnapshot():
		return ErrBusy
	}
	in.mu.commands = append(in.mu.commands, c)
	in.poke()
	return nil
}

func (in *inbox) applied(b Batch, changes []ConfChange) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.mu.stopped {
		return
	}
	in.mu.applied = append(in.mu.applied, appliedBatch{batch: b, changes: changes})
	in.poke()
}

func (in *inbox) written(msgs []*raftpb.Message) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.mu.written = append(in.mu.written, msgs...)
	in.poke()
}

func (in *inbox) released(cp checkpoint) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.mu.released = cp
	in.poke()
}

// fail ends the loop with err.
func (in *inbox) fail(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.mu.failure == nil {
		in.mu.failure = err
	}
	in.poke()
}

// take returns all arrivals, or the failure. spare, which the caller has done with, is used for the next ones.
func (in *inbox) take(spare arrivals) (arrivals, error) {
	spare.reset()
	in.mu.Lock()
	defer in.mu.Unlock()
	got := in.mu.arrivals
	in.mu.arrivals = spare
	return got, in.mu.failure
}

// free says that proposals and reads no longer wait.
func (in *inbox) free(proposals, bytes, reads int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.mu.queued -= proposals
	in.mu.queuedBytes -= bytes
	in.mu.queuedReads -= reads
}

// refuse says whether proposals are refused until more of the log is flushed.
func (in *inbox) refuse(full bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.mu.full = full
}

// stop refuses everything from now on and returns what had arrived.
func (in *inbox) stop() arrivals {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.mu.stopped = true
	got := in.mu.arrivals
	in.mu.arrivals = arrivals{}
	return got
}

func (in *inbox) pending() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.mu.queued
}

// run carries out a command.
func (c command) run(core *core) {
	rn := core.rn
	switch c.kind {
	case transferLeader:
		rn.TransferLeader(c.member)
	case reportUnreachable:
		rn.ReportUnreachable(c.member)
	case holdEntries:
		core.tail.hold(c.member, c.index)
	case letEntriesGo:
		core.tail.letGo(c.member)
	case reportSnapshot:
		status := raft.SnapshotFinish
		if c.failed {
			status = raft.SnapshotFailure
		}
		rn.ReportSnapshot(c.member, status)
	case askProgress: // the loop answers it
	}
}

// matches returns up to which index each member's log is known to equal ours, nil unless we lead.
func matches(rn *raft.RawNode) map[uint64]uint64 {
	if rn.BasicStatus().RaftState != raft.StateLeader {
		return nil
	}
	all := map[uint64]uint64{}
	rn.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) { all[id] = p.Match })
	return all
}
