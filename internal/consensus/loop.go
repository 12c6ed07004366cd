package consensus

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

const (
	// maxTurnBytes bounds what one turn gives to raft. A turn that writes this much gains nothing from more, and the
	// turns after it overlap with its fsync.
	maxTurnBytes = 8 << 20

	// readRetry is etcd's interval after which an unanswered read-index round is repeated.
	readRetry = 500 * time.Millisecond

	// waitBase and two election timeouts are what a request may wait for a leader or an answer, as in etcd.
	waitBase = 5 * time.Second
)

// loop owns raft. Its methods run on one goroutine, that of Node.Run or of the Hand.
type loop struct {
	node    *Node
	core    *core
	now     uint64 // ticks since Run
	wait    uint64 // ticks that something may wait
	waiting []waitingProposal
	reads   readRounds
	full    bool // more is unflushed than may be, as the inbox was told
	in      arrivals

	disk         stall
	nextHandOver uint64 // the tick from which on leadership may be handed over because of the disk

	questions []func(map[uint64]uint64, error) // about progress; they came as commands, which are bounded
}

type waitingProposal struct {
	Proposal
	since uint64
}

func newLoop(n *Node, c *core, firstRound uint64, hs *raftpb.HardState) *loop {
	ticks := func(d time.Duration) uint64 { return max(1, uint64(d/n.cfg.TickInterval)) }
	wait := ticks(waitBase) + 2*uint64(n.cfg.ElectionTicks)
	bound := n.cfg.StallTicks
	if bound == 0 {
		bound = n.cfg.ElectionTicks
	}
	return &loop{node: n, core: c, wait: wait, reads: readRounds{nextID: firstRound, retry: ticks(readRetry), deadline: wait},
		disk: stall{bound: uint64(bound), recorded: recordedBy(hs)}}
}

// Run runs the loop and the log writer until ctx ends, then returns nil, or until a failure, which it returns. Both
// have stopped when it returns, everything queued for the log is written, the Log is closed, and so is Committed.
// It can be called once.
func (n *Node) Run(ctx context.Context) error {
	if !n.started.CompareAndSwap(false, true) {
		return errors.New("run consensus: it runs or ran already")
	}
	written := make(chan error, 1)
	go func() {
		err := n.writer.run()
		if err != nil {
			n.inbox.fail(err)
		}
		written <- err
	}()
	err := n.loop.run(ctx)
	n.loop.stop()
	n.writer.stop()
	if werr := <-written; !errors.Is(err, werr) {
		err = errors.Join(err, werr)
	}
	if cerr := n.cfg.Log.Close(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("close the raft log: %w", cerr))
	}
	close(n.committed)
	return err
}

func (l *loop) run(ctx context.Context) (err error) {
	defer l.recovered(&err)
	ticker := time.NewTicker(l.node.cfg.TickInterval)
	defer ticker.Stop()
	l.node.inbox.poke()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			l.tick()
		case <-l.node.inbox.wake:
		}
		if err := l.takeTurn(); err != nil {
			return err
		}
	}
}

// recovered turns a panic of raft into the error that stops the member.
func (l *loop) recovered(err *error) {
	if r := recover(); r != nil {
		*err = panicError(r)
		l.node.cfg.Logger.Error("raft is in an impossible state; stopping the member",
			zap.Error(*err), zap.ByteString("stack", debug.Stack()))
	}
}

// takeTurn takes a turn with all that has come in.
func (l *loop) takeTurn() error {
	in, err := l.node.inbox.take(l.in)
	l.in = in
	l.accept(&in)
	if err != nil {
		return err
	}
	return l.turn(&in)
}

// tick advances raft's clock and ours.
func (l *loop) tick() {
	l.now++
	l.lookAtDisk()
	l.core.tick()
	l.handOver()
	for _, id := range l.reads.due(l.now) {
		l.node.counters.SlowReadRounds.Add(1)
		l.core.readIndex(id)
	}
	l.fail(l.reads.expired(l.now), ErrTimeout)
	n := 0
	for n < len(l.waiting) && l.now-l.waiting[n].since >= l.wait {
		n++
	}
	if n > 0 {
		l.drop(l.waiting[:n], ErrTimeout)
		l.waiting = append([]waitingProposal(nil), l.waiting[n:]...)
	}
}

