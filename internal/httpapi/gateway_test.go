package httpapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/grpc/metadata"

	"github.com/dolmen-io/dolmen/internal/rpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// services are what a gateway's tests talk to.
type services struct {
	pb.UnimplementedKVServer
	pb.UnimplementedWatchServer
}

// Range answers with the metadata that is asked for by its name.
func (services) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if len(r.GetKey()) == 0 {
		return nil, rpctypes.ErrGRPCEmptyKey
	}
	values := metadata.ValueFromIncomingContext(ctx, string(r.GetKey()))
	return &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 7, ClusterId: 1 << 63}, Count: int64(len(values)), More: len(r.GetRangeEnd()) > 0,
		Kvs: nil}, nil
}

// Put answers with the size of what came.
func (services) Put(_ context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	return &pb.PutResponse{Header: &pb.ResponseHeader{Revision: int64(len(r.GetValue()))}}, nil
}

// Watch answers each creation with the caller's token as the reason, and ends with a cancellation of 5.
func (services) Watch(s pb.Watch_WatchServer) error {
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			<-s.Context().Done()
			return s.Context().Err()
		}
		if err != nil {
			return err
		}
		if r.GetCancelRequest().GetWatchId() == 5 {
			return rpctypes.ErrGRPCWatchCanceled
		}
		if err := s.Send(&pb.WatchResponse{CancelReason: fmt.Sprint(metadata.ValueFromIncomingContext(s.Context(), "authorization"))}); err != nil {
			return err
		}
	}
}

// voter is an rpc.Membership.
type voter struct{}

func (voter) HasLeader() bool { return true }
func (voter) IsLearner() bool { return false }

const testMessageBytes = 1 << 16

func newGateway(t *testing.T) *Gateway {
	server, err := rpc.New(rpc.Config{MaxRequestBytes: testMessageBytes, ElectionTimeout: time.Second, SlowRequest: time.Minute,
		Logger: zap.NewNop(), Registry: prometheus.NewRegistry(), Membership: voter{}})
	require.NoError(t, err)
	pb.RegisterKVServer(server, services{})
	pb.RegisterWatchServer(server, services{})
	conn, err := server.Dial()
	require.NoError(t, err)
	g, err := NewGateway(GatewayConfig{Conn: conn, MaxMessageBytes: rpc.MaxMessageBytes(testMessageBytes)})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(t, server.Shutdown(ctx))
		g.Close()
		require.NoError(t, conn.Close())
	})
	return g
}

func post(h http.Handler, path, body string, headers ...string) *httptest.ResponseRecorder {
	w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	h.ServeHTTP(w, r)
	return w
}

func TestGateway(t *testing.T) {
	f := newFixture(t, &member{}, func(c *Config) { c.Gateway = newGateway(t) })
	for _, tc := range []struct {
		path, body string
		headers    []string
		status     int
		want       string
	}{
		{"/v3/kv/range", `{"key":"YQ==","unknown":1}`, nil, 200, `{"header":{"cluster_id":"9223372036854775808","revision":"7"}}`},
		{"/v3beta/kv/range", `{"key":"YQ==","rangeEnd":"Yg=="}`, nil, 200, `{"header":{"cluster_id":"9223372036854775808","revision":"7"},"more":true}`},
		{"/v3/kv/range", `{"key":"YXV0aG9yaXphdGlvbg=="}`, []string{"Authorization", "secret"}, 200,
			`{"header":{"cluster_id":"9223372036854775808","revision":"7"},"count":"1"}`},
		{"/v3/kv/range", `{"key":"Z3JwY2dhdGV3YXktYWNjZXB0"}`, []string{"Accept", "*/*"}, 200,
			`{"header":{"cluster_id":"9223372036854775808","revision":"7"},"count":"1"}`},
		{"/v3/kv/range", ``, nil, 400, `{"code":3,"message":"etcdserver: key is not provided"}`},
		{"/v3/kv/txn", `{}`, nil, 501, `{"code":12,"message":"method Txn not implemented"}`},
		{"/v3/nothing", `{}`, nil, 404, `{"code":5,"message":"Not Found"}`},
		{"/v3/kv/put", `{"value":"` + strings.Repeat("AAAA", 10_000) + `"}`, nil, 200, `{"header":{"revision":"30000"}}`},
	} {
		w := post(f.Client, tc.path, tc.body, tc.headers...)
		require.Equal(t, tc.status, w.Code, "%s: %s", tc.path, w.Body)
		require.JSONEq(t, tc.want, w.Body.String(), tc.path)
	}
	require.Equal(t, 501, do(f.Client, http.MethodGet, "/v3/kv/range").Code)
	require.Equal(t, 400, post(f.Client, "/v3/kv/range", `{"key":`).Code)

	large := `{"value":"` + strings.Repeat("AAAA", rpc.MaxMessageBytes(testMessageBytes)/3) + `"}`
	require.Equal(t, 429, post(f.Client, "/v3/kv/put", large).Code, "the services refuse what they do not take")
}

func TestGatewayReadsABoundedBody(t *testing.T) {
	g := newGateway(t)
	w := post(g, "/v3/kv/put", `{"value":"`+strings.Repeat("A", int(g.limit))+`"}`)
	require.Equal(t, 400, w.Code)
	require.Contains(t, w.Body.String(), fmt.Sprintf("the message is larger than %d bytes", g.limit))

	// Each message of a stream has that much.
	from := &limitedReader{from: iotest.OneByteReader(strings.NewReader(`"12345678" "12345678" "123456789abcdef"`)), limit: 12}
	d := boundedDecoder{json.NewDecoder(from), from}
	var text string
	require.NoError(t, d.Decode(&text))
	require.NoError(t, d.Decode(&text))
	require.ErrorContains(t, d.Decode(&text), "larger than 12 bytes")
}

