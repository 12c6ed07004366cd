package consensus

import (
	"errors"
	"fmt"
)

// Hand drives a Node in the place of Run, one step at a time: a tick, a turn of the loop, a write of the log. Nothing
// happens between two calls, no clock is read and nothing waits, so that whoever calls decides what happens when. It
// is for simulations; the steps are those that Run takes.
//
// Its methods belong to one goroutine. The first error of any of them is final, as one that Run returns.
type Hand struct{ node *Node }

// Take returns the Hand of a node that does not run and never will.
func (n *Node) Take() (*Hand, error) {
	if !n.started.CompareAndSwap(false, true) {
		return nil, errors.New("drive consensus by hand: it runs or ran already")
	}
	n.inbox.poke()
	return &Hand{node: n}, nil
}

// Tick lets one tick interval pass and takes the turn that follows on it.
func (h *Hand) Tick() (err error) {
	defer h.node.loop.recovered(&err)
	h.node.loop.tick()
	return h.node.loop.takeTurn()
}

// Turn takes a turn of the loop if it has something to look at, and says whether it had. Committed may hold a batch
// afterwards.
func (h *Hand) Turn() (took bool, err error) {
	defer h.node.loop.recovered(&err)
	select {
	case <-h.node.inbox.wake:
		return true, h.node.loop.takeTurn()
	default:
		return false, nil
	}
}

// LogWaits says whether something is queued that the log writer would write at once.
func (h *Hand) LogWaits() bool { return len(h.node.writer.wake) > 0 }

// MessagesWait says whether what the log writer would write is more than a checkpoint: messages that somebody waits for.
func (h *Hand) MessagesWait() bool {
	w := h.node.writer
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.mu.msgs) > 1 || len(w.mu.msgs) == 1 && !w.mu.idle
}

// WriteLog writes all that is queued for the log, and sends what had to wait for that.
func (h *Hand) WriteLog() error {
	select {
	case <-h.node.writer.wake:
	default:
	}
	_, err := h.node.writer.writeQueued()
	if err != nil {
		h.node.inbox.fail(err)
	}
	return err
}

// Close ends the node as the end of Run's context does.
func (h *Hand) Close() error {
	h.node.loop.stop()
	h.node.writer.stop()
	err := h.WriteLog()
	if cerr := h.node.cfg.Log.Close(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("close the raft log: %w", cerr))
	}
	close(h.node.committed)
	return err
}

// TurnWaits says whether Turn has something to look at.
func (h *Hand) TurnWaits() bool { return len(h.node.inbox.wake) > 0 }
