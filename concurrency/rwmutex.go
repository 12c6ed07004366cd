package concurrency

import (
	"context"
	"fmt"
)

// RWMutex is a lock that one writer or any number of readers have at a time. Both wait in one line: a
// reader for the writers before it, a writer for all before it. So neither can keep the other out.
type RWMutex struct {
	session            *Session
	all, reads, writes string
}

// NewRWMutex returns the lock of a name. Its keys are below name and a slash.
func NewRWMutex(s *Session, name string) *RWMutex {
	return &RWMutex{session: s, all: name + "/", reads: name + "/read/", writes: name + "/write/"}
}

// Lock waits for the lock as a writer. When ctx or the session ends first, it leaves the line and
// returns why.
func (m *RWMutex) Lock(ctx context.Context) (*Hold, error) {
	h, err := m.session.acquire(ctx, m.writes, m.all, "")
	if err != nil {
		return nil, fmt.Errorf("lock %q for writing: %w", m.all, err)
	}
	return h, nil
}

// RLock waits for the lock as a reader. When ctx or the session ends first, it leaves the line and
// returns why.
func (m *RWMutex) RLock(ctx context.Context) (*Hold, error) {
	h, err := m.session.acquire(ctx, m.reads, m.writes, "")
	if err != nil {
		return nil, fmt.Errorf("lock %q for reading: %w", m.all, err)
	}
	return h, nil
}

// TryLock takes the lock as a writer if nobody holds it or waits for it; otherwise the error is ErrLocked.
func (m *RWMutex) TryLock(ctx context.Context) (*Hold, error) {
	h, err := m.session.tryAcquire(ctx, m.writes, m.all)
	if err != nil {
		return nil, fmt.Errorf("try to lock %q for writing: %w", m.all, err)
	}
	return h, nil
}

// TryRLock takes the lock as a reader if no writer holds it or waits for it; otherwise the error is
// ErrLocked.
func (m *RWMutex) TryRLock(ctx context.Context) (*Hold, error) {
	h, err := m.session.tryAcquire(ctx, m.reads, m.writes)
	if err != nil {
		return nil, fmt.Errorf("try to lock %q for reading: %w", m.all, err)
	}
	return h, nil
}
