package consensus

import (
	"fmt"
	"sync"

	"go.etcd.io/raft/v3/raftpb"
)

// checkpoint says that the engine is durable up to index.
type checkpoint struct {
	position
	conf *raftpb.ConfState
	keep uint64 // entries to keep in memory below index
}

// logWriter owns the Log: one goroutine that writes what the loop queues, all that waits at once, and puts it into
// the inbox when it is durable.
//
// Its queue needs no bound of its own: raft hands a leader's entries out only up to maxUncommittedBytes, and a
// follower's only in answer to messages, whose number is bounded.
type logWriter struct {
	log       Log
	transport Transport // nil with one member
	self      uint64
	inbox     *inbox
	counters  *Counters
	wake      chan struct{} // of capacity 1
	spare     []*raftpb.Message
	marked    checkpoint

	mu struct {
		sync.Mutex
		msgs       []*raftpb.Message
		idle       bool // the last of msgs is, see recorded
		recorded   recorded
		checkpoint checkpoint
		stopped    bool
	}
}

func newLogWriter(log Log, transport Transport, self uint64, in *inbox, counters *Counters, hs *raftpb.HardState) *logWriter {
	w := &logWriter{log: log, transport: transport, self: self, inbox: in, counters: counters, wake: make(chan struct{}, 1)}
	w.mu.recorded = recordedBy(hs)
	return w
}

// recorded is the term and vote that the log has, or has been given. What the log writer writes at once, and what the
// loop takes for a write that somebody waits for, follows from it.
type recorded struct{ term, vote uint64 }

func recordedBy(hs *raftpb.HardState) recorded { return recorded{hs.GetTerm(), hs.GetVote()} }

// idle takes note of a MsgStorageAppend and says whether it only moves the commit index, and nobody waits for it.
func (r *recorded) idle(m *raftpb.Message) bool {
	idle := len(m.GetEntries()) == 0 && len(m.GetResponses()) == 0 && m.GetSnapshot() == nil &&
		m.GetTerm() == r.term && m.GetVote() == r.vote
	if m.GetTerm() != 0 {
		r.term, r.vote = m.GetTerm(), m.GetVote()
	}
	return idle
}

func (w *logWriter) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// add queues MsgStorageAppend messages. One that only moves the commit index does not wake the writer: it costs
// nothing when it goes with the next entries, and a restart does not need it.
func (w *logWriter) add(msgs []*raftpb.Message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range msgs {
		idle := w.mu.recorded.idle(m)
		if idle && w.mu.idle {
			w.mu.msgs[len(w.mu.msgs)-1] = m
			continue
		}
		w.mu.msgs = append(w.mu.msgs, m)
		w.mu.idle = idle
		if !idle {
			w.poke()
		}
	}
}

// mark queues a checkpoint. A later one stands for those before it.
func (w *logWriter) mark(cp checkpoint) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if cp.index > w.mu.checkpoint.index {
		w.mu.checkpoint = cp
		w.poke()
	}
}

// stop lets run end when it has written what is queued.
func (w *logWriter) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.stopped = true
	w.poke()
}

// take returns all that is queued. spare is used for what comes next.
func (w *logWriter) take(spare []*raftpb.Message) (msgs []*raftpb.Message, cp checkpoint, stopped bool) {
	clear(spare)
	w.mu.Lock()
	defer w.mu.Unlock()
	msgs, cp, stopped = w.mu.msgs, w.mu.checkpoint, w.mu.stopped
	w.mu.msgs, w.mu.idle = spare[:0], false
	return msgs, cp, stopped
}

// run writes until stop or an error of the log.
func (w *logWriter) run() error {
	for range w.wake {
		if stopped, err := w.writeQueued(); stopped || err != nil {
			return err
		}
	}
	return nil
}

// writeQueued writes all that is queued, and says whether stop was called before.
func (w *logWriter) writeQueued() (stopped bool, err error) {
	msgs, cp, stopped := w.take(w.spare)
	w.spare = msgs
	if err := w.write(msgs); err != nil {
		return stopped, err
	}
	if cp.index > w.marked.index {
		if err := w.checkpoint(cp); err != nil {
			return stopped, err
		}
		w.marked = cp
	}
	return stopped, nil
}

// write makes messages durable, with one Append for all whose entries follow on each other, and answers them.
func (w *logWriter) write(msgs []*raftpb.Message) error {
	if len(msgs) == 0 {
		return nil
	}
	var hs *raftpb.HardState
	var ents []*raftpb.Entry
	for _, m := range msgs {
		if meta := m.GetSnapshot().GetMetadata(); meta.GetIndex() > 0 {
			if err := w.append(hs, ents); err != nil {
				return err
			}
			hs, ents = nil, nil
			if err := w.log.Install(meta.GetIndex(), meta.GetTerm(), meta.GetConfState()); err != nil {
				return fmt.Errorf("record in the raft log a snapshot at index %d: %w", meta.GetIndex(), err)
			}
			// What the engine was before has nothing more to say about the log.
			w.marked.position = position{meta.GetIndex(), meta.GetTerm()}
		}
		next := m.GetEntries()
		if len(ents) > 0 && len(next) > 0 && next[0].GetIndex() != ents[len(ents)-1].GetIndex()+1 {
			if err := w.append(hs, ents); err != nil {
				return err
			}
			hs, ents = nil, nil
		}
		if len(ents) == 0 {
			ents = next[:len(next):len(next)]
		} else {
			ents = append(ents, next...)
		}
		if m.GetTerm() != 0 {
			hs = &raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
		}
	}
	if err := w.append(hs, ents); err != nil {
		return err
	}
	w.inbox.written(msgs)
	w.answer(msgs)
	return nil
}

func (w *logWriter) append(hs *raftpb.HardState, ents []*raftpb.Entry) error {
	if hs == nil && len(ents) == 0 {
		return nil
	}
	if err := w.log.Append(hs, ents); err != nil {
		return fmt.Errorf("write the raft log: %w", err)
	}
	w.counters.Appends.Add(1)
	w.counters.AppendedEntries.Add(uint64(len(ents)))
	return nil
}

// answer sends what other members wait for: it had to wait for our disk.
func (w *logWriter) answer(msgs []*raftpb.Message) {
	if w.transport == nil {
		return
	}
	var out []*raftpb.Message
	for _, m := range msgs {
		for _, resp := range m.GetResponses() {
			if resp.GetTo() != w.self {
				out = append(out, resp)
			}
		}
	}
	if len(out) > 0 {
		w.transport.Send(out)
	}
}

func (w *logWriter) checkpoint(cp checkpoint) error {
	if err := w.log.Mark(cp.index, cp.term, cp.conf); err != nil {
		return fmt.Errorf("record in the raft log that the engine is durable up to index %d: %w", cp.index, err)
	}
	if err := w.log.Release(cp.index); err != nil {
		return fmt.Errorf("release the raft log up to index %d: %w", cp.index, err)
	}
	w.inbox.released(cp)
	return nil
}
