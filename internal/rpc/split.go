package rpc

import (
	"bytes"
	"errors"
	"io"
	"log"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	// preface is what every HTTP/2 connection opens with (RFC 9113, 3.4).
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	// sniffTimeout is how long a connection may take to say what it is. Both kinds of client speak first
	// and at once.
	sniffTimeout = 5 * time.Second
	// maxSniffed is the most connections that have not yet said what they are; more wait in the listener's
	// queue. It is far above what arrives within a round trip and bounds what idle connections hold.
	maxSniffed = 1024
	// Failing accepts, which means no descriptors are left, are repeated after a pause between these.
	minPause = 5 * time.Millisecond
	maxPause = time.Second
)

// splitter deals the connections of a listener out to two branches by their first bytes.
type splitter struct {
	listener  net.Listener
	grpc, web *branch
	slots     chan struct{} // one element for each connection in mu.sniffed
	closed    chan struct{}

	mu struct {
		sync.Mutex
		closed  bool
		sniffed map[net.Conn]struct{}
	}
}

func newSplitter(ln net.Listener) *splitter {
	s := &splitter{
		listener: ln,
		grpc:     newBranch(ln.Addr()),
		web:      newBranch(ln.Addr()),
		slots:    make(chan struct{}, maxSniffed),
		closed:   make(chan struct{}),
	}
	s.mu.sniffed = make(map[net.Conn]struct{})
	return s
}

// run deals out connections until close, or until the listener fails for good, and returns why it ended.
// Both branches are closed then, and no goroutine remains.
func (s *splitter) run() error {
	var sniffers sync.WaitGroup
	defer sniffers.Wait()
	defer func() { _ = s.close() }() // why it ended counts, not how it closes
	for {
		select {
		case s.slots <- struct{}{}:
		case <-s.closed:
			return net.ErrClosed
		}
		conn, err := s.accept()
		if err != nil {
			return err
		}
		if !s.admit(conn) {
			return net.ErrClosed
		}
		sniffers.Go(func() { s.sniff(conn) })
	}
}

// accept repeats an accept that fails for a reason that may pass.
func (s *splitter) accept() (net.Conn, error) {
	pause := minPause
	for {
		conn, err := s.listener.Accept()
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
		case <-s.closed:
			timer.Stop()
			return nil, net.ErrClosed
		}
		pause = min(2*pause, maxPause)
	}
}

// admit notes a connection whose kind is not known; close closes those.
func (s *splitter) admit(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		_ = conn.Close() // nobody has used it
		return false
	}
	s.mu.sniffed[conn] = struct{}{}
	return true
}

func (s *splitter) forget(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.sniffed, conn)
	<-s.slots
}

// sniff reads as much of a connection as tells its kind and hands it to that branch.
func (s *splitter) sniff(conn net.Conn) {
	read, isHTTP2, err := readPreface(conn)
	s.forget(conn)
	if err != nil {
		_ = conn.Close() // it has gone, or said nothing: nobody to tell
		return
	}
	to := s.web
	if isHTTP2 {
		to = s.grpc
	}
	to.deliver(&sniffedConn{Conn: conn, read: read})
}

// readPreface reads until the bytes are HTTP/2's preface or can no longer become it.
func readPreface(conn net.Conn) (read []byte, isHTTP2 bool, err error) {
	if err := conn.SetReadDeadline(time.Now().Add(sniffTimeout)); err != nil {
		return nil, false, err
	}
	buf := make([]byte, len(preface))
	n := 0
	for n < len(preface) {
		m, err := conn.Read(buf[n:])
		n += m
		if !bytes.HasPrefix([]byte(preface), buf[:n]) {
			break
		}
		if err != nil {
			return nil, false, err
		}
	}
	return buf[:n], string(buf[:n]) == preface, conn.SetReadDeadline(time.Time{})
}

// close ends run. It may be called more than once.
func (s *splitter) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return nil
	}
	s.mu.closed = true
	close(s.closed)
	err := s.listener.Close()
	for conn := range s.mu.sniffed {
		_ = conn.Close() // its sniffer sees it
	}
	return errors.Join(err, s.grpc.Close(), s.web.Close())
}

// branch is the listener of one kind of connection.
type branch struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newBranch(addr net.Addr) *branch {
	return &branch{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// deliver waits until the connection is accepted, or closes it if the branch is closed.
func (b *branch) deliver(conn net.Conn) {
	select {
	case b.conns <- conn:
	case <-b.closed:
		_ = conn.Close() // the server is stopping; the client sees a reset
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

// sniffedConn returns first what was read to tell its kind.
type sniffedConn struct {
	net.Conn
	read []byte
}

func (c *sniffedConn) Read(p []byte) (int, error) {
	if len(c.read) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.read)
	if c.read = c.read[n:]; len(c.read) == 0 {
		c.read = nil
	}
	return n, nil
}

// debugLog is a logger of the standard library that writes debug lines.
func debugLog(logger *zap.Logger) *log.Logger {
	std, err := zap.NewStdLogAt(logger, zap.DebugLevel)
	if err != nil {
		// Only an unknown level is an error.
		return log.New(io.Discard, "", 0)
	}
	return std
}
