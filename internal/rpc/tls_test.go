package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/dolmen-io/dolmen/internal/certs/certstest"
)

// secured is a server of whose connections some or all are secure.
type secured struct {
	*fixture
	ca     *certstest.Authority
	client *tls.Config
	// peers are what handlers saw of their callers, the newest last.
	peers chan *peer.Peer
}

// startSecure serves gRPC and, unless handler is nil, HTTP, with TLS and perhaps without.
func startSecure(t *testing.T, plain bool, handler http.Handler, change func(*Config)) *secured {
	s := &secured{ca: certstest.NewAuthority(t, "authority"), peers: make(chan *peer.Peer, 100)}
	protocols := []string{"h2", "http/1.1"}
	if handler == nil {
		protocols = protocols[:1]
	}
	server := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: protocols,
		Certificates: []tls.Certificate{s.ca.Issue("server", []string{"127.0.0.1"}).TLS()},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: s.ca.Pool(),
	}
	s.client = s.ca.Client(s.ca.Issue("alice", nil))
	s.fixture = start(t, listen(t), func(c *Config) {
		c.Unary = append(c.Unary, func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			p, _ := peer.FromContext(ctx)
			s.peers <- p
			return next(ctx, req)
		})
		if change != nil {
			change(c)
		}
	}, func(srv *Server, ln net.Listener) error {
		return srv.Serve(Endpoint{Listener: ln, Plain: plain, TLS: server, GRPC: true, Handler: handler})
	})
	require.NoError(t, s.conn.Close())
	var err error
	s.conn, err = grpc.NewClient(s.addr, grpc.WithTransportCredentials(credentials.NewTLS(s.client)))
	require.NoError(t, err)
	return s
}

func (s *secured) dial(t *testing.T, cfg *tls.Config) *grpc.ClientConn {
	creds := insecure.NewCredentials()
	if cfg != nil {
		creds = credentials.NewTLS(cfg)
	}
	conn, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(creds))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// web returns a client for HTTP/1.1 or HTTP/2.
func (s *secured) web(t *testing.T, http2 bool) *http.Client {
	transport := &http.Transport{TLSClientConfig: s.client.Clone(), ForceAttemptHTTP2: http2}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// TestSecure serves everything with TLS, on one port and each for itself, with plain connections and without.
func TestSecure(t *testing.T) {
	for _, plain := range []bool{false, true} {
		for _, handler := range []http.Handler{web, nil} {
			t.Run(fmt.Sprintf("plain %v, HTTP %v", plain, handler != nil), func(t *testing.T) {
				f := startSecure(t, plain, handler, func(c *Config) { c.MaxConnections = 100 })
				require.NoError(t, f.put(t.Context()))
				info, ok := (<-f.peers).AuthInfo.(credentials.TLSInfo)
				require.True(t, ok)
				require.Equal(t, "alice", info.State.VerifiedChains[0][0].Subject.CommonName)
				require.Equal(t, credentials.PrivacyAndIntegrity, info.SecurityLevel)
				f.watch(t, t.Context())

				_, err := pb.NewKVClient(f.dial(t, nil)).Range(t.Context(), &pb.RangeRequest{Key: []byte("k")})
				if plain {
					require.NoError(t, err)
					_, ok := (<-f.peers).AuthInfo.(credentials.TLSInfo)
					require.False(t, ok)
				} else {
					require.Equal(t, codes.Unavailable, status.Code(err))
				}
				if handler != nil {
					require.Equal(t, "HTTP/1.1 /x", get(t, f.web(t, false), "https://"+f.addr+"/x"))
					require.Equal(t, "HTTP/2.0 /x", get(t, f.web(t, true), "https://"+f.addr+"/x"))
					if plain {
						require.Equal(t, "HTTP/1.1 /x", get(t, http.DefaultClient, "http://"+f.addr+"/x"))
					}
				}
				_, err = pb.NewKVClient(f.dial(t, f.ca.Client(nil))).Range(t.Context(), &pb.RangeRequest{Key: []byte("k")})
				require.Equal(t, codes.Unavailable, status.Code(err))
				require.NoError(t, f.server.Shutdown(t.Context()))
				require.NoError(t, <-f.served)
				line := f.logs.FilterMessage("rejected connection on client endpoint").FilterField(zap.String("server-name", "")).All()[0]
				require.Equal(t, zapcore.WarnLevel, line.Level)
				require.Contains(t, line.ContextMap()["remote-addr"], "127.0.0.1:")
			})
		}
	}
}

// TestSecureHTTPOnly: a listener for HTTP takes no gRPC.
func TestSecureHTTPOnly(t *testing.T) {
	ca := certstest.NewAuthority(t, "authority")
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		Certificates: []tls.Certificate{ca.Issue("server", []string{"127.0.0.1"}).TLS()},
	}
	for _, plain := range []bool{false, true} {
		f := start(t, listen(t), nil, func(s *Server, ln net.Listener) error {
			return s.Serve(Endpoint{Listener: ln, Plain: plain, TLS: cfg, Handler: web})
		})
		s := &secured{fixture: f, client: ca.Client(nil)}
		require.Equal(t, "HTTP/2.0 /x", get(t, s.web(t, true), "https://"+f.addr+"/x"))
		_, err := pb.NewKVClient(s.dial(t, s.client)).Range(t.Context(), &pb.RangeRequest{})
		require.Equal(t, codes.Unknown, status.Code(err), "the answer is no gRPC")
		if plain {
			require.Equal(t, "HTTP/1.1 /x", get(t, http.DefaultClient, "http://"+f.addr+"/x"))
		}
		require.NoError(t, f.server.Shutdown(t.Context()))
		require.NoError(t, <-f.served)
	}
}

