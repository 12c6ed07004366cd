package transport

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// sending is what a stream still has to send. The connection's lock guards it.
type sending struct {
	window   int64
	headers  bool     // they have been sent, or are the first of what waits
	kept     [][]byte // waits for window or for room, in order
	bytes    int64    // in kept
	queued   bool     // the stream is in output.waiting
	finished bool     // nothing is added any more
	status   *status.Status
	room     chan struct{} // who waits for bytes to fall; nil if nobody has
}

// framed returns a gRPC message with its prefix.
func (st *stream) framed(v any) ([]byte, error) {
	b := make([]byte, prefixSize, prefixSize+64)
	var err error
	if raw, ok := v.(Raw); ok {
		b = raw.AppendTo(slices.Grow(b, raw.Size()))
	} else if b, err = st.c.srv.cfg.Codec.Append(b, v); err != nil {
		return nil, status.Errorf(codes.Internal, "grpc: error while marshaling: %v", err)
	}
	st.c.srv.cfg.Codec.Sent(len(b) - prefixSize)
	compressed := byte(0)
	if comp := st.request.compressor; comp != nil && len(b) > prefixSize {
		if b, err = compress(comp, b[prefixSize:]); err != nil {
			return nil, status.Errorf(codes.Internal, "grpc: error while compressing: %v", err)
		}
		compressed = 1
	}
	b[0] = compressed
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-prefixSize))
	return b, nil
}

// answer sends the one message of a unary call and its status.
func (st *stream) answer(v any) error {
	if raw, ok := v.(Raw); ok && st.request.compressor == nil {
		st.answerRaw(raw)
		return nil
	}
	b, err := st.framed(v)
	if err != nil {
		return err
	}
	st.answerFramed(b)
	return nil
}

// answerRaw is answer for a message that encodes itself.
func (st *stream) answerRaw(raw Raw) {
	codec, n := st.c.srv.cfg.Codec, raw.Size()
	codec.Sent(n)
	if n <= maxFrame-prefixSize && st.answerInPlace(raw, n) {
		return
	}
	b := make([]byte, prefixSize, prefixSize+n)
	binary.BigEndian.PutUint32(b[1:], uint32(n))
	st.answerFramed(raw.AppendTo(b))
}

func (st *stream) answerFramed(b []byte) {
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	st.keep(b)
	st.finish(nil)
}

