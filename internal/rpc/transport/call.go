package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// handle runs the request of a stream. It is on a worker.
func (st *stream) handle() {
	if !st.begin() {
		return
	}
	defer st.cancel()
	if st.web {
		st.serveWeb()
		return
	}
	ctx := &callContext{Context: st.ctx, st: st}
	if st.method.unary == nil {
		st.end(st.converse(ctx))
	} else if err := st.call(ctx); err != nil {
		st.end(err)
	}
}

// end ends an answer with the status of an error; nil is OK.
func (st *stream) end(err error) {
	s, ok := status.FromError(err)
	if !ok {
		s = status.FromContextError(err)
	}
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	st.finish(s)
}

// begin makes the context of the handler, and reports whether anybody waits for it.
func (st *stream) begin() bool {
	var ctx context.Context
	var cancel context.CancelFunc
	if st.deadline.IsZero() {
		ctx, cancel = context.WithCancel(st.c.base)
	} else {
		ctx, cancel = context.WithDeadline(st.c.base, st.deadline)
	}
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	if st.closed != nil {
		cancel()
		return false
	}
	st.ctx, st.cancel = ctx, cancel
	return true
}

// call runs a unary call and sends its answer, unless it returns an error.
func (st *stream) call(ctx context.Context) error {
	data, err := st.receiveMessage(ctx)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return status.Error(codes.Unknown, err.Error()) // as grpc-go
		}
		return err
	}
	decode := func(v any) error {
		if err := st.c.srv.cfg.Codec.Unmarshal(data, v); err != nil {
			return status.Errorf(codes.Internal, "grpc: error unmarshalling request: %v", err)
		}
		return nil
	}
	m := st.method
	resp, err := m.unary(m.service, ctx, decode, st.c.srv.cfg.Unary)
	if err != nil {
		return err
	}
	return st.answer(resp)
}

// receiveMessage returns the next message, decompressed.
func (st *stream) receiveMessage(ctx context.Context) ([]byte, error) {
	m, err := st.next(ctx)
	if err != nil {
		return nil, err
	}
	codec, limit := st.c.srv.cfg.Codec, st.c.srv.cfg.MaxRecvBytes
	data := m.data
	switch {
	case m.compressed == 0:
	case m.compressed > 1:
		return nil, status.Errorf(codes.Internal, "grpc: received unexpected payload format %d", m.compressed)
	case st.request.compressor == nil:
		return nil, status.Error(codes.Internal, "grpc: compressed flag set with identity or empty encoding")
	default:
		if data, err = decompress(st.request.compressor, data, limit); err != nil {
			return nil, err
		}
	}
	codec.Received(len(data))
	return data, nil
}

// converse runs a streaming call.
func (st *stream) converse(ctx *callContext) error {
	ss := &serverStream{st: st, ctx: ctx}
	m, intercept := st.method, st.c.srv.cfg.Stream
	if intercept == nil {
		return m.stream.Handler(m.service, ss)
	}
	return intercept(m.service, ss, &grpc.StreamServerInfo{
		FullMethod: m.full, IsClientStream: m.stream.ClientStreams, IsServerStream: m.stream.ServerStreams,
	}, m.stream.Handler)
}

// serverStream is a streaming call to its handler. As gRPC says, one goroutine may send and another receive.
type serverStream struct {
	st  *stream
	ctx context.Context
}

func (s *serverStream) SetHeader(md metadata.MD) error  { return s.st.SetHeader(md) }
func (s *serverStream) SendHeader(md metadata.MD) error { return s.st.SendHeader(md) }
func (s *serverStream) SetTrailer(md metadata.MD)       { _ = s.st.SetTrailer(md) } // it cannot fail
func (s *serverStream) Context() context.Context        { return s.ctx }

// SendMsg implements grpc.ServerStream.
func (s *serverStream) SendMsg(v any) error {
	b, err := s.st.framed(v)
	if err != nil {
		return err
	}
	return s.st.send(s.ctx, b)
}

// RecvMsg implements grpc.ServerStream.
func (s *serverStream) RecvMsg(v any) error {
	data, err := s.st.receiveMessage(s.ctx)
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return status.Error(codes.Internal, err.Error())
		}
		return err
	}
	if err := s.st.c.srv.cfg.Codec.Unmarshal(data, v); err != nil {
		return status.Errorf(codes.Internal, "grpc: failed to unmarshal the received message: %v", err)
	}
	return nil
}

// Method implements grpc.ServerTransportStream.
func (st *stream) Method() string { return st.method.full }

var errHeaderSent = status.Error(codes.Internal, "transport: the header of the answer has been sent")

// SetHeader implements grpc.ServerTransportStream.
func (st *stream) SetHeader(md metadata.MD) error {
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	return st.setHeader(md)
}

func (st *stream) setHeader(md metadata.MD) error {
	if st.sent.headers || st.sent.finished {
		return errHeaderSent
	}
	st.meta.Lock()
	defer st.meta.Unlock()
	st.meta.header = metadata.Join(st.meta.header, md)
	return nil
}

// SendHeader implements grpc.ServerTransportStream.
func (st *stream) SendHeader(md metadata.MD) error {
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	if err := st.setHeader(md); err != nil {
		return err
	}
	if st.closed != nil {
		return st.closed
	}
	st.lockedOpenAnswer()
	st.c.answered()
	return nil
}

// SetTrailer implements grpc.ServerTransportStream.
func (st *stream) SetTrailer(md metadata.MD) error {
	st.meta.Lock()
	defer st.meta.Unlock()
	st.meta.trailer = metadata.Join(st.meta.trailer, md)
	return nil
}

// callContext is the context of a handler. The metadata, which few handlers look at, is made when it is asked for.
type callContext struct {
	context.Context
	st   *stream
	once sync.Once
	meta context.Context
}

// Value implements context.Context.
func (c *callContext) Value(key any) any {
	if v := c.Context.Value(key); v != nil {
		return v
	}
	c.once.Do(func() {
		ctx := metadata.NewIncomingContext(context.Background(), c.st.request.metadata())
		c.meta = grpc.NewContextWithServerTransportStream(ctx, c.st)
	})
	return c.meta.Value(key)
}

// chooseCompression finds what the client compresses its messages with; answers are compressed alike, as in grpc-go.
func (st *stream) chooseCompression() *early {
	name := st.request.encoding
	if name == "" || name == "identity" {
		return nil
	}
	comp := encoding.GetCompressor(name)
	if comp == nil {
		return &early{200, status.New(codes.Unimplemented,
			fmt.Sprintf("grpc: Decompressor is not installed for grpc-encoding %q", name))}
	}
	st.request.compressor = comp
	return nil
}