// TestSecureNeedsHTTP2: gRPC alone is spoken with clients that choose it in the handshake.
func TestSecureNeedsHTTP2(t *testing.T) {
	f := startSecure(t, false, nil, nil)
	conn, err := tls.Dial("tcp", f.addr, f.client)
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err)
}

func TestSecureFailures(t *testing.T) {
	f := startSecure(t, false, web, nil)
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{f.ca.Issue("x", nil).TLS()},
		CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_256_CBC_SHA}, // none that HTTP/2 demands
	}
	for i := range 100 { // one kind of connection may fail before the next is served
		err := f.server.Serve(Endpoint{Listener: listen(t), Plain: i%2 == 0, TLS: cfg, GRPC: true, Handler: web})
		require.ErrorContains(t, err, "TLSConfig.CipherSuites is missing an HTTP/2-required")
	}
	ln := listen(t)
	require.NoError(t, ln.Close())
	err := f.server.Serve(Endpoint{Listener: ln, TLS: cfg, GRPC: true})
	require.ErrorIs(t, err, net.ErrClosed)
	for _, ep := range []Endpoint{{}, {Listener: ln, Plain: true}, {Listener: ln, GRPC: true}} {
		require.ErrorIs(t, f.server.Serve(ep), errNothingServed)
	}
}

// TestSecureStreamLimit: net/http's HTTP/2 has the same limit as gRPC's own.
func TestSecureStreamLimit(t *testing.T) {
	limits := map[uint32]uint32{7: 7, 0: 0, math.MaxUint32: 0}
	if testsGRPCGo {
		limits = map[uint32]uint32{7: 7, 0: math.MaxInt32, math.MaxUint32: math.MaxInt32}
	}
	for limit, want := range limits {
		f := startSecure(t, false, web, func(c *Config) { c.MaxConcurrentStreams = limit })
		cfg := f.client.Clone()
		cfg.NextProtos = []string{"h2"}
		conn, err := tls.Dial("tcp", f.addr, cfg)
		require.NoError(t, err)
		_, err = io.WriteString(conn, http2.ClientPreface)
		require.NoError(t, err)
		framer := http2.NewFramer(conn, conn)
		require.NoError(t, framer.WriteSettings())
		frame, err := framer.ReadFrame()
		require.NoError(t, err)
		got, ok := frame.(*http2.SettingsFrame).Value(http2.SettingMaxConcurrentStreams)
		require.Equal(t, want > 0, ok, "no limit is not told")
		require.Equal(t, want, got)
		require.NoError(t, conn.Close())
	}
}

// TestSecurePings: net/http's HTTP/2 pings as gRPC's does, and not at all if either time is 0.
func TestSecurePings(t *testing.T) {
	for _, test := range []struct{ interval, timeout, wantInterval, wantTimeout time.Duration }{
		{time.Hour, time.Minute, time.Hour, time.Minute},
		{time.Hour, 0, 0, 0},
		{0, time.Minute, 0, 0},
	} {
		s := &Server{cfg: Config{KeepAliveInterval: test.interval, KeepAliveTimeout: test.timeout, Logger: zap.NewNop()}}
		got := s.newHTTPServer(Endpoint{Handler: web}).HTTP2
		require.Equal(t, test.wantInterval, got.SendPingTimeout)
		require.Equal(t, test.wantTimeout, got.PingTimeout)
	}
}