// answerInPlace encodes an answer of n bytes where it is sent from, if it may be sent at once.
func (st *stream) answerInPlace(raw Raw, n int) bool {
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	o, size := &c.mu.out, int64(n)+prefixSize
	if st.closed != nil {
		return true // nobody waits for it
	}
	if len(st.sent.kept) > 0 || size > st.sent.window || size > o.window || len(o.buf) > maxReady {
		return false
	}
	st.lockedOpenAnswer()
	at := o.begin(http2.FrameData, st.id)
	o.buf = append(o.buf, 0, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	o.buf = raw.AppendTo(o.buf)
	o.end(at, 0)
	st.sent.window -= size
	o.window -= size
	st.finish(nil)
	return true
}

// keep adds bytes to what the stream sends, and sends what can be. Called with the lock.
func (st *stream) keep(b []byte) {
	if st.closed != nil || len(b) == 0 {
		return
	}
	st.sent.kept = append(st.sent.kept, b)
	st.sent.bytes += int64(len(b))
	st.c.mu.out.held += int64(len(b))
	st.queue()
}

// queue gives the stream its turn. Called with the lock.
func (st *stream) queue() {
	if !st.sent.queued {
		st.sent.queued = true
		st.c.mu.out.waiting = append(st.c.mu.out.waiting, st)
	}
	st.c.answered()
}

// answered wakes the writer, unless the reader does so at the end of its batch. Called with the lock.
func (c *conn) answered() {
	c.mu.sawAnswer = true
	if !c.mu.batch {
		c.signal()
	}
}

// pump moves what streams have to send to the buffer, a frame each in turn, as far as windows and the buffer's bound
// allow. Called with the lock.
func (c *conn) pump() {
	o := &c.mu.out
	for len(o.waiting) > 0 && len(o.buf) < maxReady {
		moved := false
		left := o.waiting[:0]
		for i, st := range o.waiting {
			if len(o.buf) >= maxReady {
				left = append(left, o.waiting[i:]...)
				break
			}
			switch more, sent := st.sendSome(); {
			case !more:
				st.sent.queued = false
				moved = true
			default:
				left = append(left, st)
				moved = moved || sent
			}
		}
		clear(o.waiting[len(left):])
		o.waiting = left
		if !moved {
			return // until a window grows
		}
	}
	if len(o.waiting) == 0 {
		o.waiting = nil
	}
}

// sendSome sends one frame of the stream. It reports whether there is more, and whether it sent something.
func (st *stream) sendSome() (more, sent bool) {
	o, s := &st.c.mu.out, &st.sent
	if st.closed != nil {
		return false, false
	}
	if len(s.kept) > 0 {
		b := s.kept[0]
		n := min(int64(len(b)), s.window, o.window, int64(o.frame))
		if n <= 0 {
			return true, false
		}
		st.lockedOpenAnswer()
		at := o.begin(http2.FrameData, st.id)
		o.buf = append(o.buf, b[:n]...)
		o.end(at, 0)
		s.window -= n
		o.window -= n
		st.c.earned.Add(2)
		st.c.mu.sawAnswer = true
		st.let(n)
		if s.kept[0] = b[n:]; len(s.kept[0]) == 0 {
			s.kept[0] = nil
			s.kept = s.kept[1:]
		}
		sent = true
	}
	if len(s.kept) > 0 {
		return true, sent
	}
	s.kept = nil
	if s.finished {
		st.writeEnd()
	}
	return false, true
}

// let notes that n bytes are not kept any more, and wakes who waits for that.
func (st *stream) let(n int64) {
	st.sent.bytes -= n
	st.c.mu.out.held -= n
	if st.sent.room != nil && st.sent.bytes <= streamQuota {
		select {
		case st.sent.room <- struct{}{}:
		default:
		}
	}
}

// drop forgets what was not sent.
func (st *stream) drop() {
	st.sent.kept = nil
	st.let(st.sent.bytes)
}

// send sends a message of a stream and waits while much of the stream is unsent.
func (st *stream) send(ctx context.Context, b []byte) error {
	c := st.c
	c.mu.Lock()
	st.keep(b)
	for {
		err := st.closed
		if err != nil || st.sent.bytes <= streamQuota {
			c.mu.Unlock()
			if errors.Is(err, errFinished) {
				return status.Error(codes.Internal, err.Error())
			}
			return err
		}
		if st.sent.room == nil {
			st.sent.room = make(chan struct{}, 1)
		}
		c.mu.Unlock()
		select {
		case <-st.sent.room:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
		c.mu.Lock()
	}
}

// openAnswer sends the header of an answer, once. Called with the locks of the connection and of meta.
func (st *stream) openAnswer() {
	if st.sent.headers {
		return
	}
	st.sent.headers = true
	if st.web {
		return // its handler has kept them
	}
	o := &st.c.mu.out
	at := o.begin(http2.FrameHeaders, st.id)
	o.openBlock()
	o.responseHeaders(st.request.contentType)
	if st.request.compressor != nil {
		o.literal("grpc-encoding", st.request.compressor.Name())
	}
	o.metadata(st.meta.header)
	o.end(at, 0)
}

func (st *stream) lockedOpenAnswer() {
	if !st.sent.headers {
		st.meta.Lock()
		defer st.meta.Unlock()
		st.openAnswer()
	}
}

// finish says that the stream has nothing to add but its status; nil is OK. Called with the lock.
func (st *stream) finish(s *status.Status) {
	if st.closed != nil || st.sent.finished {
		return
	}
	st.sent.finished, st.sent.status = true, s
	if len(st.sent.kept) > 0 {
		st.queue()
		return
	}
	st.writeEnd()
	st.c.answered()
}

// writeEnd sends what ends the answer. Called with the lock.
func (st *stream) writeEnd() {
	c, o := st.c, &st.c.mu.out
	if st.web {
		o.header(0, http2.FrameData, http2.FlagDataEndStream, st.id)
	} else {
		st.writeTrailer()
	}
	if !st.in.ended {
		// The client need not send the rest (RFC 9113, 8.1), and what is on its way is not held against it.
		o.reset(st.id, http2.ErrCodeNo)
		o.control-- // it answers no control frame
		c.noteEnded(st.id)
	}
	c.earned.Add(2)
	c.close(st, errFinished)
}

func (st *stream) writeTrailer() {
	st.meta.Lock()
	defer st.meta.Unlock()
	if len(st.meta.header) > 0 {
		st.openAnswer() // as grpc-go does it
	}
	o := &st.c.mu.out
	at := o.begin(http2.FrameHeaders, st.id)
	o.openBlock()
	if !st.sent.headers {
		st.sent.headers = true
		o.responseHeaders(st.request.contentType)
	}
	if s := st.sent.status; s.Code() == codes.OK {
		o.grpcStatusOK()
	} else {
		o.grpcError(s)
	}
	o.metadata(st.meta.trailer)
	o.end(at, http2.FlagHeadersEndStream)
}

// grpcError appends the fields of a status that is not OK.
func (o *output) grpcError(s *status.Status) {
	o.literal("grpc-status", strconv.Itoa(int(s.Code())))
	o.literal("grpc-message", percentEncode(s.Message()))
	if p := s.Proto(); len(p.GetDetails()) > 0 {
		if b, err := proto.Marshal(p); err == nil { // it came from a Status, so it can be encoded
			o.literal("grpc-status-details-bin", base64.RawStdEncoding.EncodeToString(b))
		}
	}
}

// metadata appends the fields of an application.
func (o *output) metadata(md metadata.MD) {
	if len(md) == 0 {
		return
	}
	names := make([]string, 0, len(md))
	for name := range md {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if reserved(name) {
			continue // they are the transport's
		}
		for _, v := range md[name] {
			if strings.HasSuffix(name, "-bin") {
				v = base64.RawStdEncoding.EncodeToString([]byte(v))
			}
			o.literal(name, v)
		}
	}
}

// reserved reports whether a field is the transport's own, as in grpc-go.
func reserved(name string) bool {
	if strings.HasPrefix(name, ":") {
		return true
	}
	switch name {
	case "content-type", "user-agent", "grpc-message-type", "grpc-encoding", "grpc-message", "grpc-status",
		"grpc-timeout", "te":
		return true
	}
	return false
}

// percentEncode encodes a message as gRPC's protocol says: all but printable ASCII, and the percent sign.
func percentEncode(s string) string {
	const hex = "0123456789ABCDEF"
	clean := func(b byte) bool { return b >= ' ' && b <= '~' && b != '%' }
	at := 0
	for at < len(s) && clean(s[at]) {
		at++
	}
	if at == len(s) {
		return s
	}
	b := append(make([]byte, 0, len(s)+16), s[:at]...)
	for ; at < len(s); at++ {
		if clean(s[at]) {
			b = append(b, s[at])
		} else {
			b = append(b, '%', hex[s[at]>>4], hex[s[at]&15])
		}
	}
	return string(b)
}

// reply sends an answer that has nothing but a status. Called with the lock; the stream may be of no handler.
func (st *stream) reply(e *early) {
	if e.http == http.StatusOK {
		st.finish(e.grpc)
		return
	}
	o := &st.c.mu.out
	at := o.begin(http2.FrameHeaders, st.id)
	o.openBlock()
	o.status(e.http)
	o.literal("content-type", st.request.contentTypeOr(grpcContentType))
	o.grpcError(e.grpc)
	o.end(at, http2.FlagHeadersEndStream)
	st.sent.headers = true
	if !st.in.ended {
		o.reset(st.id, http2.ErrCodeNo)
		o.control--
		st.c.noteEnded(st.id)
	}
	st.c.close(st, errFinished)
	st.c.answered()
}
