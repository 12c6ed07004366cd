package rpc

import (
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"sync"

	"google.golang.org/grpc/stats"
)

// messageHeader is the length of what goes before each gRPC message: whether it is compressed, and its length.
const messageHeader = 5

// pacedBody is the body of a gRPC request that net/http reads. grpc-go takes all that a body has at once, in
// buffers of 16 KiB however little is in them, and keeps it until the handler asks for it. Here it gets the next
// message when the handler has received the one before, in full buffers, and so it keeps one. The client has to
// wait: net/http gives it a window of HTTP/2 for what has been read.
type pacedBody struct {
	io.ReadCloser
	next   chan struct{} // has an element if the next message may be read
	closed chan struct{}
	once   sync.Once

	rest int64 // of the message that is being read; for Read alone
}

type pacedKey struct{}

// paced returns the request with a pacedBody, of which receipts tell in its context.
func paced(r *http.Request) *http.Request {
	b := &pacedBody{ReadCloser: r.Body, next: make(chan struct{}, 1), closed: make(chan struct{})}
	b.received() // there is none before the first
	r = r.WithContext(context.WithValue(r.Context(), pacedKey{}, b))
	r.Body = b
	return r
}

// Read is called by one goroutine, with room for a header at least. It returns a header, or as much of a message
// as there is room for.
func (b *pacedBody) Read(p []byte) (int, error) {
	if b.rest > 0 {
		n, err := io.ReadFull(b.ReadCloser, p[:min(int64(len(p)), b.rest)])
		b.rest -= int64(n)
		return n, err
	}
	select {
	case <-b.next:
	case <-b.closed:
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := io.ReadFull(b.ReadCloser, p[:messageHeader])
	if err == nil {
		b.rest = int64(binary.BigEndian.Uint32(p[1:messageHeader]))
	}
	return n, err
}

// Close implements io.Closer. It ends a Read.
func (b *pacedBody) Close() error {
	b.once.Do(func() { close(b.closed) })
	return b.ReadCloser.Close()
}

func (b *pacedBody) received() {
	select {
	case b.next <- struct{}{}:
	default: // no message can be received twice
	}
}

// receipts is a stats.Handler that tells a pacedBody when a message has been received.
type receipts struct{}

// HandleRPC implements stats.Handler.
func (receipts) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.InPayload); !ok {
		return
	}
	if b, ok := ctx.Value(pacedKey{}).(*pacedBody); ok {
		b.received()
	}
}

// TagRPC implements stats.Handler.
func (receipts) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// TagConn implements stats.Handler.
func (receipts) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (receipts) HandleConn(context.Context, stats.ConnStats) {}