// TestSecureShutdownDrains is TestShutdownDrains over net/http.
func TestSecureShutdownDrains(t *testing.T) {
	for _, handler := range []http.Handler{web, nil} {
		f := startSecure(t, false, handler, nil)
		w := f.watch(t, t.Context())
		var unary error
		var calls sync.WaitGroup
		calls.Go(func() { _, unary = f.kv().Range(t.Context(), &pb.RangeRequest{Key: []byte("wait")}) })
		<-f.entered
		done := make(chan error)
		go func() { done <- f.server.Shutdown(t.Context()) }()
		_, err := w.Recv()
		require.Equal(t, rpctypes.ErrGRPCStopped.Error(), err.Error())
		select {
		case <-done:
			require.Fail(t, "did not wait")
		default:
		}
		close(f.leave)
		require.NoError(t, <-done)
		calls.Wait()
		require.NoError(t, unary)
		require.NoError(t, <-f.served)
	}
}

func TestSecureShutdownCuts(t *testing.T) {
	for _, handler := range []http.Handler{web, nil} {
		f := startSecure(t, false, handler, nil)
		failed := make(chan error)
		go func() {
			_, err := f.kv().Range(t.Context(), &pb.RangeRequest{Key: []byte("wait")})
			failed <- err
		}()
		<-f.entered
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := f.server.Shutdown(ctx)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorContains(t, err, "requests were cut")
		require.Equal(t, codes.Unavailable, status.Code(<-failed))
		require.NoError(t, <-f.served)
		close(f.leave)
	}
}

// tlsListening runs f with a TLS listener in a bubble of its own time.
func tlsListening(t *testing.T, f func(t *testing.T, p *pipes, l *TLSListener, ca *certstest.Authority, logs *observer.ObservedLogs)) {
	synctest.Test(t, func(t *testing.T) {
		ca := certstest.NewAuthority(t, "authority")
		cfg := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{ca.Issue("s", []string{"s"}).TLS()}}
		core, logs := observer.New(zapcore.DebugLevel)
		p := newPipes()
		l := NewTLSListener(p, cfg, zap.New(core), "peer")
		require.Equal(t, p.Addr(), l.Addr())
		f(t, p, l, ca, logs)
		require.NoError(t, l.Close())
		_, err := l.Accept()
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

// TestHandshakesDoNotWait: a connection that says nothing holds up no other, and has ten seconds.
func TestHandshakesDoNotWait(t *testing.T) {
	tlsListening(t, func(t *testing.T, p *pipes, l *TLSListener, ca *certstest.Authority, logs *observer.ObservedLogs) {
		begin := time.Now()
		silent := p.dial()
		cfg := ca.Client(nil)
		cfg.ServerName = "s"
		quick := tls.Client(p.dial(), cfg)
		go func() { _ = quick.Handshake() }()
		conn, err := l.Accept()
		require.NoError(t, err)
		require.True(t, conn.(*tls.Conn).ConnectionState().HandshakeComplete)
		require.NoError(t, conn.(*tls.Conn).NetConn().Close())
		_, err = silent.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, handshakeTimeout, time.Since(begin))
		synctest.Wait()
		line := logs.FilterMessage("rejected connection on peer endpoint").All()[0]
		require.Equal(t, zapcore.WarnLevel, line.Level)
		require.Equal(t, "context deadline exceeded", line.ContextMap()["error"])
	})
}

// TestWithdrawnHandshake: a client that goes away is nothing to warn of.
func TestWithdrawnHandshake(t *testing.T) {
	tlsListening(t, func(t *testing.T, p *pipes, _ *TLSListener, _ *certstest.Authority, logs *observer.ObservedLogs) {
		require.NoError(t, p.dial().Close())
		synctest.Wait()
		require.Equal(t, zapcore.DebugLevel, logs.FilterMessage("rejected connection on peer endpoint").All()[0].Level)
	})
}

// TestCloseEndsHandshakes: closing waits neither for silent clients nor for who would accept.
func TestCloseEndsHandshakes(t *testing.T) {
	tlsListening(t, func(t *testing.T, p *pipes, l *TLSListener, ca *certstest.Authority, _ *observer.ObservedLogs) {
		silent := p.dial()
		cfg := ca.Client(nil)
		cfg.ServerName = "s"
		waiting := tls.Client(p.dial(), cfg)
		require.NoError(t, waiting.Handshake())
		synctest.Wait()
		begin := time.Now()
		require.NoError(t, l.Close())
		require.Equal(t, begin, time.Now())
		for _, conn := range []net.Conn{silent, waiting} {
			_, err := conn.Read(make([]byte, 1))
			require.Error(t, err)
		}
	})
}

func TestHandshaken(t *testing.T) {
	var creds credentials.TransportCredentials = handshaken{}
	_, _, err := creds.ClientHandshake(t.Context(), "", nil)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.Equal(t, "tls", creds.Info().SecurityProtocol)
	require.Equal(t, creds, creds.Clone())
	require.NoError(t, creds.OverrideServerName("")) //nolint:staticcheck // the interface has it
}
