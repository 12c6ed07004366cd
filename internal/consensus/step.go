package consensus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// raft's bounds. Together they bound what a member holds between a proposal and its apply; nothing is refused after
// it is committed.
const (
	// maxSizePerMsg is etcd's: large enough to amortise a round trip, small enough that a lost or probing message
	// costs little, and below the 64 MiB that rafthttp reads at most.
	maxSizePerMsg = 1 << 20

	// maxInflightMsgs is etcd's (4096/8): appends on their way to one member.
	maxInflightMsgs = 512

	// maxInflightBytes bounds the memory that a slow member pins: at 100 ms of round trip it still allows 640 MB/s.
	maxInflightBytes = 64 << 20

	// maxApplyingBytes bounds the entries handed to the applier and not yet applied. It is what the queue behind
	// Committed holds at most: large enough that an applier always finds a full batch, small enough that it is
	// applied well within an election timeout.
	maxApplyingBytes = 16 << 20

	// maxUncommittedBytes bounds the entries of a leader that are not applied yet (raft counts until the apply). It
	// exceeds maxApplyingBytes, so that appending goes on while the applier works on all it may hold; beyond it
	// proposals wait in the queue.
	maxUncommittedBytes = 64 << 20
)

// coreConfig is what a core starts from.
type coreConfig struct {
	id                            uint64
	tail                          *tail
	applied                       uint64
	bootstrap                     []raft.Peer // only for a log without a hard state
	electionTicks, heartbeatTicks int
	preVote                       bool
	campaignAtOnce                bool // as the only voter, do not wait for an election timeout
	logger                        *zap.Logger
}

// core is raft with what this package needs to know beside it. It has no goroutine, clock, disk or net: its methods
// take what has happened, ready returns what follows from it.
type core struct {
	id   uint64
	rn   *raft.RawNode
	tail *tail

	soft   raft.SoftState
	term   uint64
	commit uint64

	applied applyQueue
	// conf is the configuration as raft has it. It can be ahead of applied.conf only while the entries of a
	// bootstrap are applied, or those before a snapshot.
	conf *raftpb.ConfState

	// restored is the index of the newest snapshot that raft has taken. From then on raft's configuration is that of
	// the snapshot, also while changes before it are still applied.
	restored uint64

	// campaignAt is the applied index from which on a sole voter campaigns at once; before it, raft might have a
	// configuration change to apply and would refuse. Zero: wait for the election timeout.
	campaignAt uint64
	campaigns  bool

	// committedTerm is the term of the newest committed entry handed out. A leader has committed an entry of its
	// own term when it equals the term; only then is its commit index known to cover all that was ever committed.
	committedTerm uint64

	// heldConfChanges is the index up to which must be applied before conf changes are proposed again. raft keeps
	// one conf change pending at a time and puts an empty entry in the place of a second one. Only a leader holds.
	heldConfChanges uint64

	// uncommitted mirrors raft's own count of payload bytes that it took as the leader of uncommittedTerm and has
	// not applied. raft logs a warning for each proposal over its bound, so none of those may reach it.
	uncommitted     uint64
	uncommittedTerm uint64

	// stalled says that the disk hangs. It is told from outside, where time is.
	stalled bool
}

// effects is what follows from a turn, in the order in which it must be taken: status first, then the rest.
type effects struct {
	leaderChanged bool
	leaders       uint64            // changes to a new leader, not those to none
	send          []*raftpb.Message // to other members, at once
	write         []*raftpb.Message // MsgStorageAppend, in order, for the log writer
	reads         []raft.ReadState
}

