// Package rpc carries requests between clients and the services: the gRPC server, the split of one port
// between gRPC and plain HTTP, and what every request passes on its way, whatever its service: limits,
// metrics, the slow-request log, and the checks that need no more than the request's metadata.
//
// It runs on grpc-go. Nothing in its interface depends on that but the types of services and interceptors.
package rpc

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // etcd accepts compressed requests
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
)

const (
	// receiveOverhead is what a message may be larger than the largest request: etcd's allowance for what
	// surrounds it. Between the two limits the service answers, above both the transport does.
	receiveOverhead = 512 << 10
	// headerTimeout ends HTTP connections that dribble their headers. No client needs so long; etcd's five
	// minutes hold a goroutine and a descriptor that much longer.
	headerTimeout = time.Minute
	// cutGrace is what handlers get to notice that their connections were cut at a shutdown's deadline.
	cutGrace = time.Second
)

// Membership is what the checks of requests ask about this member. Its methods are called for every
// request, from many goroutines, and must not block.
type Membership interface {
	// HasLeader reports whether this member knows a leader.
	HasLeader() bool
	// IsLearner reports whether this member has no vote.
	IsLearner() bool
}

// Config says how a Server treats its clients.
type Config struct {
	// MaxRequestBytes is the largest request. A message may be 512 KiB larger before the transport refuses
	// it; answers are not limited.
	MaxRequestBytes uint
	// MaxConcurrentStreams is the most requests at once on one connection; 0 means no limit.
	MaxConcurrentStreams uint32
	// MaxConnections is the most open connections of one listener; 0 means no limit. More wait in the
	// listener's queue.
	MaxConnections int
	// KeepAliveMinTime is the shortest interval between a client's pings that is tolerated; 0 means
	// grpc-go's default.
	KeepAliveMinTime time.Duration
	// KeepAliveInterval is the idle time after which the server pings, KeepAliveTimeout how long it then
	// waits before it closes the connection; if either is 0 the server does not ping.
	KeepAliveInterval time.Duration
	KeepAliveTimeout  time.Duration
	// ElectionTimeout is raft's. A stream that requires a leader ends after three of them without one.
	ElectionTimeout time.Duration
	// SlowRequest is the duration above which a unary request is logged.
	SlowRequest time.Duration
	// ExtensiveMetrics adds a histogram of the latency of each method.
	ExtensiveMetrics bool

	Logger     *zap.Logger
	Registry   prometheus.Registerer
	Membership Membership

	// Unary and Stream run inside the server's own checks, the first one outermost.
	Unary  []grpc.UnaryServerInterceptor
	Stream []grpc.StreamServerInterceptor
}

// Server serves gRPC and HTTP on any number of listeners. Register the services, then call Serve for each
// listener on its own goroutine; Shutdown ends them all.
type Server struct {
	cfg     Config
	grpc    *grpc.Server
	health  *health.Server
	metrics *metrics
	streams *streams
	begin   sync.Once

	mu struct {
		sync.Mutex
		stopped bool
		splits  []*splitter
		web     []*http.Server
	}
	stopping chan struct{} // closed when Shutdown begins
	stopped  chan struct{} // closed when it ends
}

// New returns a server that has only the gRPC health service, SERVING. It starts a goroutine, so it must be
// shut down even if it never served. Its errors are an impossible Config or metrics that the registry
// has already.
func New(cfg Config) (*Server, error) {
	if cfg.ElectionTimeout <= 0 {
		return nil, fmt.Errorf("rpc: election timeout must be above 0, is %v", cfg.ElectionTimeout)
	}
	if cfg.Logger == nil || cfg.Registry == nil || cfg.Membership == nil {
		return nil, errors.New("rpc: a server needs a logger, a registry and a membership")
	}
	m, err := newMetrics(cfg.Registry, cfg.ExtensiveMetrics)
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg:      cfg,
		health:   health.NewServer(),
		metrics:  m,
		streams:  newStreams(),
		stopping: make(chan struct{}),
		stopped:  make(chan struct{}),
	}
	s.grpc = grpc.NewServer(s.options()...)
	grpc_health_v1.RegisterHealthServer(s.grpc, s.health)
	go s.watchLeader()
	return s, nil
}

func (s *Server) options() []grpc.ServerOption {
	// Outermost first: what is logged and counted includes requests that a check refuses, and a panic is
	// counted with the code that the client gets.
	unary := []grpc.UnaryServerInterceptor{s.logUnary, s.metrics.grpc.UnaryServerInterceptor(), s.recoverUnary, s.checkUnary}
	stream := []grpc.StreamServerInterceptor{s.metrics.grpc.StreamServerInterceptor(), s.recoverStream, s.checkStream}
	opts := []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec(s.metrics.sent, s.metrics.received)),
		grpc.ChainUnaryInterceptor(append(unary, s.cfg.Unary...)...),
		grpc.ChainStreamInterceptor(append(stream, s.cfg.Stream...)...),
		grpc.MaxRecvMsgSize(int(min(uint64(s.cfg.MaxRequestBytes)+receiveOverhead, math.MaxInt32))),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.MaxConcurrentStreams(s.cfg.MaxConcurrentStreams),
	}
	if s.cfg.KeepAliveMinTime > 0 {
		opts = append(opts, grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: s.cfg.KeepAliveMinTime}))
	}
	if s.cfg.KeepAliveInterval > 0 && s.cfg.KeepAliveTimeout > 0 {
		opts = append(opts, grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: s.cfg.KeepAliveInterval, Timeout: s.cfg.KeepAliveTimeout,
		}))
	}
	return opts
}

