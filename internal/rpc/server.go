// Package rpc carries requests between clients and the services: the gRPC server, the split of one port
// between gRPC and plain HTTP, and what every request passes on its way, whatever its service: limits,
// metrics, the slow-request log, and the checks that need no more than the request's metadata.
//
// It runs on the package transport or on grpc-go. Nothing in its interface depends on the latter but the types of
// services and interceptors.
package rpc

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // etcd accepts compressed requests
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/dolmen-io/dolmen/internal/rpc/transport"
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
	// GRPCGo has grpc-go carry requests instead of our own transport.
	GRPCGo bool
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
	cfg Config
	// own is nil with Config.GRPCGo, and then grpc is not.
	own  *transport.Server
	grpc *grpc.Server
	// overHTTP runs the requests of grpc that net/http has read. It is another server than grpc, which at its stop
	// would cut them.
	overHTTP *grpc.Server

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
	if cfg.GRPCGo {
		s.grpc = grpc.NewServer(append(s.options(), grpc.Creds(handshaken{}))...)
		s.overHTTP = grpc.NewServer(append(s.options(), grpc.StatsHandler(receipts{}))...)
	} else {
		s.own = s.newOwn()
	}
	s.RegisterService(&grpc_health_v1.Health_ServiceDesc, s.health)
	go s.watchLeader()
	return s, nil
}

// interceptors are what each request passes, outermost first: what is logged and counted includes requests that a check
// refuses, and a panic is counted with the code that the client gets.
func (s *Server) interceptors() ([]grpc.UnaryServerInterceptor, []grpc.StreamServerInterceptor) {
	unary := []grpc.UnaryServerInterceptor{s.logUnary, s.countUnary, s.recoverUnary, s.checkUnary}
	stream := []grpc.StreamServerInterceptor{s.countStream, s.recoverStream, s.checkStream}
	return append(unary, s.cfg.Unary...), append(stream, s.cfg.Stream...)
}

func (s *Server) options() []grpc.ServerOption {
	unary, stream := s.interceptors()
	opts := []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec(s.metrics.sent, s.metrics.received)),
		grpc.ChainUnaryInterceptor(unary...),
		grpc.ChainStreamInterceptor(stream...),
		grpc.MaxRecvMsgSize(MaxMessageBytes(s.cfg.MaxRequestBytes)),
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

// MaxMessageBytes returns the largest message that a server with a largest request takes.
func MaxMessageBytes(maxRequest uint) int {
	return int(min(uint64(maxRequest)+receiveOverhead, math.MaxInt32))
}

// RegisterService adds a service. It must be called before the first Serve.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, implementation any) {
	s.metrics.grpc.add(desc)
	if s.own != nil {
		s.own.RegisterService(desc, implementation)
		return
	}
	s.grpc.RegisterService(desc, implementation)
	s.overHTTP.RegisterService(desc, implementation)
}

// initialize makes the metrics of all services, once.
func (s *Server) initialize() { s.begin.Do(s.metrics.grpc.initialize) }

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
	if s.own != nil {
		return errors.Join(append(errs, s.shutdownOwn(ctx, web))...)
	}
	return errors.Join(append(errs, s.shutdownGRPC(ctx, web))...)
}

// shutdownGRPC is Shutdown for grpc-go.
func (s *Server) shutdownGRPC(ctx context.Context, web []*http.Server) error {
	drained, webDone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(drained)
		s.grpc.GracefulStop()
		<-webDone
		s.overHTTP.GracefulStop() // has no request left, or one whose connection was cut
	}()
	s.streams.stop(rpctypes.ErrGRPCStopped)
	errs := []error{shutdownWeb(ctx, web)}
	close(webDone)
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

// shutdownWeb waits for the requests of HTTP servers until ctx ends, and then cuts them.
func shutdownWeb(ctx context.Context, servers []*http.Server) error {
	errs := make([]error, len(servers))
	var stopping sync.WaitGroup
	for i, w := range servers {
		stopping.Go(func() {
			if err := w.Shutdown(ctx); err != nil {
				errs[i] = fmt.Errorf("rpc: HTTP requests were cut: %w", errors.Join(err, w.Close()))
			}
		})
	}
	stopping.Wait()
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
