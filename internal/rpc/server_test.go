package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// member is a Membership that tests change.
type member struct{ leaderless, learner atomic.Bool }

func (m *member) HasLeader() bool { return !m.leaderless.Load() }
func (m *member) IsLearner() bool { return m.learner.Load() }

// services answers Range and Put, and watches that echo until their context ends.
type services struct {
	pb.UnimplementedKVServer
	pb.UnimplementedWatchServer
	entered chan struct{} // one element for each handler that has begun to wait
	leave   chan struct{} // closed when handlers that wait may end
}

func (s *services) Range(_ context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	switch string(r.GetKey()) {
	case "panic":
		panic("by request")
	case "wait":
		s.entered <- struct{}{}
		<-s.leave
	}
	return &pb.RangeResponse{Count: 3}, nil
}

func (s *services) RangeStream(r *pb.RangeRequest, _ grpc.ServerStreamingServer[pb.RangeStreamResponse]) error {
	if string(r.GetKey()) == "panic" {
		panic("by request")
	}
	s.entered <- struct{}{}
	<-s.leave
	return nil
}

func (s *services) Watch(ws grpc.BidiStreamingServer[pb.WatchRequest, pb.WatchResponse]) error {
	if err := ws.Send(&pb.WatchResponse{Created: true}); err != nil {
		return err
	}
	<-ws.Context().Done()
	return ws.Context().Err()
}

// fixture is a server with the services, on one listener.
type fixture struct {
	*services
	server   *Server
	member   *member
	registry *prometheus.Registry
	logs     *observer.ObservedLogs
	addr     string
	conn     *grpc.ClientConn
	served   chan error
}

const electionTimeout = 5 * time.Millisecond

// testsGRPCGo has the tests run over grpc-go.
var testsGRPCGo = os.Getenv("DOLMEN_TEST_TRANSPORT") == "grpc-go"

func config(m Membership) (Config, *prometheus.Registry, *observer.ObservedLogs) {
	core, logs := observer.New(zapcore.DebugLevel)
	registry := prometheus.NewRegistry()
	return Config{
		MaxRequestBytes: 1000, KeepAliveMinTime: time.Second, KeepAliveInterval: time.Hour, KeepAliveTimeout: time.Second,
		ElectionTimeout: electionTimeout, SlowRequest: time.Hour, GRPCGo: testsGRPCGo,
		Logger: zap.New(core), Registry: registry, Membership: m,
	}, registry, logs
}

var web = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s %s", r.Proto, r.URL.Path) })

// start serves on a listener until the test ends.
func start(t *testing.T, ln net.Listener, change func(*Config), serve func(*Server, net.Listener) error) *fixture {
	f := &fixture{
		services: &services{entered: make(chan struct{}, 10), leave: make(chan struct{})},
		member:   &member{}, addr: ln.Addr().String(), served: make(chan error, 1),
	}
	var cfg Config
	cfg, f.registry, f.logs = config(f.member)
	if change != nil {
		change(&cfg)
	}
	var err error
	f.server, err = New(cfg)
	require.NoError(t, err)
	pb.RegisterKVServer(f.server, f.services)
	pb.RegisterWatchServer(f.server, f.services)
	f.server.RegisterService(&rawService, f.services)
	go func() { f.served <- serve(f.server, ln) }()
	target := f.addr
	if ln.Addr().Network() == "unix" {
		target = "unix:" + target
	}
	f.conn, err = grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, f.conn.Close())
		require.NoError(t, f.server.Shutdown(context.Background()))
	})
	return f
}

func listen(t *testing.T) net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return ln
}

// What tests serve without TLS.
func both(s *Server, ln net.Listener) error {
	return s.Serve(Endpoint{Listener: ln, Plain: true, GRPC: true, Handler: web})
}

func onlyGRPC(s *Server, ln net.Listener) error {
	return s.Serve(Endpoint{Listener: ln, Plain: true, GRPC: true})
}

func onlyHTTP(s *Server, ln net.Listener) error {
	return s.Serve(Endpoint{Listener: ln, Plain: true, Handler: web})
}

func startBoth(t *testing.T, change func(*Config)) *fixture { return start(t, listen(t), change, both) }

func (f *fixture) kv() pb.KVClient { return pb.NewKVClient(f.conn) }

func (f *fixture) put(ctx context.Context) error {
	_, err := f.kv().Range(ctx, &pb.RangeRequest{Key: []byte("k")})
	return err
}

// watch opens a watch and waits until its handler runs.
func (f *fixture) watch(t *testing.T, ctx context.Context) pb.Watch_WatchClient {
	w, err := pb.NewWatchClient(f.conn).Watch(ctx)
	require.NoError(t, err)
	_, err = w.Recv()
	require.NoError(t, err)
	return w
}

