package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
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

	"github.com/dolmen-io/dolmen/internal/certs"
	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/coordination"
	"github.com/dolmen-io/dolmen/internal/etcdapi"
	"github.com/dolmen-io/dolmen/internal/httpapi"
	"github.com/dolmen-io/dolmen/internal/rpc"
)

// front is what faces the network: listeners, the gRPC server and HTTP.
type front struct {
	lg       *zap.Logger
	registry *prometheus.Registry
	rpc      *rpc.Server
	// coordination has services that wait for keys of others.
	coordination *coordination.Services
	// gateway asks the gRPC server through loopback; both are nil without it.
	gateway  *httpapi.Gateway
	loopback io.Closer

	client, web, metrics, peer []*listener

	// The certificates of listeners that speak TLS; nil without such.
	clientTLS, peerTLS *certs.Store
	// generatedPeers names the files of a certificate for peers that was made at the start.
	generatedPeers config.TLS

	clientHandler, metricsHandler, peerHandler http.Handler

	// peers serve HTTP on peer URLs.
	peers                 http.Server
	serving, servingPeers sync.WaitGroup
}

// peerHeaderTimeout ends peer connections that do not say what they want.
const peerHeaderTimeout = time.Minute

// listener is a bound address. One of the client URLs may serve connections without TLS and with it.
type listener struct {
	net.Listener
	url           url.URL // the first that names the address
	plain, secure bool
}

// serves adds what a URL asks for.
func (l *listener) serves(u url.URL) {
	if config.Secure(u) {
		l.secure = true
	} else {
		l.plain = true
	}
}

// listen binds all addresses. Nothing is accepted before serve.
func listen(cfg *config.Config, lg *zap.Logger) (f *front, err error) {
	f = &front{lg: lg, registry: prometheus.NewRegistry()}
	for _, group := range []struct {
		urls []url.URL
		into *[]*listener
		flag string
		// mixed groups may serve one address with TLS and without.
		mixed bool
	}{
		{cfg.ListenPeerURLs, &f.peer, "--listen-peer-urls", false},
		{cfg.ListenClientURLs, &f.client, "--listen-client-urls", true},
		{cfg.ListenClientHTTPURLs, &f.web, "--listen-client-http-urls", true},
		{cfg.ListenMetricsURLs, &f.metrics, "--listen-metrics-urls", true},
	} {
		for _, u := range group.urls {
			if at := slices.IndexFunc(*group.into, func(l *listener) bool {
				return config.Address(l.url) == config.Address(u) && (group.mixed || l.url.Scheme == u.Scheme)
			}); at >= 0 {
				(*group.into)[at].serves(u) // the same address given twice
				continue
			}
			ln, err := bind(u)
			if err != nil {
				return nil, errors.Join(fmt.Errorf("listen on %s of %s: %w", u.String(), group.flag, err), f.close())
			}
			l := &listener{Listener: ln, url: u}
			l.serves(u)
			*group.into = append(*group.into, l)
		}
	}
	return f, nil
}

// bind opens one address. A unix socket that a killed process left behind is removed; one that answers is
// in use.
func bind(u url.URL) (net.Listener, error) {
	if !strings.HasPrefix(u.Scheme, "unix") {
		return net.Listen("tcp", u.Host)
	}
	path := config.Address(u)
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
		GRPCGo:               m.cfg.GRPC.Transport == config.TransportGRPCGo,
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
	services := etcdapi.New(m, lessor{m}, operator{m}, newBackup(m), m.hub, etcdapi.Limits{
		RequestBytes: int(m.cfg.MaxRequestBytes), TxnOps: int(m.cfg.MaxTxnOps), Space: m, StrictReconfig: m.cfg.StrictReconfigCheck,
	}, etcdapi.Credentials{
		Tokens: m.users.tokens, Passwords: m.users.passwords, CertificateNames: m.cfg.ClientTLS.ClientCertAuth,
	})
	services.Register(f.rpc)
	services.RegisterDirect(f.rpc, m)
	f.coordination = coordination.New(f.lg)
	services.Register(f.coordination)
	f.coordination.Register(f.rpc)
	if err := f.handlers(m); err != nil {
		return err
	}
	f.peerHandler = m.peerHandler(f.peerHandler, services)
	return nil
}

