package transport

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// stream is one request and its answer. The connection's lock guards what is not said to be otherwise.
type stream struct {
	c  *conn
	id uint32
	// What its header says does not change.
	request  request
	method   *method // nil if it is not gRPC, or of no registered method
	web      bool    // for the connection's HTTP handler
	deadline time.Time
	weight   int64  // in connShared.headers
	asked    []byte // the message of a Call
	begun    bool   // a unary call's handler was begun

	in   inbox
	sent sending

	// ctx is made when the handler starts; before that, a closed stream has nobody to tell.
	ctx    context.Context
	cancel context.CancelFunc
	closed error // why no more is received and sent; nil while it is open

	// Of the handler's goroutine, but for SetHeader and its like, which gRPC allows on any.
	meta struct {
		sync.Mutex
		header, trailer metadata.MD
	}
}

var (
	errReset    = status.Error(codes.Canceled, "the client has cancelled the request")
	errFinished = errors.New("transport: the request has been answered")
)

// inbox is what a stream has received.
type inbox struct {
	window int64 // what the client may send
	ended  bool  // it has sent its last
	length int64 // content-length that is still to come; -1 if the client did not say

	prefix  [5]byte // of the message in assembly
	have    int     // bytes of prefix
	partial []byte
	need    int // bytes of the message
	large   int64
	waits   bool // for its turn to be large

	messages []message
	queued   int64 // bytes in messages, with their prefixes
	discard  bool  // nobody takes any more
	err      error // what is wrong with the next message
	ready    chan struct{}
}

// message is one gRPC message as it came.
type message struct {
	compressed byte
	data       []byte
}

const prefixSize = 5

// receive takes DATA of n bytes, padding included, with the payload data. It reports whether the stream's handler can
// begin. Called by the reader, with the lock.
func (st *stream) receive(data []byte, n int, last bool) (start bool, err error) {
	in := &st.in
	if in.ended {
		return false, http2.StreamError{StreamID: st.id, Code: http2.ErrCodeStreamClosed}
	}
	if in.window -= int64(n); in.window < 0 {
		return false, http2.StreamError{StreamID: st.id, Code: http2.ErrCodeFlowControl}
	}
	if in.length >= 0 {
		if in.length -= int64(len(data)); in.length < 0 || last && in.length > 0 {
			return false, http2.StreamError{StreamID: st.id, Code: http2.ErrCodeProtocol}
		}
	}
	switch {
	case in.discard:
		in.queued = 0
	case st.web:
		if len(data) > 0 {
			in.messages = append(in.messages, message{data: append([]byte(nil), data...)})
			in.queued += int64(len(data))
		}
	default:
		st.assemble(data)
	}
	st.unpad(n - len(data))
	in.ended = last
	if last && in.have > 0 && in.err == nil {
		in.err = io.ErrUnexpectedEOF
	}
	st.grant()
	st.notify()
	unary := st.method != nil && st.method.unary != nil
	start = unary && !st.begun && (len(in.messages) > 0 || in.err != nil || last)
	st.begun = st.begun || start
	return start, nil
}

// unpad gives back the window of padding, of which nobody takes anything.
func (st *stream) unpad(n int) {
	if n > 0 && !st.in.ended {
		st.in.window += int64(n)
		st.c.mu.out.windowUpdate(st.id, int64(n))
		st.c.signal()
	}
}

// assemble adds to the message that is being received, and to those that are complete.
func (st *stream) assemble(data []byte) {
	in := &st.in
	for len(data) > 0 && in.err == nil {
		if in.have < prefixSize {
			n := copy(in.prefix[in.have:], data)
			in.have, data = in.have+n, data[n:]
			if in.have < prefixSize {
				return
			}
			size := uint32(in.prefix[1])<<24 | uint32(in.prefix[2])<<16 | uint32(in.prefix[3])<<8 | uint32(in.prefix[4])
			if limit := st.c.srv.cfg.MaxRecvBytes; uint64(size) > uint64(limit) {
				in.err = status.Errorf(codes.ResourceExhausted, "grpc: received message larger than max (%d vs. %d)", size, limit)
				return
			}
			in.need = int(size)
			// A client is believed as far as its message fits the window; beyond that the buffer grows as bytes come.
			in.partial = make([]byte, 0, min(in.need, streamWindow))
		}
		n := min(in.need-len(in.partial), len(data))
		in.partial = append(in.partial, data[:n]...)
		st.c.mu.large.partial += int64(n)
		data = data[n:]
		if len(in.partial) == in.need {
			st.complete()
		}
	}
}

func (st *stream) complete() {
	in := &st.in
	st.c.mu.large.partial -= int64(len(in.partial))
	in.messages = append(in.messages, message{compressed: in.prefix[0], data: in.partial})
	in.queued += int64(len(in.partial) + prefixSize)
	in.partial, in.have, in.need = nil, 0, 0
	st.release()
}

// release ends the stream's turn to be large, and lets others have theirs.
func (st *stream) release() {
	l := &st.c.mu.large
	l.granted -= st.in.large
	st.in.large = 0
	for len(l.waiting) > 0 {
		next := l.waiting[0]
		if next.closed == nil && !next.in.ended && !next.take() {
			return
		}
		next.in.waits = false
		l.waiting = l.waiting[1:]
	}
}

