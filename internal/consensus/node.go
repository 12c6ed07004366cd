package consensus

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// Errors of this package. Errors of the Log are returned by Run, wrapped.
var (
	// ErrBusy says that a queue is full: try again later.
	ErrBusy = errors.New("consensus: too many requests are waiting")
	// ErrStopped says that the node does not run any more.
	ErrStopped = errors.New("consensus: stopped")
	// ErrLeaderChanged says that the leader that was asked for a read index, or whose term a proposal was bound to, is
	// leader no more: ask again.
	ErrLeaderChanged = errors.New("consensus: the leader changed")
	// ErrTimeout says that something waited for a leader or for an answer longer than a request may.
	ErrTimeout = errors.New("consensus: timed out")
	// ErrImpossible says that raft, or the applier, is in a state that must not be: the member stops.
	ErrImpossible = errors.New("consensus: impossible state")
)

// Peer is a member of an initial cluster as raft knows it: an ID, and what its first entry says about it.
type Peer = raft.Peer

// Config is all that a Node needs. The durable log's content is handed over as values; the Log itself is only
// written from then on.
type Config struct {
	ID  uint64 // of this member, not 0
	Log Log

	// HardState and Entries are what the log held, the entries following on First without a gap. First is the
	// mark at which the log was opened, zero for a new log.
	HardState *raftpb.HardState
	Entries   []*raftpb.Entry
	First     First

	// Applied is the index that the engine has applied, ConfState the configuration stored with it.
	Applied   uint64
	ConfState *raftpb.ConfState

	// Bootstrap is the initial cluster for a member of a new one. It is used only if the log has no hard state: it is
	// new, or its very first write was torn by a crash (its entries are then written again).
	Bootstrap []Peer

	TickInterval   time.Duration
	ElectionTicks  int // at least HeartbeatTicks+1
	HeartbeatTicks int // at least 1
	PreVote        bool
	// StallTicks is for how long the Log may be silent before this member neither leads nor campaigns if it can be
	// helped. 0 is ElectionTicks.
	StallTicks int
	// AdvanceTicks lets a sole voter campaign at once instead of waiting for an election timeout (etcd's
	// initial-election-tick-advance).
	AdvanceTicks bool

	// MaxUnflushedBytes bounds the log's data above the newest checkpoint, which is in memory: beyond it Propose
	// refuses, because flushing the engine hangs or is too slow. It must be well above what is applied between two
	// checkpoints, else nothing would ever ask for the next one. 0 is defaultMaxUnflushedBytes.
	MaxUnflushedBytes uint64

	// Now, if not nil, is the clock of Status.Elected.
	Now func() time.Time

	Transport Transport // nil for a single member
	Logger    *zap.Logger
}

// defaultMaxUnflushedBytes must not be reached by any sound policy of flushing. The laziest one writes an engine in
// memory as a whole when a quarter of it has changed: 2 GiB of log at 8 GiB, the largest database that etcd advises.
const defaultMaxUnflushedBytes = 4 << 30

// First is the position before the first entry.
type First struct{ Index, Term uint64 }

// Proposal is an entry to append. Data is not copied and must not be changed any more.
type Proposal struct {
	Type raftpb.EntryType // EntryNormal, or EntryConfChange with an encoded raftpb.ConfChange
	Data []byte
	// Term, if not 0, is the only term in which the proposal may enter the log, and only through this member as its
	// leader: it rests on what no other leader vouches for. Without it a proposal waits for any leader and is
	// forwarded.
	Term uint64
	// Dropped, if not nil, is called at most once, by the loop, and must not block. It is called only if the proposal
	// certainly never entered the log: with raft.ErrProposalDropped during a leader transfer, ErrTimeout if no leader
	// appeared in time, ErrLeaderChanged if Term is over, ErrStopped. That it is not called says nothing: a leader that loses its office may lose the
	// entry too.
	Dropped func(error)
	// Offer, if not nil, lets the proposer take the proposal back. It belongs to this proposal alone.
	Offer *Offer
}

// Node is one member's part in the consensus. All methods may be called by any goroutine and none of them blocks,
// except Run.
type Node struct {
	cfg       Config
	loop      *loop
	inbox     *inbox
	writer    *logWriter
	committed chan Batch
	status    atomic.Pointer[Status]
	leader    atomic.Pointer[chan struct{}]
	started   atomic.Bool
	counters  Counters
}

