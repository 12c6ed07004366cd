package rpc

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"strings"
	"sync"

	"go.uber.org/zap"
	"golang.org/x/net/netutil"
	"google.golang.org/grpc"

	"github.com/dolmen-io/dolmen/internal/rpc/transport"
)

// Endpoint is a listener and what is served on it.
type Endpoint struct {
	Listener net.Listener
	// Plain serves connections without TLS, TLS those with it. With both a connection's first byte decides.
	Plain bool
	TLS   *tls.Config
	// GRPC and Handler are what is served. With both, plain connections that open with HTTP/2's preface are
	// gRPC, and on secure ones each request of content type application/grpc.
	GRPC    bool
	Handler http.Handler
}

var errNothingServed = errors.New("rpc: an endpoint needs a listener, gRPC or a handler, and plain connections or TLS")

// Serve serves the connections of an endpoint until Shutdown, then returns nil, or until the listener fails.
// It closes the listener. After Shutdown it only does that.
func (s *Server) Serve(ep Endpoint) error {
	if ep.Listener == nil || !ep.GRPC && ep.Handler == nil || !ep.Plain && ep.TLS == nil {
		return errNothingServed
	}
	s.initialize()
	ep.Listener = s.limit(ep.Listener)
	var web *http.Server
	if ep.Handler != nil {
		web = s.newHTTPServer(ep)
	}
	sinks, split := s.sinks(ep, web), (*splitter)(nil)
	if len(sinks) > 1 {
		// All branches are there before Shutdown knows of the splitter, or anything ends.
		split = newSplitter(ep.Listener)
		for i, one := range sinks {
			sinks[i].from = split.branch(one.of...)
		}
	}
	if !s.track(split, web) {
		return ep.Listener.Close()
	}
	if split == nil {
		return s.result(ep.Listener, sinks[0].serve(ep.Listener))
	}
	return s.result(ep.Listener, serveSplit(split, sinks))
}

// sink is what serves some kinds of connection.
type sink struct {
	of    []kind
	serve func(net.Listener) error
	from  net.Listener // its branch of a splitter; nil if there is none
}

func (s *Server) sinks(ep Endpoint, web *http.Server) (all []sink) {
	overGRPC := func(ln net.Listener) error { return s.serveGRPC(ln, ep.Handler) }
	if ep.TLS != nil {
		all = append(all, sink{of: []kind{kindTLS}, serve: func(ln net.Listener) error {
			ln = NewTLSListener(ln, ep.TLS, s.cfg.Logger, "client")
			switch {
			case web == nil:
				return s.serveGRPC(ln, nil)
			case s.own != nil && ep.GRPC:
				return s.serveNegotiated(ln, web, ep.Handler)
			}
			return web.Serve(ln)
		}})
	}
	switch {
	case !ep.Plain:
	case web == nil:
		all = append(all, sink{of: []kind{kindOther, kindHTTP2}, serve: overGRPC})
	case !ep.GRPC:
		all = append(all, sink{of: []kind{kindOther, kindHTTP2}, serve: web.Serve})
	default:
		all = append(all, sink{of: []kind{kindHTTP2}, serve: overGRPC}, sink{of: []kind{kindOther}, serve: web.Serve})
	}
	if ep.TLS == nil && web != nil {
		// Who speaks TLS to a plain port is told so.
		all[len(all)-1].of = append(all[len(all)-1].of, kindTLS)
	}
	return all
}

// dealer deals the connections of a listener out to branches.
type dealer interface {
	// run does so until close, or until the listener fails, and returns why it ended. The branches are closed then.
	run() error
	// close ends run. It may be called more than once.
	close() error
}

// serveSplit serves until the listener or one of the sinks ends, and returns why.
func serveSplit(split dealer, sinks []sink) error {
	ends := make(chan error, len(sinks))
	var serving sync.WaitGroup
	for _, one := range sinks {
		serving.Go(func() {
			ends <- one.serve(one.from)
			_ = split.close() // why it ended counts, not how it closes
		})
	}
	err := split.run()
	serving.Wait()
	close(ends)
	for end := range ends {
		if !ordinary(end) {
			err = end
		}
	}
	return err
}

// ordinary reports whether a server ended because its listener or itself was closed.
func ordinary(end error) bool {
	for _, closed := range []error{net.ErrClosed, http.ErrServerClosed, grpc.ErrServerStopped, transport.ErrStopped} {
		if errors.Is(end, closed) {
			return true
		}
	}
	return false
}

// serveGRPC serves until the listener fails or Shutdown ends. handler is for requests that are not gRPC, of which grpc-go
// takes none. grpc-go's Serve waits for every handler, even for one that does not notice that its connection was cut.
func (s *Server) serveGRPC(ln net.Listener, handler http.Handler) error {
	if s.own != nil {
		return s.own.Serve(ln, handler)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.grpc.Serve(ln) }()
	select {
	case err := <-ended:
		return err
	case <-s.stopped:
		return grpc.ErrServerStopped
	}
}

func (s *Server) limit(ln net.Listener) net.Listener {
	if s.cfg.MaxConnections <= 0 {
		return ln
	}
	return netutil.LimitListener(ln, s.cfg.MaxConnections)
}

func (s *Server) newHTTPServer(ep Endpoint) *http.Server {
	streams := int(min(s.cfg.MaxConcurrentStreams, math.MaxInt32))
	if streams == 0 {
		streams = math.MaxInt32 // 0 would be net/http's default
	}
	web := &http.Server{
		Handler:           ep.Handler,
		ReadHeaderTimeout: headerTimeout,
		TLSConfig:         ep.TLS.Clone(), // net/http completes it
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: streams},
		// These are clients' mistakes: of use to who debugs a client, noise to who runs the server.
		ErrorLog: debugLog(s.cfg.Logger),
	}
	if s.cfg.KeepAliveInterval > 0 && s.cfg.KeepAliveTimeout > 0 {
		web.HTTP2.SendPingTimeout, web.HTTP2.PingTimeout = s.cfg.KeepAliveInterval, s.cfg.KeepAliveTimeout
	}
	if ep.GRPC && s.own == nil {
		web.Handler = s.withGRPC(ep.Handler)
	}
	return web
}

// withGRPC hands gRPC requests of secure connections to gRPC.
func (s *Server) withGRPC(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil && r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			s.overHTTP.ServeHTTP(w, paced(r))
			return
		}
		next.ServeHTTP(w, r)
	})
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
	if web != nil {
		s.mu.web = append(s.mu.web, web)
	}
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

// debugLog is a logger of the standard library that writes debug lines.
func debugLog(logger *zap.Logger) *log.Logger {
	std, err := zap.NewStdLogAt(logger, zap.DebugLevel)
	if err != nil {
		// Only an unknown level is an error.
		return log.New(io.Discard, "", 0)
	}
	return std
}
