package rpc

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

const (
	// Failing accepts, which means no descriptors are left, are repeated after a pause between these.
	minPause = 5 * time.Millisecond
	maxPause = time.Second
)

// intake accepts the connections of a listener and prepares each on a goroutine of its own, so that one that
// says nothing holds up no other, and so many of them at a time that idle ones cannot fill the memory.
type intake struct {
	listener net.Listener
	slots    chan struct{} // one element for each connection in mu.pending
	closed   chan struct{}

	mu struct {
		sync.Mutex
		closed  bool
		pending map[net.Conn]struct{}
	}
}

// newIntake prepares at most limit connections at a time; more wait in the listener's queue.
func newIntake(ln net.Listener, limit int) *intake {
	i := &intake{listener: ln, slots: make(chan struct{}, limit), closed: make(chan struct{})}
	i.mu.pending = make(map[net.Conn]struct{})
	return i
}

// run prepares connections until close, or until the listener fails for good, and returns why it ended. No
// goroutine remains then. prepare must call forget when its part is done, and its context ends when run does.
func (i *intake) run(prepare func(context.Context, net.Conn)) error {
	var preparing sync.WaitGroup
	defer preparing.Wait()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer func() { _ = i.close() }() // why it ended counts, not how it closes
	for {
		select {
		case i.slots <- struct{}{}:
		case <-i.closed:
			return net.ErrClosed
		}
		conn, err := i.accept()
		if err != nil {
			return err
		}
		if !i.admit(conn) {
			return net.ErrClosed
		}
		preparing.Go(func() { prepare(ctx, conn) })
	}
}

// accept repeats an accept that fails for a reason that may pass.
func (i *intake) accept() (net.Conn, error) {
	pause := minPause
	for {
		conn, err := i.listener.Accept()
		if err == nil {
			return conn, nil
		}
		var passing interface{ Temporary() bool }
		if !errors.As(err, &passing) || !passing.Temporary() {
			return nil, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-i.closed:
			timer.Stop()
			return nil, net.ErrClosed
		}
		pause = min(2*pause, maxPause)
	}
}

// admit notes a connection that is being prepared; close closes those.
func (i *intake) admit(conn net.Conn) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.mu.closed {
		_ = conn.Close() // nobody has used it
		return false
	}
	i.mu.pending[conn] = struct{}{}
	return true
}

func (i *intake) forget(conn net.Conn) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.mu.pending, conn)
	<-i.slots
}

// close ends run. It may be called more than once.
func (i *intake) close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.mu.closed {
		return nil
	}
	i.mu.closed = true
	close(i.closed)
	err := i.listener.Close()
	for conn := range i.mu.pending {
		_ = conn.Close() // who prepares it sees that
	}
	return err
}

// branch is the listener of connections that have been prepared.
type branch struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newBranch(addr net.Addr) *branch {
	return &branch{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// deliver waits until the connection is accepted, and reports whether it was before the branch was closed.
func (b *branch) deliver(conn net.Conn) bool {
	select {
	case b.conns <- conn:
		return true
	case <-b.closed:
		return false
	}
}

func (b *branch) Accept() (net.Conn, error) {
	select {
	case conn := <-b.conns:
		return conn, nil
	case <-b.closed:
		return nil, net.ErrClosed
	}
}

func (b *branch) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

func (b *branch) Addr() net.Addr { return b.addr }
