package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// ErrStopped is what Serve returns once the server stops.
var ErrStopped = errors.New("transport: the server has been stopped")

// Raw is a message that encodes itself.
type Raw interface {
	// Size returns the number of bytes that AppendTo appends.
	Size() int
	// AppendTo appends the message's encoding to b and returns it. It may be called on any goroutine, with a lock held.
	AppendTo(b []byte) []byte
}

// Codec encodes and decodes messages that are not Raw. Its methods are called from many goroutines.
type Codec interface {
	// Append appends the encoding of v to b.
	Append(b []byte, v any) ([]byte, error)
	// Unmarshal decodes data, which belongs to v from then on.
	Unmarshal(data []byte, v any) error
	// Sent and Received count bytes of messages.
	Sent(n int)
	Received(n int)
}

// Config says how a Server treats its clients.
type Config struct {
	// MaxRecvBytes is the largest message that a client may send.
	MaxRecvBytes int
	// MaxConcurrentStreams is the most streams at once on a connection; 0 means no limit.
	MaxConcurrentStreams uint32
	// KeepAliveMinTime is the shortest interval between a client's pings that is tolerated; 0 means five minutes, as grpc-go.
	KeepAliveMinTime time.Duration
	// KeepAliveInterval is the idle time after which the server pings, and KeepAliveTimeout how long it then waits before it
	// closes the connection; if either is 0 the server does not ping.
	KeepAliveInterval time.Duration
	KeepAliveTimeout  time.Duration

	Codec  Codec
	Unary  grpc.UnaryServerInterceptor  // nil = none
	Stream grpc.StreamServerInterceptor // nil = none
	Logger *zap.Logger
}

// method is one method of a registered service.
type method struct {
	full    string // "/service/method"
	service any
	unary   grpc.MethodHandler // nil for a stream
	direct  Direct             // nil for a method without
	stream  *grpc.StreamDesc
}

// Server is a gRPC server. Register the services first, then call Serve for each listener; Shutdown ends them.
type Server struct {
	cfg      Config
	methods  map[string]*method // by full name
	services map[string]bool    // by name

	work chan *stream // to idle workers

	mu struct {
		sync.Mutex
		draining, stopped bool
		conns             map[*conn]struct{}
		listeners         map[net.Listener]struct{}
	}
	idle chan struct{} // has an element when the last connection has gone while the server drains
	over chan struct{} // closed when Shutdown ends: no worker waits any more
}

// New returns a server without services.
func New(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	s := &Server{
		cfg: cfg, methods: map[string]*method{}, services: map[string]bool{},
		work: make(chan *stream), idle: make(chan struct{}, 1),
		over: make(chan struct{}),
	}
	s.mu.conns, s.mu.listeners = map[*conn]struct{}{}, map[net.Listener]struct{}{}
	return s
}

// RegisterService adds a service; it panics, as grpc-go does, if impl does not implement it or its name is taken. It
// must not be called after the first Serve.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	if impl != nil {
		if want := reflect.TypeOf(desc.HandlerType).Elem(); !reflect.TypeOf(impl).Implements(want) {
			panic(fmt.Sprintf("transport: %T does not implement the service %s", impl, desc.ServiceName))
		}
	}
	if s.services[desc.ServiceName] {
		panic("transport: the service " + desc.ServiceName + " is registered already")
	}
	for i := range desc.Methods {
		m := &desc.Methods[i]
		full := "/" + desc.ServiceName + "/" + m.MethodName
		s.methods[full] = &method{full: full, service: impl, unary: m.Handler}
	}
	for i := range desc.Streams {
		d := &desc.Streams[i]
		full := "/" + desc.ServiceName + "/" + d.StreamName
		s.methods[full] = &method{full: full, service: impl, stream: d}
	}
	s.services[desc.ServiceName] = true
}