// accept takes over what somebody waits for, before anything can fail: stop ends all of it.
func (l *loop) accept(in *arrivals) {
	for _, p := range in.proposals {
		l.waiting = append(l.waiting, waitingProposal{Proposal: p, since: l.now})
	}
	l.reads.add(l.now, in.reads)
	for _, c := range in.commands {
		if c.kind == askProgress {
			l.questions = append(l.questions, c.done)
		}
	}
}

// turn takes what has come in and hands out what follows from it.
func (l *loop) turn(in *arrivals) error {
	l.node.counters.Turns.Add(1)
	if len(in.written) > 0 {
		l.disk.written(l.now, in.written)
		l.lookAtDisk()
	}
	for _, m := range in.written {
		if err := l.core.written(m); err != nil {
			return err
		}
	}
	for _, a := range in.applied {
		if err := l.core.appliedBatch(a.batch, a.changes); err != nil {
			return err
		}
	}
	if cp := in.released; cp.index > 0 {
		l.core.tail.flush(cp.index)
		l.core.tail.compact(l.core.compactable(cp.index), cp.keep)
	}
	l.takeMessages(in.messages)
	for _, c := range in.commands {
		c.run(l.core)
	}
	for _, done := range l.questions {
		done(matches(l.core.rn), nil)
	}
	l.questions = nil
	if err := l.core.maybeCampaign(); err != nil {
		return err
	}
	l.propose()
	if len(l.reads.waiting) > 0 && l.core.canRead() {
		if id, ok := l.reads.start(l.now); ok {
			l.node.counters.ReadRounds.Add(1)
			l.core.readIndex(id)
		}
	}
	l.handOut(l.core.ready())
	return nil
}

// handOut passes a turn's effects on. The status goes first: nobody may learn through an effect of what it does not
// show yet.
func (l *loop) handOut(eff effects) {
	n := l.node
	l.publish()
	if full := l.core.tail.unflushed > n.cfg.MaxUnflushedBytes; full != l.full {
		l.full = full
		n.inbox.refuse(full)
	}
	if eff.leaderChanged {
		n.counters.LeaderChanges.Add(eff.leaders)
		next := make(chan struct{})
		close(*n.leader.Swap(&next))
		l.fail(l.reads.abandoned(), ErrLeaderChanged)
	}
	if len(eff.send) > 0 && n.cfg.Transport != nil {
		n.cfg.Transport.Send(eff.send)
	}
	if len(eff.write) > 0 {
		l.disk.handed(l.now, eff.write)
		n.writer.add(eff.write)
	}
	for len(n.committed) < cap(n.committed) { // nobody else sends
		b, ok := l.core.applied.next()
		if !ok {
			break
		}
		n.committed <- b
	}
	for _, rs := range eff.reads {
		if id, ok := roundOf(rs); ok {
			readers := l.reads.answered(id)
			n.inbox.free(0, 0, len(readers))
			for _, r := range readers {
				r.done(rs.Index, nil)
			}
		}
	}
	// This turn may have brought the leader, the commit or the end of a round that something waits for.
	if len(l.reads.waiting) > 0 && len(l.reads.rounds) < maxReadRounds && l.core.canRead() {
		n.inbox.poke()
	}
	if eff.leaderChanged && len(l.waiting) > 0 {
		n.inbox.poke()
	}
}

// publish stores the status if it has changed.
func (l *loop) publish() {
	c := l.core
	s := Status{ID: c.id, Lead: c.soft.Lead, Term: c.term, Commit: c.commit, Applied: c.applied.applied,
		RaftState: c.soft.RaftState, Voters: c.conf.GetVoters(), SoleVoter: c.soleVoterReads(), DiskStalled: c.stalled}
	for _, id := range c.conf.GetLearners() {
		s.IsLearner = s.IsLearner || id == c.id
	}
	old := l.node.status.Load()
	if old != nil {
		s.Elected = old.Elected
	}
	if now := l.node.cfg.Now; now != nil && s.Lead != raft.None && (old == nil || s.Lead != old.Lead) {
		s.Elected = now()
	}
	if old == nil || !s.equal(old) {
		changed := s // the only allocation, and only of a change
		l.node.status.Store(&changed)
	}
}

