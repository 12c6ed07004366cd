package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

const (
	readBuffer = 32 << 10
	// prefaceTimeout is how long a client may take for its preface and first SETTINGS.
	prefaceTimeout = 20 * time.Second
	// writeStall ends a connection whose client has not read for so long: a socket's buffer is full, and the peer's kernel
	// tells us that it is alive. It is above the pause of any client that means to go on.
	writeStall = 2 * time.Minute
	// lastWords is how long a client may take to read why its connection ends.
	lastWords = time.Second
	// drainPatience is how long a client may take to answer the ping that says which streams it had begun.
	drainPatience = time.Second
)

// conn is one connection.
type conn struct {
	srv  *Server
	nc   net.Conn
	tls  *tls.ConnectionState // nil without TLS
	web  http.Handler         // of requests that are not gRPC; may be nil
	base context.Context      // of the streams: has the peer, ends with the connection
	end  context.CancelCauseFunc

	// The reader's own.
	br         *bufio.Reader
	fr         *http2.Framer
	dec        *hpack.Decoder
	hdr        headerBlock
	lastStream uint32 // the highest that the client opened
	calm       budget
	pings      pingPolicy
	ended      [64]uint32 // streams that this side ended before the client had, a ring
	endedAt    int
	inBatch    bool
	unsent     int64 // bytes of DATA for which the client has no window of the connection again

	lastRead atomic.Int64 // unix nanoseconds, for keep-alive
	earned   atomic.Int64 // what calm gets: see budget
	wake     chan struct{}
	done     chan struct{} // closed when both goroutines have ended

	mu connShared
}

// connShared is what the reader, the writer and the handlers share.
type connShared struct {
	sync.Mutex
	streams map[uint32]*stream
	out     output
	large   largeMessages
	headers int64 // weight of all streams
	batch   bool  // the reader is at a batch of frames and wakes the writer at its end

	draining  bool // no stream is opened any more
	asked     bool // the client was told that it shall open none
	drained   bool // and which ones are answered
	failed    error
	lingering bool // close when out is empty
	sawAnswer bool // something was sent since the last ping: the client may ping again
}

func newConn(s *Server, nc net.Conn, state *tls.ConnectionState, web http.Handler) *conn {
	c := &conn{srv: s, nc: nc, tls: state, web: web, wake: make(chan struct{}, 1), done: make(chan struct{})}
	p := &peer.Peer{Addr: nc.RemoteAddr(), LocalAddr: nc.LocalAddr()}
	if state != nil {
		p.AuthInfo = credentials.TLSInfo{
			State: *state, CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		}
	}
	c.base, c.end = context.WithCancelCause(peer.NewContext(context.Background(), p))
	c.br = bufio.NewReaderSize(nc, readBuffer)
	c.fr = http2.NewFramer(io.Discard, c.br)
	c.fr.SetReuseFrames()
	c.fr.SetMaxReadFrameSize(maxFrame)
	c.dec = hpack.NewDecoder(4096, nil)
	c.dec.SetMaxStringLength(maxHeaderList)
	c.calm, c.pings = newBudget(), newPingPolicy(s.cfg.KeepAliveMinTime)
	c.mu.streams = make(map[uint32]*stream)
	c.mu.out.init()
	return c
}

// serve runs the connection until it ends.
func (c *conn) serve() {
	c.hello()
	written := make(chan struct{})
	go func() {
		defer close(written)
		c.write()
	}()
	stopPinging := c.keepAlive()
	err := c.read()
	c.fail(err)
	stopPinging()
	c.end(errConnectionEnded)
	c.mu.Lock()
	_ = c.nc.SetWriteDeadline(time.Now().Add(lastWords)) // it fails only if the socket is gone
	c.mu.Unlock()
	<-written
	if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		c.discard()
	}
	_ = c.nc.Close() // it has failed, or all was sent
	c.cut()
	close(c.done)
	if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		c.srv.cfg.Logger.Debug("a client's connection ended", zap.Stringer("remote", c.nc.RemoteAddr()), zap.Error(err))
	}
}

// cut ends the streams that are left.
func (c *conn) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, st := range c.mu.streams {
		c.close(st, errConnectionEnded)
	}
}

var errConnectionEnded = errors.New("transport: the client's connection has ended")

// fail ends the connection: the writer tells the client why, if that is an HTTP/2 error, sends what is ready, and the
// socket is closed. Only the first call counts.
func (c *conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failLocked(err)
}

func (c *conn) failLocked(err error) {
	if c.mu.failed != nil {
		return
	}
	if err == nil {
		err = io.EOF
	}
	c.mu.failed, c.mu.draining = err, true
	var fault http2.ConnectionError
	var said *goneError
	switch {
	case errors.As(err, &said):
		c.mu.out.goAway(c.lastOpened(), said.code, said.debug)
	case errors.As(err, &fault):
		c.mu.out.goAway(c.lastOpened(), http2.ErrCode(fault), "")
	case errors.Is(err, http2.ErrFrameTooLarge):
		c.mu.out.goAway(c.lastOpened(), http2.ErrCodeFrameSize, "")
	}
	_ = c.nc.SetReadDeadline(time.Unix(1, 0)) // ends the reader; it fails only if the socket is gone
	c.signal()
}

