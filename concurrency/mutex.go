package concurrency

import (
	"context"
	"fmt"
)

// Mutex is a lock that one holder has at a time, given in the order of arrival.
type Mutex struct {
	session *Session
	prefix  string
}

// NewMutex returns the lock of a name. Its keys are below name and a slash.
func NewMutex(s *Session, name string) *Mutex { return &Mutex{session: s, prefix: name + "/"} }

// Lock waits for the lock. When ctx or the session ends first, it leaves the line and returns why.
func (m *Mutex) Lock(ctx context.Context) (*Hold, error) {
	h, err := m.session.acquire(ctx, m.prefix, m.prefix, "")
	if err != nil {
		return nil, fmt.Errorf("lock %q: %w", m.prefix, err)
	}
	return h, nil
}

// TryLock takes the lock if nobody holds it or waits for it; otherwise the error is ErrLocked.
func (m *Mutex) TryLock(ctx context.Context) (*Hold, error) {
	h, err := m.session.tryAcquire(ctx, m.prefix, m.prefix)
	if err != nil {
		return nil, fmt.Errorf("try to lock %q: %w", m.prefix, err)
	}
	return h, nil
}