// metric returns the value of a counter with the labels "name=value"; an absent one is an error.
func (f *fixture) metric(t *testing.T, name string, labels ...string) float64 {
	families, err := f.registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
	series:
		for _, m := range family.GetMetric() {
			have := map[string]bool{}
			for _, l := range m.GetLabel() {
				have[l.GetName()+"="+l.GetValue()] = true
			}
			for _, l := range labels {
				if !have[l] {
					continue series
				}
			}
			return m.GetCounter().GetValue()
		}
	}
	require.Fail(t, "no such metric", "%s%v", name, labels)
	return 0
}

func get(t *testing.T, client *http.Client, url string) string {
	resp, err := client.Get(url)
	require.NoError(t, err)
	defer func() { require.NoError(t, resp.Body.Close()) }()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(body)
}

func TestOnePortServesBoth(t *testing.T) {
	f := startBoth(t, func(c *Config) { c.MaxConnections = 100 })
	require.NoError(t, f.put(t.Context()))
	require.Equal(t, "HTTP/1.1 /x", get(t, http.DefaultClient, "http://"+f.addr+"/x"))
	h, err := grpc_health_v1.NewHealthClient(f.conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	require.NoError(t, err)
	require.Equal(t, grpc_health_v1.HealthCheckResponse_SERVING, h.GetStatus())
	_, err = grpc_health_v1.NewHealthClient(f.conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "x"})
	require.Equal(t, codes.NotFound, status.Code(err))

	require.NoError(t, f.server.Shutdown(t.Context()))
	require.NoError(t, <-f.served)
	require.NoError(t, f.server.Shutdown(t.Context()), "again")
	late := listen(t)
	require.NoError(t, both(f.server, late))
	require.NoError(t, onlyHTTP(f.server, listen(t)))
	require.NoError(t, onlyGRPC(f.server, listen(t)))
	_, err = late.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	require.NoError(t, err)
	f := start(t, ln, nil, both)
	require.NoError(t, f.put(t.Context()))
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	defer client.CloseIdleConnections()
	require.Equal(t, "HTTP/1.1 /y", get(t, client, "http://socket/y"))
}

func TestGRPCOnly(t *testing.T) {
	f := start(t, listen(t), nil, onlyGRPC)
	require.NoError(t, f.put(t.Context()))
	_, err := http.Get("http://" + f.addr + "/x") //nolint:bodyclose // there is no response
	require.Error(t, err)
	require.NoError(t, f.server.Shutdown(t.Context()))
	require.NoError(t, <-f.served)
}