// Open checks cfg and builds a node. It starts nothing and writes nothing.
func Open(cfg Config) (*Node, error) {
	hs, err := cfg.check()
	if err != nil {
		return nil, err
	}
	if raft.IsEmptyHardState(hs) {
		cfg.Entries = nil
	} else {
		cfg.Bootstrap = nil
	}
	if cfg.MaxUnflushedBytes == 0 {
		cfg.MaxUnflushedBytes = defaultMaxUnflushedBytes
	}
	t := newTail(hs, cloneConfState(cfg.ConfState), position{cfg.First.Index, cfg.First.Term}, cfg.Entries)
	t.flush(cfg.Applied) // the engine came back with it
	t.sends = cfg.Transport != nil
	t.offer(cfg.Applied, t.conf)
	c, err := newCore(coreConfig{
		id:             cfg.ID,
		tail:           t,
		applied:        cfg.Applied,
		bootstrap:      cfg.Bootstrap,
		electionTicks:  cfg.ElectionTicks,
		heartbeatTicks: cfg.HeartbeatTicks,
		preVote:        cfg.PreVote,
		campaignAtOnce: cfg.AdvanceTicks,
		logger:         cfg.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("open consensus: %w", err)
	}
	var seed [8]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, fmt.Errorf("open consensus: %w", err)
	}
	// Of Committed's capacity: one batch waits while one is applied; what comes meanwhile grows the next.
	n := &Node{cfg: cfg, inbox: newInbox(), committed: make(chan Batch, 1)}
	n.writer = newLogWriter(cfg.Log, cfg.Transport, cfg.ID, n.inbox, &n.counters, hs)
	// A round's id must not repeat over a restart: an answer on its way to the member that was must not be taken
	// for one to the member that is.
	n.loop = newLoop(n, c, binary.BigEndian.Uint64(seed[:])>>1, hs)
	changed := make(chan struct{})
	n.leader.Store(&changed)
	n.loop.publish()
	return n, nil
}

// check returns the hard state to start from: the log may not know the newest commit index, the engine's applied
// index is committed too.
func (cfg *Config) check() (*raftpb.HardState, error) {
	switch {
	case cfg.ID == raft.None, raft.IsLocalMsgTarget(cfg.ID):
		return nil, fmt.Errorf("open consensus: %x cannot be a member id", cfg.ID)
	case cfg.Log == nil, cfg.Logger == nil:
		return nil, errors.New("open consensus: a log and a logger are needed")
	case cfg.TickInterval <= 0:
		return nil, fmt.Errorf("open consensus: tick interval is %v, must be positive", cfg.TickInterval)
	}
	last := cfg.First.Index
	for _, e := range cfg.Entries {
		if e.GetIndex() != last+1 {
			return nil, fmt.Errorf("open consensus: the raft log has entry %d where %d is expected: it is corrupted; "+
				"restore the member from a backup or from the other members", e.GetIndex(), last+1)
		}
		last++
	}
	lastTerm := cfg.First.Term
	if n := len(cfg.Entries); n > 0 {
		lastTerm = cfg.Entries[n-1].GetTerm()
	}
	hs := &raftpb.HardState{Term: new(cfg.HardState.GetTerm()), Vote: new(cfg.HardState.GetVote()),
		Commit: new(max(cfg.HardState.GetCommit(), cfg.Applied))}
	if raft.IsEmptyHardState(cfg.HardState) {
		switch {
		case cfg.Applied > 0:
			return nil, fmt.Errorf("open consensus: the engine has applied index %d but the raft log has no state: "+
				"the log was lost or belongs to another member; restore the member from a backup or from the other members", cfg.Applied)
		case len(cfg.Entries) > 0 && len(cfg.Bootstrap) == 0:
			return nil, errors.New("open consensus: the raft log has entries but no state, as after a crash in its first write; " +
				"start the member with its initial cluster again, or remove its data directory")
		}
		return hs, nil
	}
	switch {
	case cfg.First.Index > cfg.Applied:
		return nil, fmt.Errorf("open consensus: the raft log begins after index %d but the engine has applied only up to %d: "+
			"the engine is older than the log; restore both together", cfg.First.Index, cfg.Applied)
	case last < cfg.Applied:
		return nil, fmt.Errorf("open consensus: the raft log ends at index %d but the engine has applied up to %d: "+
			"the log has lost its end; restore the member from a backup or from the other members", last, cfg.Applied)
	case cfg.HardState.GetCommit() > last:
		return nil, fmt.Errorf("open consensus: the raft log ends at index %d but says that it is committed up to %d: "+
			"it is corrupted; restore the member from a backup or from the other members", last, cfg.HardState.GetCommit())
	}
	if lastTerm > hs.GetTerm() {
		// A crash has torn an append between its entries and its hard state. The member was in that term; it had
		// told nobody, so it has no vote in it.
		hs.Term, hs.Vote = &lastTerm, new(uint64)
	}
	return hs, nil
}

