package coordination

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/rpc"
)

// methods is the services of this process, by the full names of their methods.
type methods struct {
	lg     *zap.Logger
	unary  map[string]unaryMethod
	stream map[string]streamMethod
}

type unaryMethod struct {
	grpc.MethodDesc
	service any
}

type streamMethod struct {
	grpc.StreamDesc
	service any
}

func newMethods(lg *zap.Logger) *methods {
	return &methods{lg: lg, unary: map[string]unaryMethod{}, stream: map[string]streamMethod{}}
}

func (m *methods) add(desc *grpc.ServiceDesc, service any) {
	for _, d := range desc.Methods {
		m.unary["/"+desc.ServiceName+"/"+d.MethodName] = unaryMethod{d, service}
	}
	for _, d := range desc.Streams {
		m.stream["/"+desc.ServiceName+"/"+d.StreamName] = streamMethod{d, service}
	}
}

// connection is a grpc.ClientConnInterface that calls methods of this process, without interceptors: the
// call it is part of has passed them. What the caller's context carries, its metadata and who it is, the
// service sees as its own caller's.
type connection struct {
	methods *methods
	streams sync.WaitGroup // handlers that run
}

func unknownMethod(method string) error {
	return status.Errorf(codes.Unimplemented, "coordination: no service has %s", method)
}

// Invoke implements grpc.ClientConnInterface.
func (c *connection) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	m, found := c.methods.unary[method]
	if !found {
		return unknownMethod(method)
	}
	request, err := encode(args)
	if err != nil {
		return err
	}
	res, err := m.Handler(m.service, ctx, func(req any) error { return decode(request, req) }, nil)
	if err != nil {
		return err
	}
	answer, err := encode(res)
	if err != nil {
		return err
	}
	return decode(answer, reply)
}

// encode returns a message as bytes, so that client and service share nothing.
func encode(m any) ([]byte, error) {
	switch m := m.(type) {
	case rpc.Raw:
		return m.AppendTo(make([]byte, 0, m.Size())), nil
	case proto.Message:
		return proto.Marshal(m)
	}
	return nil, status.Errorf(codes.Internal, "coordination: %T is no message", m)
}

func decode(b []byte, m any) error {
	into, ok := m.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "coordination: %T is no message", m)
	}
	return proto.Unmarshal(b, into)
}

// NewStream implements grpc.ClientConnInterface. The handler runs until it returns, which it does when ctx
// ends.
func (c *connection) NewStream(ctx context.Context, _ *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	m, found := c.methods.stream[method]
	if !found {
		return nil, unknownMethod(method)
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &pipe{ctx: ctx, up: make(chan []byte, 1), down: make(chan []byte, 1), sent: make(chan struct{}), done: make(chan struct{})}
	c.streams.Go(func() {
		defer cancel()
		defer close(p.done)
		p.err = c.handle(m, p)
	})
	return clientEnd{p}, nil
}

// handle runs a handler. Nothing above it on its goroutine would catch its panic.
func (c *connection) handle(m streamMethod, p *pipe) (err error) {
	defer func() {
		if r := recover(); r != nil {
			c.methods.lg.Error("a stream of a lock or an election failed by a panic; the member goes on, please report this",
				zap.String("method", m.StreamName), zap.Any("panic", r), zap.ByteString("stack", debug.Stack()))
			err = status.Error(codes.Internal, "dolmen: the request failed unexpectedly; the server's log says why")
		}
	}()
	return m.Handler(m.service, serverEnd{p})
}

// pipe is a stream between two goroutines. One message waits in each direction, further ones block.
type pipe struct {
	ctx      context.Context
	up, down chan []byte
	finish   sync.Once
	sent     chan struct{} // closed when the client sends no more
	done     chan struct{} // closed when the handler has returned
	err      error         // its error, once done is closed
}

// clientEnd is the caller's side of a pipe.
type clientEnd struct{ *pipe }

func (p clientEnd) Header() (metadata.MD, error) { return nil, nil }
func (p clientEnd) Trailer() metadata.MD         { return nil }
func (p clientEnd) Context() context.Context     { return p.ctx }

func (p clientEnd) CloseSend() error {
	p.finish.Do(func() { close(p.sent) })
	return nil
}

func (p clientEnd) SendMsg(m any) error {
	b, err := encode(m)
	if err != nil {
		return err
	}
	select {
	case p.up <- b:
		return nil
	case <-p.done:
		return io.EOF // RecvMsg says why
	case <-p.ctx.Done():
		return status.FromContextError(p.ctx.Err()).Err()
	}
}

func (p clientEnd) RecvMsg(m any) error {
	select {
	case b := <-p.down:
		return decode(b, m)
	case <-p.done:
	}
	select {
	case b := <-p.down: // sent before the handler returned
		return decode(b, m)
	default:
	}
	if p.err == nil {
		return io.EOF
	}
	return toStatus(p.err)
}

func toStatus(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	return status.Error(codes.Unknown, err.Error())
}

// serverEnd is the handler's side of a pipe.
type serverEnd struct{ *pipe }

func (p serverEnd) SetHeader(metadata.MD) error  { return nil }
func (p serverEnd) SendHeader(metadata.MD) error { return nil }
func (p serverEnd) SetTrailer(metadata.MD)       {}
func (p serverEnd) Context() context.Context     { return p.ctx }

func (p serverEnd) SendMsg(m any) error {
	b, err := encode(m)
	if err != nil {
		return err
	}
	select {
	case p.down <- b:
		return nil
	case <-p.ctx.Done():
		return p.gone()
	}
}

func (p serverEnd) RecvMsg(m any) error {
	select {
	case b := <-p.up:
		return decode(b, m)
	case <-p.ctx.Done():
		return p.gone()
	case <-p.sent:
	}
	select {
	case b := <-p.up: // sent before the client finished
		return decode(b, m)
	default:
		return io.EOF
	}
}

func (p serverEnd) gone() error {
	return fmt.Errorf("coordination: the caller has gone: %w", p.ctx.Err())
}