func TestHTTPOnly(t *testing.T) {
	f := start(t, listen(t), nil, onlyHTTP)
	require.Equal(t, "HTTP/1.1 /x", get(t, http.DefaultClient, "http://"+f.addr+"/x"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	require.Equal(t, codes.Unavailable, status.Code(f.put(ctx)))
	require.NoError(t, f.server.Shutdown(t.Context()))
	require.NoError(t, <-f.served)
}

func TestListenerFailureIsReported(t *testing.T) {
	ln := listen(t)
	require.NoError(t, ln.Close())
	for _, serve := range []func(*Server, net.Listener) error{both, onlyGRPC, onlyHTTP} {
		f := start(t, ln, nil, serve)
		err := <-f.served
		require.ErrorIs(t, err, net.ErrClosed)
		require.ErrorContains(t, err, "rpc: serve "+f.addr)
	}
}

func TestNewRefuses(t *testing.T) {
	good, registry, _ := config(&member{})
	for _, change := range []func(*Config){
		func(c *Config) { c.ElectionTimeout = 0 },
		func(c *Config) { c.Membership = nil },
		func(c *Config) { c.Logger = nil },
		func(c *Config) { c.Registry = nil },
	} {
		cfg := good
		change(&cfg)
		_, err := New(cfg)
		require.Error(t, err)
	}
	_, err := newMetrics(registry, true)
	require.NoError(t, err)
	_, err = New(good)
	require.ErrorContains(t, err, "rpc: register metrics")
}

func TestSizeLimits(t *testing.T) {
	f := startBoth(t, nil)
	_, err := f.kv().Range(t.Context(), &pb.RangeRequest{Key: make([]byte, 512<<10)})
	require.NoError(t, err)
	_, err = f.kv().Range(t.Context(), &pb.RangeRequest{Key: make([]byte, 512<<10+1000)}, grpc.UseCompressor(gzip.Name))
	require.Equal(t, codes.ResourceExhausted, status.Code(err), "a compressed message counts as what it becomes")
	over := &pb.RangeRequest{Key: make([]byte, 512<<10+1000)}
	_, err = f.kv().Range(t.Context(), over)
	require.Equal(t, status.Error(codes.ResourceExhausted,
		fmt.Sprintf("grpc: received message larger than max (%d vs. %d)", proto.Size(over), 1000+512<<10)).Error(), err.Error())
}

func TestLearner(t *testing.T) {
	f := startBoth(t, nil)
	f.member.learner.Store(true)
	require.Equal(t, rpctypes.ErrGRPCNotSupportedForLearner.Error(), f.put(t.Context()).Error())
	_, err := f.kv().Range(t.Context(), &pb.RangeRequest{Key: []byte("k"), Serializable: true})
	require.NoError(t, err)
	_, err = f.kv().Put(t.Context(), &pb.PutRequest{})
	require.Equal(t, rpctypes.ErrGRPCNotSupportedForLearner.Error(), err.Error())
	// These are let through to find that nobody has registered them.
	_, err = pb.NewMaintenanceClient(f.conn).Status(t.Context(), &pb.StatusRequest{})
	require.Equal(t, codes.Unimplemented, status.Code(err))
	require.True(t, allowedOnLearner(methodStatus, nil))
	w, err := pb.NewWatchClient(f.conn).Watch(t.Context())
	require.NoError(t, err)
	_, err = w.Recv()
	require.Equal(t, rpctypes.ErrGRPCNotSupportedForLearner.Error(), err.Error())
}

func TestClientVersion(t *testing.T) {
	f := startBoth(t, nil)
	ctx := func(v string) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), rpctypes.MetadataClientAPIVersionKey, v)
	}
	require.NoError(t, f.put(ctx("3.7")))
	require.NoError(t, f.put(ctx("3.7")))
	require.NoError(t, f.put(t.Context()))
	f.watch(t, ctx("3.6"))
	const name = "etcd_server_client_requests_total"
	require.Equal(t, 2.0, f.metric(t, name, "type=unary", "client_api_version=3.7"))
	require.Equal(t, 1.0, f.metric(t, name, "type=unary", "client_api_version=unknown"))
	require.Equal(t, 1.0, f.metric(t, name, "type=stream", "client_api_version=3.6"))

	// grpc-go's client refuses to send such metadata, so ask the check itself.
	bad := metadata.NewIncomingContext(t.Context(), metadata.Pairs(rpctypes.MetadataClientAPIVersionKey, "\xff"))
	_, err := f.server.checkMetadata(bad, "unary")
	require.Equal(t, rpctypes.ErrGRPCInvalidClientAPIVersion, err)

	// Clients cannot make the server keep any number of series.
	for i := range 2 * maxVersionSeries {
		f.server.metrics.countRequest("unary", fmt.Sprint(i))
	}
	f.server.metrics.countRequest("unary", string(make([]byte, maxVersionLength+1)))
	require.LessOrEqual(t, len(f.server.metrics.mu.series), maxVersionSeries)
	require.Equal(t, float64(maxVersionSeries+3+1), f.metric(t, name, "type=unary", "client_api_version=other"))
}

func requireLeader(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
}

func TestRequireLeader(t *testing.T) {
	f := startBoth(t, nil)
	require.NoError(t, f.put(requireLeader(t.Context())))
	needs, can := f.watch(t, requireLeader(t.Context())), f.watch(t, t.Context())

	f.member.leaderless.Store(true)
	require.NoError(t, f.put(t.Context()))
	require.Equal(t, rpctypes.ErrGRPCNoLeader.Error(), f.put(requireLeader(t.Context())).Error())
	late, err := pb.NewWatchClient(f.conn).Watch(requireLeader(t.Context()))
	require.NoError(t, err)
	_, err = late.Recv()
	require.Equal(t, rpctypes.ErrGRPCNoLeader.Error(), err.Error())
	_, err = needs.Recv()
	require.Equal(t, rpctypes.ErrGRPCNoLeader.Error(), err.Error())

	// The other stream has not ended: it still ends by its client.
	require.NoError(t, can.Context().Err())
	require.NoError(t, f.put(t.Context()))
}

func TestPanic(t *testing.T) {
	f := startBoth(t, nil)
	_, err := f.kv().Range(t.Context(), &pb.RangeRequest{Key: []byte("panic")})
	require.Equal(t, errPanic.Error(), err.Error())
	require.NoError(t, f.put(t.Context()), "the member goes on")
	rs, err := f.kv().RangeStream(t.Context(), &pb.RangeRequest{Key: []byte("panic")})
	require.NoError(t, err)
	_, err = rs.Recv()
	require.Equal(t, errPanic.Error(), err.Error())

	const name = "dolmen_server_handler_panics_total"
	require.Equal(t, 1.0, f.metric(t, name, "method="+methodRange))
	require.Equal(t, 1.0, f.metric(t, name, "method=/etcdserverpb.KV/RangeStream"))
	require.Equal(t, 1.0, f.metric(t, "grpc_server_handled_total", "grpc_method=Range", "grpc_code=Internal"))
	lines := f.logs.FilterLevelExact(zapcore.ErrorLevel).All()
	require.Len(t, lines, 2)
	require.Contains(t, lines[0].ContextMap()["stack"], "server_test.go")
}

