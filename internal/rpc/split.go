package rpc

import (
	"bytes"
	"context"
	"errors"
	"net"
	"time"
)

const (
	// preface is what every HTTP/2 connection opens with (RFC 9113, 3.4).
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	// handshakeRecord is the first byte of every TLS connection (RFC 8446, 5.1). No HTTP request begins with
	// it.
	handshakeRecord = 22
	// sniffTimeout is how long a connection may take to say what it is. All kinds of client speak first
	// and at once.
	sniffTimeout = 5 * time.Second
	// maxSniffed is the most connections that have not yet said what they are. It is far above what arrives
	// within a round trip and bounds what idle connections hold.
	maxSniffed = 1024
)

// kind is what a connection is by its first bytes.
type kind int

const (
	kindOther kind = iota // HTTP/1, or nothing we know
	kindHTTP2
	kindTLS
	kinds
)

// splitter deals the connections of a listener out to branches by their kind.
type splitter struct {
	*intake
	// to holds the branch of each kind; one may be that of several, and nil that of none.
	to [kinds]*branch
}

func newSplitter(ln net.Listener) *splitter {
	return &splitter{intake: newIntake(ln, maxSniffed)}
}

// branch returns a new branch for the kinds.
func (s *splitter) branch(of ...kind) *branch {
	b := newBranch(s.listener.Addr())
	for _, k := range of {
		s.to[k] = b
	}
	return b
}

// run deals out connections until close, or until the listener fails for good, and returns why it ended. The
// branches are closed then.
func (s *splitter) run() error {
	defer func() { _ = s.close() }() // why it ended counts, not how it closes
	return s.intake.run(s.sniff)
}

// sniff reads as much of a connection as tells its kind and hands it to that branch.
func (s *splitter) sniff(_ context.Context, conn net.Conn) {
	read, k, err := readKind(conn)
	s.forget(conn)
	if err != nil || s.to[k] == nil {
		_ = conn.Close() // it has gone, or said nothing, or what nobody here understands: nobody to tell
		return
	}
	if !s.to[k].deliver(&sniffedConn{Conn: conn, read: read}) {
		_ = conn.Close() // the server is stopping; the client sees a reset
	}
}

// readKind reads until the bytes are HTTP/2's preface or can no longer become it.
func readKind(conn net.Conn) (read []byte, k kind, err error) {
	if err := conn.SetReadDeadline(time.Now().Add(sniffTimeout)); err != nil {
		return nil, kindOther, err
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
			return nil, kindOther, err
		}
	}
	switch {
	case string(buf[:n]) == preface:
		k = kindHTTP2
	case buf[0] == handshakeRecord:
		k = kindTLS
	}
	return buf[:n], k, conn.SetReadDeadline(time.Time{})
}

// close ends run and the branches. It may be called more than once.
func (s *splitter) close() error {
	err := s.intake.close()
	for _, b := range s.to {
		if b != nil {
			err = errors.Join(err, b.Close())
		}
	}
	return err
}

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
