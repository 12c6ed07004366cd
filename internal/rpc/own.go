package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/rpc/transport"
)

// newOwn returns our own transport, with the checks of this package around its handlers.
func (s *Server) newOwn() *transport.Server {
	unary, stream := s.interceptors()
	return transport.New(transport.Config{
		MaxRecvBytes:         MaxMessageBytes(s.cfg.MaxRequestBytes),
		MaxConcurrentStreams: s.cfg.MaxConcurrentStreams,
		KeepAliveMinTime:     s.cfg.KeepAliveMinTime,
		KeepAliveInterval:    s.cfg.KeepAliveInterval,
		KeepAliveTimeout:     s.cfg.KeepAliveTimeout,
		Codec:                &ownCodec{s.metrics},
		Unary:                chainUnary(unary),
		Stream:               chainStream(stream),
		Logger:               s.cfg.Logger,
	})
}

// ownCodec is protobuf, and counts the bytes of messages.
type ownCodec struct{ *metrics }

// Append implements transport.Codec.
func (*ownCodec) Append(b []byte, v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("rpc: cannot encode a %T", v)
	}
	return proto.MarshalOptions{}.MarshalAppend(b, m)
}

// Unmarshal implements transport.Codec.
func (*ownCodec) Unmarshal(data []byte, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("rpc: cannot decode a %T", v)
	}
	return proto.Unmarshal(data, m)
}

// Sent implements transport.Codec.
func (c *ownCodec) Sent(n int) { c.sent.Add(float64(n)) }

// Received implements transport.Codec.
func (c *ownCodec) Received(n int) { c.received.Add(float64(n)) }

// chainUnary runs the interceptors around each other, the first outermost.
func chainUnary(all []grpc.UnaryServerInterceptor) grpc.UnaryServerInterceptor {
	if len(all) == 1 {
		return all[0]
	}
	first, rest := all[0], chainUnary(all[1:])
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		return first(ctx, req, info, func(ctx context.Context, req any) (any, error) { return rest(ctx, req, info, handler) })
	}
}

// chainStream is chainUnary for streams.
func chainStream(all []grpc.StreamServerInterceptor) grpc.StreamServerInterceptor {
	if len(all) == 1 {
		return all[0]
	}
	first, rest := all[0], chainStream(all[1:])
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		return first(srv, ss, info, func(srv any, ss grpc.ServerStream) error { return rest(srv, ss, info, handler) })
	}
}

// serveNegotiated serves TLS connections by the protocol that their clients chose: HTTP/2 is our transport's, which hands
// what is not gRPC to handler, and the rest is web's.
func (s *Server) serveNegotiated(ln net.Listener, web *http.Server, handler http.Handler) error {
	n := &negotiated{ln: ln, h2: newBranch(ln.Addr()), other: newBranch(ln.Addr())}
	return serveSplit(n, []sink{
		{serve: func(ln net.Listener) error { return s.own.Serve(ln, handler) }, from: n.h2},
		{serve: web.Serve, from: n.other},
	})
}

// negotiated deals the TLS connections of a listener out to two branches.
type negotiated struct {
	ln        net.Listener
	h2, other *branch
}

// run implements dealer.
func (n *negotiated) run() error {
	defer func() { _ = n.close() }() // why it ended counts, not how it closes
	for {
		conn, err := n.ln.Accept()
		if err != nil {
			return err
		}
		to := n.other
		if secure, ok := conn.(*tls.Conn); ok && secure.ConnectionState().NegotiatedProtocol == "h2" {
			to = n.h2
		}
		if !to.deliver(conn) {
			_ = conn.Close() // the server is stopping; the client sees a reset
			return net.ErrClosed
		}
	}
}

// close implements dealer.
func (n *negotiated) close() error { return errors.Join(n.ln.Close(), n.h2.Close(), n.other.Close()) }

// shutdownOwn is Shutdown for our own transport.
func (s *Server) shutdownOwn(ctx context.Context, web []*http.Server) error {
	drained := make(chan error, 1)
	go func() { drained <- s.own.Shutdown(ctx) }()
	s.streams.stop(rpctypes.ErrGRPCStopped)
	err := shutdownWeb(ctx, web)
	if cut := <-drained; cut != nil {
		err = errors.Join(err, fmt.Errorf("rpc: gRPC requests were cut: %w", cut))
	}
	return err
}