func newCore(cfg coreConfig) (c *core, err error) {
	defer func() {
		if r := recover(); r != nil {
			c, err = nil, fmt.Errorf("start raft: %w", panicError(r))
		}
	}()
	initial := cfg.tail.hard
	c = &core{id: cfg.id, tail: cfg.tail, term: initial.GetTerm(), commit: initial.GetCommit(), conf: cfg.tail.conf}
	c.applied = applyQueue{applied: cfg.applied, conf: cfg.tail.conf}
	c.rn, err = raft.NewRawNode(&raft.Config{
		ID:                        cfg.id,
		ElectionTick:              cfg.electionTicks,
		HeartbeatTick:             cfg.heartbeatTicks,
		Storage:                   cfg.tail,
		Applied:                   cfg.applied,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             maxSizePerMsg,
		MaxCommittedSizePerReady:  maxApplyingBytes,
		MaxUncommittedEntriesSize: maxUncommittedBytes,
		MaxInflightMsgs:           maxInflightMsgs,
		MaxInflightBytes:          maxInflightBytes,
		CheckQuorum:               true,
		PreVote:                   cfg.preVote,
		StepDownOnRemoval:         true,
		Logger:                    newRaftLogger(cfg.logger),
	})
	if err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	c.campaigns, c.campaignAt = cfg.campaignAtOnce, c.commit
	if len(cfg.bootstrap) > 0 {
		if err := c.bootstrap(cfg.bootstrap); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// bootstrap begins a log with a conf change entry for each initial member, at term 1, as etcd does.
func (c *core) bootstrap(peers []raft.Peer) error {
	if err := c.rn.Bootstrap(peers); err != nil {
		return fmt.Errorf("bootstrap the raft log: %w", err)
	}
	conf := &raftpb.ConfState{}
	for _, p := range peers {
		conf.Voters = append(conf.Voters, p.ID)
	}
	c.conf = conf
	c.campaignAt = uint64(len(peers))
	return nil
}

// tick advances raft's clock: a leader's always, because the others shall hear from it. Others do not campaign while
// the disk hangs, so for them time stands still.
func (c *core) tick() {
	if c.stalled && c.rn.BasicStatus().RaftState != raft.StateLeader {
		return
	}
	c.rn.Tick()
}

// maybeCampaign makes a sole voter leader without waiting for an election timeout: there is nobody to hear from. It
// tries once.
func (c *core) maybeCampaign() error {
	if !c.campaigns || c.applied.applied < c.campaignAt {
		return nil
	}
	c.campaigns = false
	if !soleVoter(c.conf, c.id) {
		return nil
	}
	if err := c.rn.Campaign(); err != nil {
		return fmt.Errorf("campaign as the only voter: %w", err)
	}
	return nil
}

// step takes a message of another member, or one to ourselves. Errors that only say that the message came too late
// or from nobody we know are not errors of ours, and a forwarded proposal may be lost: its member repeats it.
func (c *core) step(m *raftpb.Message) {
	if m.GetType() == raftpb.MsgProp {
		_ = c.offer(m)
		return
	}
	if c.stalled {
		switch m.GetType() {
		case raftpb.MsgTimeoutNow, raftpb.MsgPreVoteResp, raftpb.MsgVoteResp:
			return // it would lead to a campaign, or to office; who leads gives a transfer up
		}
	}
	_ = c.rn.Step(m)
}

// room returns how many bytes of proposals raft would take now. One proposal alone may be larger than any bound.
func (c *core) room() uint64 {
	st := c.rn.BasicStatus()
	if st.GetTerm() != c.uncommittedTerm {
		// raft counts from zero in each term, and a member leads at most once in a term.
		c.uncommitted, c.uncommittedTerm = 0, st.GetTerm()
	}
	if st.RaftState != raft.StateLeader || c.uncommitted == 0 {
		return math.MaxUint64
	}
	return maxUncommittedBytes - min(c.uncommitted, maxUncommittedBytes)
}

// offer steps a MsgProp if raft has room for it.
func (c *core) offer(m *raftpb.Message) error {
	room := c.room()
	if payload(m.GetEntries()) > room {
		return raft.ErrProposalDropped
	}
	if err := c.rn.Step(m); err != nil {
		return err
	}
	if c.rn.BasicStatus().RaftState == raft.StateLeader {
		c.uncommitted += payload(m.GetEntries()) // after raft has replaced conf changes by empty entries
	}
	return nil
}

// payload is the size of entries as raft bounds it.
func payload(ents []*raftpb.Entry) uint64 {
	var n uint64
	for _, e := range ents {
		n += uint64(len(e.GetData()))
	}
	return n
}

// compactable returns how far of what the engine has made durable the tail may forget. raft hears of an apply only
// after its last batch, and reads everything above what it has heard of again before it campaigns.
func (c *core) compactable(durable uint64) uint64 { return min(durable, c.rn.BasicStatus().Applied) }

// written takes a MsgStorageAppend back after its entries and hard state are durable.
func (c *core) written(m *raftpb.Message) error {
	if meta := m.GetSnapshot().GetMetadata(); meta.GetIndex() > 0 {
		c.install(meta)
	}
	if err := c.tail.append(m.GetEntries()); err != nil {
		return err
	}
	for _, resp := range m.GetResponses() {
		if resp.GetTo() == c.id {
			c.step(resp)
		}
	}
	return nil
}

// install begins the log anew behind a snapshot, which is durable. The applier gets it before anything that
// follows; raft counts it as applied from the response of its message on.
func (c *core) install(meta *raftpb.SnapshotMetadata) {
	c.tail.install(position{meta.GetIndex(), meta.GetTerm()})
	c.applied.install(meta)
	c.conf = cloneConfState(meta.GetConfState())
	c.committedTerm = meta.GetTerm()
}

// appliedBatch takes a batch back after it was applied: first the conf change at its end, then raft learns of the
// apply, because it may count on the configuration of what it believes applied.
func (c *core) appliedBatch(b Batch, changes []ConfChange) error {
	if err := c.applied.acknowledge(b, changes); err != nil {
		return err
	}
	c.tail.offer(c.applied.applied, c.applied.conf)
	for _, cc := range changes {
		if b.last() <= c.restored {
			continue // what became of it is in the snapshot
		}
		next, err := NextConfState(c.conf, cc)
		if err != nil {
			return fmt.Errorf("apply the conf change at index %d: %w", b.last(), err)
		}
		c.conf = next
		if got := c.rn.ApplyConfChange(cc.forRaft()); got != nil {
			c.conf = got
		}
	}
	for _, m := range b.responses {
		c.step(m)
		if m.GetType() == raftpb.MsgStorageApplyResp {
			c.uncommitted -= min(c.uncommitted, payload(m.GetEntries()))
		}
	}
	return nil
}

// verdict says what became of a proposal.
type verdict int

const (
	accepted verdict = iota // it is on its way into the log, here or at the leader
	retry                   // it is not, but may be offered again
	refused                 // it is not and will not be: a leader transfer is under way, or we are no member
)

// hasLeader reports whether a leader was known at the end of the last turn.
func (c *core) hasLeader() bool { return c.soft.Lead != raft.None }

// propose offers entries to raft in one message. It returns the verdict on all of them, and the positions of those
// accepted ones that raft turned into empty entries because another conf change is pending; these may be offered
// again when holdsConfChanges says so.
func (c *core) propose(ents []*raftpb.Entry) (verdict, []int) {
	offered := make([]*raftpb.Entry, len(ents))
	copy(offered, ents)
	err := c.offer(&raftpb.Message{Type: raftpb.MsgProp.Enum(), From: new(c.id), Entries: offered})
	if err != nil {
		st := c.rn.BasicStatus()
		switch {
		case !errors.Is(err, raft.ErrProposalDropped):
			return refused, nil
		case st.Lead == c.id && (st.LeadTransferee != raft.None || !member(c.conf, c.id)):
			return refused, nil
		}
		return retry, nil
	}
	var replaced []int
	conf := false
	for i := range offered {
		conf = conf || isConfChange(ents[i])
		if offered[i] != ents[i] {
			replaced = append(replaced, i)
		}
	}
	if conf && c.rn.BasicStatus().Lead == c.id {
		c.heldConfChanges = noIndexYet
	}
	return accepted, replaced
}

// noIndexYet marks heldConfChanges until ready learns the index of the entries just appended.
const noIndexYet = ^uint64(0)

// holdsConfChanges reports whether conf changes must wait until more is applied.
func (c *core) holdsConfChanges() bool { return c.applied.applied < c.heldConfChanges }

// leadsIn reports whether this member leads now, in this term.
func (c *core) leadsIn(term uint64) bool {
	st := c.rn.BasicStatus()
	return st.RaftState == raft.StateLeader && st.GetTerm() == term
}

// canRead reports whether a read-index round can be answered: a leader is known, and if it is us, an entry of our own
// term is committed. raft itself asks for the latter only when there are other voters; but also the commit index of
// a sole voter that has restarted can lie behind what was acknowledged before, until it has committed anew.
func (c *core) canRead() bool {
	return c.hasLeader() && (c.soft.Lead != c.id || c.committedTerm == c.term)
}

// readIndex starts or repeats the read-index round with this id.
func (c *core) readIndex(round uint64) {
	c.rn.ReadIndex(binary.BigEndian.AppendUint64(nil, round))
}

// roundOf returns the id of the round that a read state answers.
func roundOf(rs raft.ReadState) (uint64, bool) {
	if len(rs.RequestCtx) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(rs.RequestCtx), true
}

// ready returns what follows from all that was taken since the last call.
func (c *core) ready() effects {
	var eff effects
	for c.rn.HasReady() {
		rd := c.rn.Ready()
		if rd.SoftState != nil {
			if rd.Lead != c.soft.Lead {
				eff.leaderChanged = true
				if rd.Lead != raft.None {
					eff.leaders++
				}
				c.heldConfChanges = 0 // the entries it waits for may be gone
			}
			c.soft = *rd.SoftState
		}
		if !raft.IsEmptyHardState(rd.HardState) {
			c.term, c.commit = rd.GetTerm(), rd.GetCommit()
		}
		if n := len(rd.Entries); n > 0 && c.heldConfChanges == noIndexYet {
			c.heldConfChanges = rd.Entries[n-1].GetIndex()
		}
		eff.reads = append(eff.reads, rd.ReadStates...)
		for _, m := range rd.Messages {
			switch m.GetTo() {
			case raft.LocalAppendThread:
				c.restored = max(c.restored, m.GetSnapshot().GetMetadata().GetIndex())
				eff.write = append(eff.write, m)
			case raft.LocalApplyThread:
				c.applied.push(m)
				c.committedTerm = m.GetEntries()[len(m.GetEntries())-1].GetTerm()
			default:
				eff.send = append(eff.send, m)
			}
		}
	}
	return eff
}

// soleVoterReads reports whether a read needs no round: we lead, nobody else votes, and the first entry of our term,
// and with it everything acknowledged before, is applied.
func (c *core) soleVoterReads() bool {
	return c.soft.RaftState == raft.StateLeader && soleVoter(c.conf, c.id) && c.applied.appliedTerm == c.term
}

// panicError is the error for a value recovered from raft.
func panicError(r any) error {
	if p, ok := r.(impossible); ok {
		return fmt.Errorf("%w: %s", ErrImpossible, p.text)
	}
	return fmt.Errorf("%w: %v", ErrImpossible, r)
}