func TestGatewayIsOffWithoutOne(t *testing.T) {
	require.Equal(t, 404, post(newFixture(t, &member{}, nil).Client, "/v3/kv/range", `{"key":"YQ=="}`).Code)
}

// TestCommonNamesAreNotLost: who is known by a certificate would be nobody behind the gateway.
func TestCommonNamesAreNotLost(t *testing.T) {
	counts := true
	f := newFixture(t, &member{}, func(c *Config) {
		c.Gateway, c.NamesInCertificates = newGateway(t), func() bool { return counts }
	})
	ask := func(path, name string) int {
		r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(`{"key":"YQ=="}`))
		r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{}, {{Subject: pkix.Name{CommonName: name}}}}}
		w := httptest.NewRecorder()
		f.Client.ServeHTTP(w, r)
		if w.Code == http.StatusBadRequest {
			require.Contains(t, w.Body.String(), "CommonName of client sending a request against gateway will be ignored")
		}
		return w.Code
	}
	require.Equal(t, 400, ask("/v3/kv/range", "root"))
	require.Equal(t, 400, ask("/v3beta/kv/range", "root"))
	require.Equal(t, 200, ask("/v3/kv/range", ""))
	require.Equal(t, 405, ask("/health", "root"))
	counts = false
	require.Equal(t, 200, ask("/v3/kv/range", "root"))
}

// dial opens a websocket to a gateway.
func dial(ctx context.Context, t *testing.T, h http.Handler, options *websocket.DialOptions) *websocket.Conn {
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	conn, resp, err := websocket.Dial(ctx, server.URL+"/v3/watch", options) //nolint:bodyclose // it has none
	require.NoError(t, err)
	if options != nil && options.Subprotocols != nil {
		require.Equal(t, "Bearer", resp.Header.Get("Sec-WebSocket-Protocol"))
	}
	t.Cleanup(func() { _ = conn.CloseNow() })
	return conn
}

func ask(ctx context.Context, t *testing.T, conn *websocket.Conn, message string) string {
	require.NoError(t, conn.Write(ctx, websocket.MessageText, []byte(message)))
	kind, answer, err := conn.Read(ctx)
	require.NoError(t, err)
	require.Equal(t, websocket.MessageText, kind)
	return string(answer)
}

func TestWatchOverAWebsocket(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for name, tc := range map[string]struct {
		options *websocket.DialOptions
		seen    string
	}{
		"nobody":      {nil, "[]"},
		"subprotocol": {&websocket.DialOptions{Subprotocols: []string{"Bearer", "secret"}}, "[Bearer secret]"},
		"cookie":      {&websocket.DialOptions{HTTPHeader: http.Header{"Cookie": {"token=secret"}, "Origin": {"http://else"}}}, "[Bearer secret]"},
	} {
		t.Run(name, func(t *testing.T) {
			conn := dial(ctx, t, newGateway(t), tc.options)
			for range 3 {
				require.JSONEq(t, fmt.Sprintf(`{"result":{"cancel_reason":%q}}`, tc.seen), ask(ctx, t, conn, `{"create_request":{}}`))
			}
			require.Contains(t, ask(ctx, t, conn, `{"cancel_request":{"watch_id":5}}`), "watch canceled")
			_, _, err := conn.Read(ctx)
			require.Equal(t, websocket.StatusNormalClosure, websocket.CloseStatus(err))
		})
	}
}

// TestClosedWebsockets: a client that goes ends the stream, and so does a gateway that closes.
func TestClosedWebsockets(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	g := newGateway(t)
	conn := dial(ctx, t, g, nil)
	ask(ctx, t, conn, `{"create_request":{}}`)
	require.NoError(t, conn.Close(websocket.StatusNormalClosure, ""))
	g.sockets.Wait()

	conn = dial(ctx, t, g, nil)
	ask(ctx, t, conn, `{"create_request":{}}`)
	g.Close()
	var err error
	for err == nil { // a word about the end may come first
		_, _, err = conn.Read(ctx)
	}
	require.NoError(t, ctx.Err())
	server := httptest.NewServer(g)
	defer server.Close()
	_, resp, err := websocket.Dial(ctx, server.URL+"/v3/watch", nil) //nolint:bodyclose // the library has read it
	require.Error(t, err)
	require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	require.Equal(t, 405, post(newGateway(t), "/v3/watch", "", "Connection", "keep-alive, Upgrade", "Upgrade", "websocket").Code, "no handshake")
}

func TestForwardedHeaders(t *testing.T) {
	for protocol, want := range map[string]string{"Bearer,x": "Bearer x", "Bearer, x": "Bearer x", "chat": "", "Bearer": ""} {
		r := httptest.NewRequest(http.MethodGet, "/v3/watch", nil)
		r.Header.Set("Sec-WebSocket-Protocol", protocol)
		r.Header.Set("Referer", "http://page")
		to := http.Header{}
		forward(to, r)
		require.Equal(t, http.Header{"Authorization": {want}, "Referer": {"http://page"}}, to)
	}
}