// grant lets the client send what is missing of a message that is larger than the window.
func (st *stream) grant() {
	in := &st.in
	if in.ended || in.discard || st.web || in.err != nil || in.have < prefixSize || in.waits {
		return
	}
	if int64(in.need-len(in.partial)) <= in.window {
		return
	}
	if l := &st.c.mu.large; len(l.waiting) > 0 || !st.take() {
		in.waits = true
		l.waiting = append(l.waiting, st)
	}
}

// take gives the client the window for the rest of the message, if there is room.
func (st *stream) take() bool {
	in, l := &st.in, &st.c.mu.large
	rest := int64(in.need-len(in.partial)) - in.window
	if rest <= 0 {
		return true
	}
	if l.granted > 0 && l.granted+rest > maxLarge {
		return false
	}
	l.granted += rest
	in.large += rest
	in.window += rest
	st.c.mu.out.windowUpdate(st.id, rest)
	st.c.signal()
	return true
}

// credit gives the client window for what was taken, once it is worth a frame.
func (st *stream) credit() {
	in := &st.in
	if in.ended || in.discard || st.closed != nil {
		return
	}
	want := streamWindow - in.queued - int64(len(in.partial)) - in.window
	if want < streamWindow/2 {
		return
	}
	in.window += want
	st.c.mu.out.windowUpdate(st.id, want)
	st.c.signal()
}

// notify wakes who waits in next.
func (st *stream) notify() {
	if st.in.ready == nil {
		return
	}
	select {
	case st.in.ready <- struct{}{}:
	default:
	}
}

// next waits for the next message, and returns io.EOF after the last. Called by the handler, without the lock.
func (st *stream) next(ctx context.Context) (message, error) {
	c, in := st.c, &st.in
	for {
		c.mu.Lock()
		if len(in.messages) > 0 {
			m := in.messages[0]
			in.messages[0] = message{}
			if in.messages = in.messages[1:]; len(in.messages) == 0 {
				in.messages = nil
			}
			in.queued -= int64(len(m.data))
			if !st.web {
				in.queued -= prefixSize
			}
			st.credit()
			c.mu.Unlock()
			return m, nil
		}
		err := in.err
		if err == nil && in.ended {
			err = io.EOF
		}
		if err == nil {
			err = st.closed
		}
		if err == nil && in.ready == nil {
			in.ready = make(chan struct{}, 1)
		}
		c.mu.Unlock()
		if err != nil {
			return message{}, err
		}
		select {
		case <-in.ready:
		case <-ctx.Done():
			return message{}, status.FromContextError(ctx.Err()).Err()
		}
	}
}

// close ends a stream for good: nothing is received or sent after it. Called with the lock; more than once.
func (c *conn) close(st *stream, why error) {
	if st.closed != nil {
		return
	}
	st.closed = why
	delete(c.mu.streams, st.id)
	c.mu.headers -= st.weight
	in := &st.in
	c.mu.large.partial -= int64(len(in.partial))
	if !errors.Is(why, errFinished) || st.method == nil || st.method.unary != nil {
		in.messages, in.queued = nil, 0
	}
	in.partial, in.discard = nil, true
	if in.waits {
		l := &c.mu.large
		l.waiting, in.waits = slices.DeleteFunc(l.waiting, func(other *stream) bool { return other == st }), false
	}
	st.release()
	st.drop()
	st.notify()
	if st.ctx == nil {
		st.request.fields = nil // no handler asks for them, and the stream may wait for its turn to be forgotten
	}
	if st.cancel != nil {
		st.cancel()
	}
	if c.mu.lingering && c.idleLocked() {
		c.signal()
	}
}

// newStream makes the stream of a header. Called by the reader.
func (c *conn) newStream(id uint32, r request, last bool) *stream {
	st := &stream{c: c, id: id, request: r}
	st.in.window, st.in.ended, st.in.length = streamWindow, last, r.length
	if r.timeout > 0 {
		st.deadline = time.Now().Add(r.timeout)
	}
	if r.grpc {
		st.method = c.srv.methods[r.path]
	} else {
		st.web = c.web != nil
	}
	return st
}

// early is an answer that needs no handler: what is wrong with the header.
type early struct {
	http int
	grpc *status.Status
}

// refuse says what is wrong with a request's header, in grpc-go's words; nil if nothing is.
func (c *conn) refuse(r *request) *early {
	bad := func(http int, code codes.Code, format string, args ...any) *early {
		return &early{http, status.Newf(code, format, args...)}
	}
	switch {
	case r.hosts > 1 || r.authorities > 1:
		return bad(http.StatusBadRequest, codes.Internal,
			"num values of :authority: %v, num values of host: %v, both must only have 1 value as per HTTP/2 spec", r.authorities, r.hosts)
	case !r.grpc && c.web != nil:
		return nil
	case !r.grpc:
		return bad(http.StatusUnsupportedMediaType, codes.InvalidArgument, "invalid gRPC request content-type %q", r.contentType)
	case r.malformed != nil:
		return &early{http.StatusBadRequest, status.New(codes.Internal, r.malformed.Error())}
	case r.hosts+r.authorities == 0:
		return bad(http.StatusBadRequest, codes.Internal, "no host or :authority header present")
	case r.method != http.MethodPost:
		return bad(http.StatusMethodNotAllowed, codes.Internal, "Received a HEADERS frame with :method %q which should be POST", r.method)
	case r.timed && r.timeout <= 0:
		return bad(http.StatusOK, codes.DeadlineExceeded, "%v", context.DeadlineExceeded)
	case c.srv.methods[r.path] == nil:
		return bad(http.StatusOK, codes.Unimplemented, "%s", c.srv.unknown(r.path))
	}
	return nil
}