// dropBound drops the proposals that are bound to a term in which this member does not lead.
func (l *loop) dropBound() {
	bound := func(p waitingProposal) bool { return p.Term != 0 && !l.core.leadsIn(p.Term) }
	if !slices.ContainsFunc(l.waiting, bound) {
		return
	}
	var kept, dropped []waitingProposal
	for _, p := range l.waiting {
		if bound(p) {
			dropped = append(dropped, p)
		} else {
			kept = append(kept, p)
		}
	}
	l.waiting = kept
	l.drop(dropped, ErrLeaderChanged)
}

// propose offers what waits to raft, as much as a turn may, in one message.
func (l *loop) propose() {
	l.dropBound()
	if len(l.waiting) == 0 || !l.core.hasLeader() {
		return
	}
	taken, kept, more := l.choose()
	if len(taken) == 0 {
		return
	}
	all := l.waiting
	if offered, withdrawn := makeOffers(taken); len(withdrawn) > 0 {
		l.drop(withdrawn, ErrTimeout)
		taken, all = offered, append(slices.Clone(offered), kept...)
		if len(taken) == 0 {
			l.waiting = kept
			l.node.inbox.poke() // for what is kept
			return
		}
	}
	backing := make([]raftpb.Entry, len(taken))
	ents := make([]*raftpb.Entry, len(taken))
	bytes := 0
	for i, p := range taken {
		e := &backing[i]
		if p.Type != raftpb.EntryNormal {
			e.Type = p.Type.Enum()
		}
		e.Data = p.Data
		ents[i] = e
		bytes += len(p.Data)
	}
	// Should raft panic, nothing may be called dropped that could be in the log.
	l.waiting = nil
	v, replaced := l.core.propose(ents)
	switch v {
	case retry:
		takeBack(taken)
		l.waiting = all // until the next apply, leader or tick makes a turn
		return
	case refused:
		l.waiting = kept
		l.drop(taken, raft.ErrProposalDropped)
		return
	}
	for i := len(replaced) - 1; i >= 0; i-- {
		p := taken[replaced[i]]
		bytes -= len(p.Data)
		takeBack([]waitingProposal{p})
		kept = append([]waitingProposal{p}, kept...)
	}
	count := len(taken) - len(replaced)
	l.node.counters.Proposed.Add(uint64(count))
	l.node.inbox.free(count, bytes, 0)
	l.waiting = kept
	if more {
		l.node.inbox.poke()
	}
}

// choose splits what waits into what is offered in this turn and what is not: no more than raft has room for, which
// grows with the next apply. At most one conf change is offered: raft takes no second one before the first is
// applied. more says that a turn should follow at once. If nothing is taken, kept is not meant.
func (l *loop) choose() (taken, kept []waitingProposal, more bool) {
	conf, room := !l.core.holdsConfChanges(), l.core.room()
	bytes := 0
	for i, p := range l.waiting {
		if p.Type != raftpb.EntryNormal {
			if !conf {
				kept = append(kept, p)
				continue
			}
			conf = false
		}
		bytes += len(p.Data)
		if full := uint64(bytes) > room; full || bytes > maxTurnBytes && len(taken) > 0 {
			if len(taken) == 0 {
				return nil, nil, false // and spare the copy: this may go on for many turns
			}
			return taken, append(kept, l.waiting[i:]...), !full
		}
		taken = append(taken, p)
	}
	return taken, kept, false
}

// drop tells proposals that they never entered the log.
func (l *loop) drop(ps []waitingProposal, err error) {
	bytes := 0
	for _, p := range ps {
		bytes += len(p.Data)
		if p.Dropped != nil {
			p.Dropped(err)
		}
	}
	l.node.counters.ProposalsDropped.Add(uint64(len(ps)))
	l.node.inbox.free(len(ps), bytes, 0)
}

// fail ends reads with err.
func (l *loop) fail(rs []reader, err error) {
	if len(rs) == 0 {
		return
	}
	for _, r := range rs {
		r.done(0, err)
	}
	l.node.counters.ReadsFailed.Add(uint64(len(rs)))
	l.node.inbox.free(0, 0, len(rs))
}

// stop ends everything that waits.
func (l *loop) stop() {
	in := l.node.inbox.stop()
	l.accept(&in)
	for _, done := range l.questions {
		done(nil, ErrStopped)
	}
	l.questions = nil
	l.drop(l.waiting, ErrStopped)
	l.waiting = nil
	l.fail(l.reads.abandoned(), ErrStopped)
	waiting := l.reads.waiting
	l.reads.waiting = nil
	l.fail(waiting, ErrStopped)
}