// servePeers begins to accept other members.
func (f *front) servePeers(m *Member) {
	f.peers.Handler, f.peers.ReadHeaderTimeout = f.peerHandler, peerHeaderTimeout
	f.peers.ErrorLog = log.New(io.Discard, "", 0) // rafthttp ends a connection by a panic, and has logged why
	for _, l := range f.peer {
		ln := limited(l)
		if l.secure {
			secure := f.peerTLS.Server(!m.cfg.PeerTLS.SkipClientSANVerification, protocolHTTP2, protocolHTTP1)
			ln = rpc.NewTLSListener(ln, secure, f.lg, "peer")
		}
		f.goServe(&f.servingPeers, m, l, func() error { return ignoreClosed(f.peers.Serve(ln)) })
	}
}

// serve begins to accept clients when the member is ready, and who asks for metrics at once.
func (f *front) serve(m *Member) {
	for _, l := range f.metrics {
		// As in etcd, only here a client's certificate is held against its address.
		ep := rpc.Endpoint{Listener: l, Plain: l.plain, Handler: f.metricsHandler,
			TLS: f.secureClients(l, !m.cfg.ClientTLS.SkipClientSANVerification, protocolHTTP2, protocolHTTP1)}
		f.goServe(&f.serving, m, l, func() error { return f.rpc.Serve(ep) })
	}
	for _, l := range f.web {
		f.afterReady(m, l, "http", rpc.Endpoint{Listener: l, Plain: l.plain, Handler: f.clientHandler,
			TLS: f.secureClients(l, false, protocolHTTP2, protocolHTTP1)})
	}
	for _, l := range f.client {
		if len(f.web) > 0 { // HTTP has URLs of its own
			f.afterReady(m, l, "grpc", rpc.Endpoint{Listener: l, Plain: l.plain, GRPC: true,
				TLS: f.secureClients(l, false, protocolHTTP2)})
			continue
		}
		f.afterReady(m, l, "grpc+http", rpc.Endpoint{Listener: l, Plain: l.plain, GRPC: true, Handler: f.clientHandler,
			TLS: f.secureClients(l, false, protocolHTTP2, protocolHTTP1)})
	}
}

func (f *front) goServe(group *sync.WaitGroup, m *Member, l *listener, serve func() error) {
	group.Go(func() {
		if err := serve(); err != nil {
			m.fail(fmt.Errorf("listener failed: %s: %w", l.url.String(), err))
		}
	})
}

func (f *front) afterReady(m *Member, l *listener, traffic string, ep rpc.Endpoint) {
	f.goServe(&f.serving, m, l, func() error {
		select {
		case <-m.ready:
		case <-m.stopping:
			return l.Close()
		}
		f.lg.Info("ready to serve client requests")
		fields := []zap.Field{zap.String("traffic", traffic), zap.String("address", l.Addr().String())}
		if l.plain {
			f.lg.Info("serving client traffic insecurely; this is strongly discouraged!", fields...)
		}
		if l.secure {
			f.lg.Info("serving client traffic securely", fields...)
		}
		return f.rpc.Serve(ep)
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

// shutdown refuses new work of clients and waits for what is in flight, until ctx ends. What remains then is cut off.
func (f *front) shutdown(ctx context.Context) error {
	f.coordination.Stop()
	err := errors.Join(f.rpc.Shutdown(ctx), f.closeGateway())
	f.serving.Wait()
	return err
}

// shutdownPeers ends what other members ask. Until then this member is one of them.
func (f *front) shutdownPeers() {
	ctx, cancel := context.WithTimeout(context.Background(), peerPatience)
	defer cancel()
	if err := f.peers.Shutdown(ctx); err != nil {
		_ = f.peers.Close() // a connection that says nothing is not worth a word
	}
	f.servingPeers.Wait()
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
		errs = append(errs, f.closeGateway())
	}
	return errors.Join(errs...)
}

// clientURLs are the addresses of clients as URLs; without TLS where there is a choice.
func (f *front) clientURLs() (urls []string) {
	for _, l := range f.client {
		scheme, network := "http://", "unix:"
		if !l.plain {
			scheme, network = "https://", "unixs:"
		}
		if strings.HasPrefix(l.url.Scheme, "unix") {
			urls = append(urls, network+l.Addr().String())
		} else {
			urls = append(urls, scheme+l.Addr().String())
		}
	}
	return urls
}