// Propose queues an entry. It returns ErrBusy if too many wait or too much is unflushed, ErrStopped after the end of
// Run, another error if the proposal is malformed; Dropped is not called then. Without a leader, proposals wait for one.
func (n *Node) Propose(p Proposal) error {
	switch p.Type {
	case raftpb.EntryNormal:
	case raftpb.EntryConfChange:
		if err := proto.Unmarshal(p.Data, &raftpb.ConfChange{}); err != nil {
			return fmt.Errorf("propose a conf change: %w", err)
		}
	default:
		return fmt.Errorf("propose: entry type %v is not in use", p.Type)
	}
	err := n.inbox.propose(p)
	if errors.Is(err, ErrBusy) {
		n.counters.ProposalsRefused.Add(1)
	}
	return err
}

// ReadIndex asks for an index such that a state that has applied it reflects every write acknowledged before the
// call. done is called exactly once: by the loop, when it must not block, or before ReadIndex returns. Its error is
// ErrBusy, ErrLeaderChanged, ErrTimeout or ErrStopped.
func (n *Node) ReadIndex(done func(index uint64, err error)) {
	if err := n.inbox.read(done); err != nil {
		done(0, err)
	}
}

// Committed returns the channel of batches to apply, in order. It is closed when Run ends. The bytes of all batches
// that were received or wait are bounded by maxApplyingBytes, except that a single entry may be larger.
func (n *Node) Committed() <-chan Batch { return n.committed }

// Applied says that a batch is applied. Batches are given back in the order in which they came. changes holds the
// decision on the conf change at the batch's end, and is empty if there is none there.
func (n *Node) Applied(b Batch, changes []ConfChange) { n.inbox.applied(b, changes) }

// Checkpoint says that the engine is durable up to index, whose entry has this term and after which cs is the
// configuration. The log writer records it and releases the log below; keep entries below index stay in memory for
// members that lag. A failure to record it ends Run. What is queued before Run's context ends is still recorded.
func (n *Node) Checkpoint(index, term uint64, cs *raftpb.ConfState, keep uint64) {
	n.writer.mark(checkpoint{position: position{index: index, term: term}, conf: cloneConfState(cs), keep: keep})
}

// Step takes a message from another member. The state that a MsgSnap speaks of must be durable beside the log by
// then; if raft takes it, it comes back as a Batch. It returns an error if the message can be from no correct member,
// ErrBusy if too many wait, ErrStopped, or the context's error.
func (n *Node) Step(ctx context.Context, m *raftpb.Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := checkMessage(m); err != nil {
		return fmt.Errorf("step a message from member %x: %w", m.GetFrom(), err)
	}
	return n.inbox.message(m)
}

// TransferLeader asks raft to hand leadership to a member. Status and LeaderChanged tell whether it did.
func (n *Node) TransferLeader(id uint64) {
	_ = n.inbox.command(command{kind: transferLeader, member: id})
}

// Progress asks up to which index each member's log is known to match this one's; the answer is nil unless this member
// leads. What was handed to the node before, and the conf changes that Applied brought, are taken by then. done is
// called once, by the loop, when it must not block, or before Progress returns. Its error is ErrBusy or ErrStopped.
func (n *Node) Progress(done func(matches map[uint64]uint64, err error)) {
	if err := n.inbox.command(command{kind: askProgress, done: done}); err != nil {
		done(nil, err)
	}
}

// ReportUnreachable says that a message to a member was not delivered.
func (n *Node) ReportUnreachable(id uint64) {
	_ = n.inbox.command(command{kind: reportUnreachable, member: id}) // raft learns of it by itself, later
}

// ReportSnapshot says whether a snapshot has reached a member.
func (n *Node) ReportSnapshot(id uint64, failed bool) {
	_ = n.inbox.command(command{kind: reportSnapshot, member: id, failed: failed})
}

// Hold keeps the entries above index in memory, whatever Checkpoint says, until LetGo: a snapshot that ends at index
// is on its way to a member, and what follows on it must be there when it has arrived.
func (n *Node) Hold(member, index uint64) {
	_ = n.inbox.command(command{kind: holdEntries, member: member, index: index}) // nothing is sent after the end
}

// LetGo ends a Hold.
func (n *Node) LetGo(member uint64) {
	_ = n.inbox.command(command{kind: letEntriesGo, member: member}) // nothing is held after the end
}

// Status returns the newest published status: one atomic load.
func (n *Node) Status() Status { return *n.status.Load() }

// LeaderChanged returns a channel that is closed at the next change of the leader, to another or to none. Status
// knows of the change by then.
func (n *Node) LeaderChanged() <-chan struct{} { return *n.leader.Load() }

// Counters returns the node's counters.
func (n *Node) Counters() *Counters { return &n.counters }

// ProposalsPending returns the number of proposals that wait to enter the log.
func (n *Node) ProposalsPending() int { return n.inbox.pending() }