// goneError ends a connection with a GOAWAY that has a reason.
type goneError struct {
	code  http2.ErrCode
	debug string
}

func (e *goneError) Error() string { return fmt.Sprintf("transport: %v: %s", e.code, e.debug) }

// lastOpened is the last stream that a GOAWAY names: what the client opened after it was not looked at. Called with the
// lock.
func (c *conn) lastOpened() uint32 { return c.mu.out.lastStream }

// signal wakes the writer. Called with the lock, or with none.
func (c *conn) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// hello sends this side's SETTINGS and opens the connection's window.
func (c *conn) hello() {
	c.mu.Lock()
	defer c.mu.Unlock()
	settings := []http2.Setting{
		{ID: http2.SettingInitialWindowSize, Val: streamWindow},
		{ID: http2.SettingMaxHeaderListSize, Val: maxHeaderList},
	}
	if n := c.srv.cfg.MaxConcurrentStreams; n > 0 && n < 1<<32-1 {
		settings = append(settings, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: n})
	}
	c.mu.out.settings(settings)
	c.mu.out.windowUpdate(0, connWindow-initialWindow)
}

// write sends what gathers in out until the connection ends.
func (c *conn) write() {
	var deadline time.Time
	for {
		c.mu.Lock()
		c.pump()
		b := c.mu.out.take()
		ended := c.mu.failed != nil || c.mu.lingering && c.idleLocked()
		if now := time.Now(); c.mu.failed == nil && deadline.Sub(now) < writeStall/2 {
			deadline = now.Add(writeStall)
			_ = c.nc.SetWriteDeadline(deadline) // it fails only if the socket is gone, which Write says
		}
		c.mu.Unlock()
		if len(b) == 0 {
			if ended {
				c.hangUp()
				return
			}
			<-c.wake
			continue
		}
		if _, err := c.nc.Write(b); err != nil {
			c.fail(err)
			_ = c.nc.Close() // nobody reads what else there was to say
			return
		}
		c.mu.Lock()
		c.mu.out.recycle(b)
		c.mu.Unlock()
	}
}

// discard reads what a client goes on to send that was told why its connection ends, for a moment: closing a socket with
// something unread has the kernel forget what was sent last.
func (c *conn) discard() {
	if c.nc.SetReadDeadline(time.Now().Add(lastWords)) == nil {
		_, _ = io.Copy(io.Discard, c.nc) // it ends with the client, or by the deadline
	}
}

// hangUp ends this side. The client gets a moment to end its own, which the reader waits for.
func (c *conn) hangUp() {
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		_ = c.nc.Close() // the reader ends by that
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.failed == nil {
		_ = c.nc.SetReadDeadline(time.Now().Add(lastWords)) // it fails only if the socket is gone
	}
}

// idleLocked reports whether nothing is left to do for a client that opens no stream any more.
func (c *conn) idleLocked() bool { return len(c.mu.streams) == 0 && c.mu.out.empty() }

// drain asks the client to open no further streams, waits for those it has under way, and ends the connection then
// (RFC 9113, 6.8): the first GOAWAY names no stream, and the answer to a ping says that the client has seen it.
func (c *conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.failed != nil || c.mu.asked {
		return
	}
	c.mu.asked = true
	c.mu.out.goAway(1<<31-1, http2.ErrCodeNo, "")
	c.mu.out.ping(false, drainPing)
	c.signal()
	time.AfterFunc(drainPatience, c.finishDrain)
}

var drainPing = [8]byte{'d', 'r', 'a', 'i', 'n'}

// finishDrain names the last stream that is answered.
func (c *conn) finishDrain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.failed != nil || c.mu.drained {
		return
	}
	c.mu.drained, c.mu.draining, c.mu.lingering = true, true, true
	c.mu.out.goAway(c.lastOpened(), http2.ErrCodeNo, "")
	c.signal()
}

// keepAlive pings an idle client and ends the connection if it does not answer, until stop is called.
func (c *conn) keepAlive() (stop func()) {
	interval, timeout := c.srv.cfg.KeepAliveInterval, c.srv.cfg.KeepAliveTimeout
	if interval <= 0 || timeout <= 0 {
		return func() {}
	}
	c.lastRead.Store(time.Now().UnixNano())
	var mu sync.Mutex
	var timer *time.Timer
	pinged := time.Time{}
	check := func() {
		mu.Lock()
		defer mu.Unlock()
		read := time.Unix(0, c.lastRead.Load())
		switch idle := time.Since(read); {
		case !pinged.IsZero() && !read.After(pinged):
			c.fail(errSilent)
			return
		case idle >= interval:
			pinged = time.Now()
			c.mu.Lock()
			c.mu.out.ping(false, [8]byte{})
			c.mu.Unlock()
			c.signal()
			timer.Reset(timeout)
		default:
			pinged = time.Time{}
			timer.Reset(interval - idle)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(interval, check)
	return func() {
		mu.Lock()
		defer mu.Unlock()
		timer.Stop()
	}
}

var errSilent = errors.New("transport: the client does not answer pings")