// RegisterService adds a service. It must be called before the first Serve.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, implementation any) {
	s.grpc.RegisterService(desc, implementation)
}

// Serve serves the connections of a listener until Shutdown, then returns nil, or until the listener fails.
// A connection that opens with HTTP/2's preface is gRPC, any other goes to handler. With a nil handler all
// are gRPC. It closes the listener. After Shutdown it only does that.
func (s *Server) Serve(ln net.Listener, handler http.Handler) error {
	s.begin.Do(func() { s.metrics.initialize(s.grpc) })
	ln = s.limit(ln)
	if handler == nil {
		return s.result(ln, s.serveGRPC(ln))
	}
	split, web := newSplitter(ln), s.newHTTPServer(handler)
	if !s.track(split, web) {
		return split.close()
	}
	var branches sync.WaitGroup
	branches.Go(func() {
		// What ends a branch is the splitter or Shutdown; run reports which.
		_ = s.serveGRPC(split.grpc)
	})
	branches.Go(func() { _ = web.Serve(split.web) })
	err := split.run()
	branches.Wait()
	return s.result(ln, err)
}

// serveGRPC serves until the listener fails or Shutdown ends. grpc-go's Serve waits for every handler, even
// for one that does not notice that its connection was cut.
func (s *Server) serveGRPC(ln net.Listener) error {
	ended := make(chan error, 1)
	go func() { ended <- s.grpc.Serve(ln) }()
	select {
	case err := <-ended:
		return err
	case <-s.stopped:
		return grpc.ErrServerStopped
	}
}

// ServeHTTPOnly is Serve for a listener without gRPC.
func (s *Server) ServeHTTPOnly(ln net.Listener, handler http.Handler) error {
	ln = s.limit(ln)
	web := s.newHTTPServer(handler)
	if !s.track(nil, web) {
		return ln.Close()
	}
	return s.result(ln, web.Serve(ln))
}

func (s *Server) limit(ln net.Listener) net.Listener {
	if s.cfg.MaxConnections <= 0 {
		return ln
	}
	return netutil.LimitListener(ln, s.cfg.MaxConnections)
}

func (s *Server) newHTTPServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		// These are clients' mistakes: of use to who debugs a client, noise to who runs the server.
		ErrorLog: debugLog(s.cfg.Logger),
	}
}

// track notes what Shutdown must stop, unless it already has.
func (s *Server) track(split *splitter, web *http.Server) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.stopped {
		return false
	}
	if split != nil {
		s.mu.splits = append(s.mu.splits, split)
	}
	s.mu.web = append(s.mu.web, web)
	return true
}

// result is what a Serve returns whose listener ended with err.
func (s *Server) result(ln net.Listener, err error) error {
	select {
	case <-s.stopping:
		return nil
	default:
		return fmt.Errorf("rpc: serve %s: %w", ln.Addr(), err)
	}
}

// Shutdown refuses new requests, ends the streams that have no end of their own, and waits for the other
// requests under way. At ctx's deadline it cuts those that remain and says so. Further calls do nothing.
func (s *Server) Shutdown(ctx context.Context) error {
	splits, web, first := s.stop()
	if !first {
		return nil
	}
	defer close(s.stopped)
	s.health.Shutdown()
	var errs []error
	for _, split := range splits {
		errs = append(errs, split.close())
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		s.grpc.GracefulStop()
	}()
	s.streams.stop(rpctypes.ErrGRPCStopped)
	for _, w := range web {
		if err := w.Shutdown(ctx); err != nil {
			errs = append(errs, fmt.Errorf("rpc: HTTP requests were cut: %w", errors.Join(err, w.Close())))
		}
	}
	select {
	case <-drained:
	case <-ctx.Done():
		errs = append(errs, fmt.Errorf("rpc: gRPC requests were cut: %w", ctx.Err()))
		// Stop, too, waits for handlers once GracefulStop does.
		go s.grpc.Stop()
		grace := time.NewTimer(cutGrace)
		defer grace.Stop()
		select {
		case <-drained:
		case <-grace.C:
		}
	}
	return errors.Join(errs...)
}

func (s *Server) stop() (splits []*splitter, web []*http.Server, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.stopped {
		return nil, nil, false
	}
	s.mu.stopped = true
	close(s.stopping)
	return s.mu.splits, s.mu.web, true
}