// unknown says what is wrong with the name of a method that is not registered, in grpc-go's words.
func (s *Server) unknown(path string) string {
	name, found := strings.CutPrefix(path, "/")
	at := strings.LastIndex(name, "/")
	if !found || at < 0 {
		return fmt.Sprintf("malformed method name: %q", path)
	}
	service, method := name[:at], name[at+1:]
	if !s.services[service] {
		return fmt.Sprintf("unknown service %v", service)
	}
	return fmt.Sprintf("unknown method %v for service %v", method, service)
}

// Serve serves the connections of a listener, which it closes, until Shutdown, and then returns ErrStopped, or until the
// listener fails. Those of a TLS listener are *tls.Conn after their handshake. Requests that are not gRPC are for web; if
// that is nil, they get 415.
func (s *Server) Serve(ln net.Listener, web http.Handler) error {
	if !s.track(ln) {
		return errors.Join(ErrStopped, ln.Close())
	}
	defer s.untrack(ln)
	for {
		nc, err := ln.Accept()
		if err != nil {
			if s.ending() {
				return ErrStopped
			}
			return err
		}
		go s.serveConn(nc, web)
	}
}

// serveConn serves one connection, as Serve does, until it ends. It closes it.
func (s *Server) serveConn(nc net.Conn, web http.Handler) {
	var state *tls.ConnectionState
	if secure, ok := nc.(*tls.Conn); ok {
		st := secure.ConnectionState()
		state = &st
		if st.NegotiatedProtocol != "h2" {
			s.cfg.Logger.Debug("a client did not choose h2 in its TLS handshake", zap.Stringer("remote", nc.RemoteAddr()))
			_ = nc.Close() // it would not understand more
			return
		}
	}
	c := newConn(s, nc, state, web)
	if !s.admit(c) {
		_ = nc.Close() // the server has stopped: nobody to tell
		return
	}
	defer s.forget(c)
	c.serve()
}

func (s *Server) track(ln net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.draining {
		return false
	}
	s.mu.listeners[ln] = struct{}{}
	return true
}

func (s *Server) untrack(ln net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.listeners, ln)
	_ = ln.Close() // it has failed, or Shutdown has closed it
}

func (s *Server) ending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.draining
}

func (s *Server) admit(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.draining {
		return false
	}
	s.mu.conns[c] = struct{}{}
	return true
}

func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.conns, c)
	if s.mu.draining && len(s.mu.conns) == 0 {
		select {
		case s.idle <- struct{}{}:
		default:
		}
	}
}

// Shutdown accepts no connections and no streams any more and waits until those under way have ended. When ctx ends it
// cuts them and returns its error; handlers see their contexts end. A second call does nothing.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if s.mu.draining {
		s.mu.Unlock()
		return nil
	}
	s.mu.draining = true
	defer close(s.over)
	for ln := range s.mu.listeners {
		_ = ln.Close() // Serve reports what matters
	}
	none := len(s.mu.conns) == 0
	for c := range s.mu.conns {
		c.drain()
	}
	s.mu.Unlock()
	if none {
		return nil
	}
	select {
	case <-s.idle:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	for c := range s.mu.conns {
		c.fail(ErrStopped)
	}
	s.mu.Unlock()
	return ctx.Err()
}

const (
	// workerLife is how many requests a worker runs before it ends, so that a stack that one request made large goes.
	workerLife = 1 << 14
	// workerPatience is how long an idle worker waits for the next request.
	workerPatience = 5 * time.Second
)

// run runs a request on an idle worker, or on a new one.
func (s *Server) run(st *stream) {
	select {
	case s.work <- st:
	default:
		go s.worker(st)
	}
}

// worker runs one request after the other: the stacks of handlers are deep, and growing one costs more than a small
// request does.
func (s *Server) worker(st *stream) {
	st.handle()
	timer := time.NewTimer(workerPatience)
	defer timer.Stop()
	for range workerLife {
		select {
		case st = <-s.work:
			st.handle()
			timer.Reset(workerPatience)
		case <-timer.C:
			return
		case <-s.over:
			return
		}
	}
}
