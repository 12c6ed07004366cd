package node

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// switched is the engine that a member runs on, which a snapshot of another member replaces by another one. What
// reads by revision does not notice: a revision holds the same bytes wherever it is still there.
//
// An engine that was replaced is closed when the last call and the last snapshot of it have ended.
type switched struct {
	current atomic.Pointer[heldEngine]
	retired sync.WaitGroup

	mu struct {
		sync.Mutex
		closed bool
	}
}

// heldEngine counts who uses an engine. The owner counts as one, until it is replaced.
type heldEngine struct {
	engine.Engine
	users atomic.Int64
	idle  chan struct{} // closed when nobody uses it any more
}

func newSwitched(eng engine.Engine) *switched {
	s := &switched{}
	s.current.Store(hold(eng))
	return s
}

func hold(eng engine.Engine) *heldEngine {
	h := &heldEngine{Engine: eng, idle: make(chan struct{})}
	h.users.Store(1)
	return h
}

// acquire returns the current engine, which stays open until release.
func (s *switched) acquire() *heldEngine {
	for {
		h := s.current.Load()
		if n := h.users.Load(); n > 0 && h.users.CompareAndSwap(n, n+1) {
			return h
		}
	}
}

func (h *heldEngine) release() {
	if h.users.Add(-1) == 0 {
		close(h.idle)
	}
}

// replace makes another engine the current one. closed is called when the one before is closed.
func (s *switched) replace(eng engine.Engine, closed func(error)) {
	old := s.current.Swap(hold(eng))
	old.release()
	s.retired.Go(func() {
		<-old.idle
		closed(old.Close())
	})
}

// Commit implements engine.Engine. Nothing is committed while the engine is replaced: both are the applier's.
func (s *switched) Commit(b *engine.Batch) error {
	h := s.acquire()
	defer h.release()
	return h.Commit(b)
}

// Get implements engine.Engine.
func (s *switched) Get(key []byte) ([]byte, error) {
	h := s.acquire()
	defer h.release()
	return h.Get(key)
}

// Snapshot implements engine.Engine.
func (s *switched) Snapshot() (engine.Snapshot, error) {
	h := s.acquire()
	sn, err := h.Snapshot()
	if err != nil {
		h.release()
		return nil, err
	}
	return &heldSnapshot{Snapshot: sn, held: h}, nil
}

// heldSnapshot keeps its engine open.
type heldSnapshot struct {
	engine.Snapshot
	held *heldEngine
	once sync.Once
}

// Close implements engine.Snapshot.
func (s *heldSnapshot) Close() error {
	err := s.Snapshot.Close()
	s.once.Do(s.held.release)
	return err
}

// Flush implements engine.Engine.
func (s *switched) Flush() error {
	h := s.acquire()
	defer h.release()
	return h.Flush()
}

// Durable implements engine.Engine.
func (s *switched) Durable(key []byte) ([]byte, error) {
	h := s.acquire()
	defer h.release()
	return h.Durable(key)
}

// Stats implements engine.Engine.
func (s *switched) Stats() engine.Stats {
	h := s.acquire()
	defer h.release()
	return h.Stats()
}

// errNoCompactor says that the engine reclaims nothing on request.
var errNoCompactor = errors.New("the engine reclaims space by itself")

// Compact implements engine.Compactor.
func (s *switched) Compact() error {
	h := s.acquire()
	defer h.release()
	c, ok := h.Engine.(engine.Compactor)
	if !ok {
		return errNoCompactor
	}
	return c.Compact()
}

// Close implements engine.Engine: also for those that were replaced and are still in use.
func (s *switched) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return engine.ErrClosed
	}
	s.mu.closed = true
	err := s.current.Load().Close()
	s.retired.Wait()
	return err
}
