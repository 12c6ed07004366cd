package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/net/netutil"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/etcdapi"
	"github.com/dolmen-io/dolmen/internal/rpc"
)

// front is what faces the network: listeners, the gRPC server and HTTP.
type front struct {
	lg       *zap.Logger
	registry *prometheus.Registry
	rpc      *rpc.Server

	client, web, metrics, peer []*listener

	clientHandler, metricsHandler, peerHandler http.Handler

	// peers serve HTTP on peer URLs.
	peers   http.Server
	serving sync.WaitGroup
}

// peerHeaderTimeout ends peer connections that do not say what they want.
const peerHeaderTimeout = time.Minute

// listener is a bound address.
type listener struct {
	net.Listener
	url url.URL
}

// listen binds all addresses. Nothing is accepted before serve.
func listen(cfg *config.Config, lg *zap.Logger) (f *front, err error) {
	f = &front{lg: lg, registry: prometheus.NewRegistry()}
	for _, group := range []struct {
		urls []url.URL
		into *[]*listener
		flag string
	}{
		{cfg.ListenPeerURLs, &f.peer, "--listen-peer-urls"},
		{cfg.ListenClientURLs, &f.client, "--listen-client-urls"},
		{cfg.ListenClientHTTPURLs, &f.web, "--listen-client-http-urls"},
		{cfg.ListenMetricsURLs, &f.metrics, "--listen-metrics-urls"},
	} {
		for _, u := range group.urls {
			if slices.ContainsFunc(*group.into, func(l *listener) bool { return l.url == u }) {
				continue // the same address given twice
			}
			ln, err := bind(u)
			if err != nil {
				return nil, errors.Join(fmt.Errorf("listen on %s of %s: %w", u.String(), group.flag, err), f.close())
			}
			*group.into = append(*group.into, &listener{ln, u})
		}
	}
	return f, nil
}

// bind opens one address. A unix socket that a killed process left behind is removed; one that answers is
// in use.
func bind(u url.URL) (net.Listener, error) {
	if u.Scheme != "unix" {
		return net.Listen("tcp", u.Host)
	}
	path := u.Host + u.Path
	if c, err := net.Dial("unix", path); err == nil {
		return nil, errors.Join(errors.New("the socket is in use"), c.Close())
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return net.Listen("unix", path)
}

// build makes the servers over an opened member.
func (f *front) build(m *Member) (err error) {
	f.rpc, err = rpc.New(rpc.Config{
		MaxRequestBytes:      m.cfg.MaxRequestBytes,
		MaxConnections:       maxConnections(),
		MaxConcurrentStreams: m.cfg.GRPC.MaxConcurrentStreams,
		KeepAliveMinTime:     m.cfg.GRPC.KeepAliveMinTime,
		KeepAliveInterval:    m.cfg.GRPC.KeepAliveInterval,
		KeepAliveTimeout:     m.cfg.GRPC.KeepAliveTimeout,
		ElectionTimeout:      m.cfg.ElectionTimeout,
		SlowRequest:          m.cfg.WarningUnaryRequestDuration,
		ExtensiveMetrics:     m.cfg.Metrics == config.MetricsExtensive,
		Logger:               f.lg, Registry: f.registry, Membership: m,
	})
	if err != nil {
		return err
	}
	etcdapi.New(m, lessor{m}, m.hub, etcdapi.Limits{
		RequestBytes: int(m.cfg.MaxRequestBytes), TxnOps: int(m.cfg.MaxTxnOps),
	}, etcdapi.Credentials{
		Tokens: m.users.tokens, Passwords: m.users.passwords, CertificateNames: m.cfg.ClientTLS.ClientCertAuth,
	}).Register(f.rpc)
	return f.handlers(m)
}

// serve begins to accept: peers at once, clients when the member is ready.
func (f *front) serve(m *Member) {
	f.peers.Handler, f.peers.ReadHeaderTimeout = f.peerHandler, peerHeaderTimeout
	for _, l := range f.peer {
		f.goServe(m, l, func() error { return ignoreClosed(f.peers.Serve(limited(l))) })
	}
	for _, l := range f.metrics {
		f.goServe(m, l, func() error { return f.rpc.ServeHTTPOnly(l, f.metricsHandler) })
	}
	handler := f.clientHandler
	if len(f.web) > 0 {
		handler = nil // HTTP has URLs of its own
		for _, l := range f.web {
			f.afterReady(m, l, "http", func() error { return f.rpc.ServeHTTPOnly(l, f.clientHandler) })
		}
	}
	for _, l := range f.client {
		traffic := "grpc+http"
		if handler == nil {
			traffic = "grpc"
		}
		f.afterReady(m, l, traffic, func() error { return f.rpc.Serve(l, handler) })
	}
}

func (f *front) goServe(m *Member, l *listener, serve func() error) {
	f.serving.Go(func() {
		if err := serve(); err != nil {
			m.fail(fmt.Errorf("listener failed: %s: %w", l.url.String(), err))
		}
	})
}

func (f *front) afterReady(m *Member, l *listener, traffic string, serve func() error) {
	f.goServe(m, l, func() error {
		select {
		case <-m.ready:
		case <-m.stopping:
			return l.Close()
		}
		f.lg.Info("ready to serve client requests")
		f.lg.Info("serving client traffic insecurely; this is strongly discouraged!",
			zap.String("traffic", traffic), zap.String("address", l.Addr().String()))
		return serve()
	})
}

// limited bounds the connections of a listener.
func limited(l net.Listener) net.Listener {
	if n := maxConnections(); n > 0 {
		return netutil.LimitListener(l, n)
	}
	return l
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// peerPatience is what requests of other members get to finish when this one stops.
const peerPatience = time.Second

// shutdown refuses new work and waits for what is in flight, until ctx ends; peers have less time. What
// remains then is cut off.
func (f *front) shutdown(ctx context.Context) error {
	peers := make(chan error, 1)
	f.serving.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, peerPatience)
		defer cancel()
		err := f.peers.Shutdown(ctx)
		if err != nil {
			err = f.peers.Close() // a connection that says nothing is not worth a word
		}
		peers <- err
	})
	err := f.rpc.Shutdown(ctx)
	err = errors.Join(err, <-peers)
	f.serving.Wait()
	return err
}

// close releases listeners that were never served.
func (f *front) close() error {
	var errs []error
	for _, l := range slices.Concat(f.peer, f.client, f.web, f.metrics) {
		errs = append(errs, l.Close())
	}
	if f.rpc != nil {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = f.rpc.Shutdown(ctx) // it never served: there is nothing to cut
	}
	return errors.Join(errs...)
}

func (f *front) clientAddrs() (addrs []string) {
	for _, l := range f.client {
		if strings.HasPrefix(l.url.Scheme, "unix") {
			addrs = append(addrs, "unix:"+l.Addr().String())
		} else {
			addrs = append(addrs, l.Addr().String())
		}
	}
	return addrs
}