func TestMetricsExistFromTheStart(t *testing.T) {
	f := startBoth(t, func(c *Config) { c.ExtensiveMetrics = true })
	require.NoError(t, f.put(t.Context()))
	require.Zero(t, f.metric(t, "grpc_server_handled_total", "grpc_service=etcdserverpb.Watch", "grpc_code=Canceled", "grpc_type=bidi_stream"))
	require.Equal(t, 1.0, f.metric(t, "grpc_server_handled_total", "grpc_method=Range", "grpc_code=OK", "grpc_type=unary"))
	require.Positive(t, f.metric(t, "etcd_network_client_grpc_received_bytes_total"))
	require.Positive(t, f.metric(t, "etcd_network_client_grpc_sent_bytes_total"))
	families, err := f.registry.Gather()
	require.NoError(t, err)
	var names []string
	for _, family := range families {
		names = append(names, family.GetName())
	}
	require.Contains(t, names, "grpc_server_handling_seconds")
}

func TestInterceptorsOfTheCaller(t *testing.T) {
	refused := status.Error(codes.PermissionDenied, "no")
	f := startBoth(t, func(c *Config) {
		c.Unary = append(c.Unary, func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
			return nil, refused
		})
		c.Stream = append(c.Stream, func(any, grpc.ServerStream, *grpc.StreamServerInfo, grpc.StreamHandler) error {
			return refused
		})
	})
	require.Equal(t, refused.Error(), f.put(t.Context()).Error())
	w, err := pb.NewWatchClient(f.conn).Watch(t.Context())
	require.NoError(t, err)
	_, err = w.Recv()
	require.Equal(t, refused.Error(), err.Error())
}

// serverStream is a stream of which only the context is used.
type serverStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s serverStream) Context() context.Context { return s.ctx }

func TestShutdownDrains(t *testing.T) {
	f := startBoth(t, nil)
	w := f.watch(t, t.Context())
	var unary, streaming error
	var calls sync.WaitGroup
	calls.Go(func() { _, unary = f.kv().Range(t.Context(), &pb.RangeRequest{Key: []byte("wait")}) })
	calls.Go(func() {
		rs, err := f.kv().RangeStream(t.Context(), &pb.RangeRequest{})
		if err == nil {
			_, err = rs.Recv()
		}
		streaming = err
	})
	<-f.entered
	<-f.entered
	done := make(chan error)
	go func() { done <- f.server.Shutdown(t.Context()) }()
	// The watch has no end of its own, so it is ended; the others are waited for.
	_, err := w.Recv()
	require.Equal(t, rpctypes.ErrGRPCStopped.Error(), err.Error())
	select {
	case <-done:
		require.Fail(t, "did not wait")
	default:
	}
	_, err = f.server.streams.open(serverStream{ctx: t.Context()}, false, true)
	require.Equal(t, rpctypes.ErrGRPCStopped, err)
	close(f.leave)
	require.NoError(t, <-done)
	calls.Wait()
	require.NoError(t, unary)
	require.ErrorIs(t, streaming, io.EOF)
	require.NoError(t, <-f.served)
}

func TestShutdownCuts(t *testing.T) {
	f := startBoth(t, nil)
	defer close(f.leave)
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
	require.ErrorContains(t, err, "gRPC requests were cut")
	require.Equal(t, codes.Unavailable, status.Code(<-failed))
	require.NoError(t, <-f.served)
}

func TestShutdownCutsHTTP(t *testing.T) {
	entered := make(chan struct{})
	f := start(t, listen(t), nil, func(s *Server, ln net.Listener) error {
		return s.Serve(Endpoint{Listener: ln, Plain: true, GRPC: true, Handler: http.HandlerFunc(
			func(_ http.ResponseWriter, r *http.Request) {
				close(entered)
				<-r.Context().Done()
			})})
	})
	failed := make(chan error)
	go func() {
		resp, err := http.Get("http://" + f.addr)
		if err == nil {
			err = errors.Join(errors.New("answered"), resp.Body.Close())
		}
		failed <- err
	}()
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorContains(t, f.server.Shutdown(ctx), "HTTP requests were cut")
	require.ErrorIs(t, <-failed, io.EOF)
}
