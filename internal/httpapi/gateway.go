package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	gw "go.etcd.io/etcd/api/v3/etcdserverpb/gw"
	electiongw "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb/gw"
	lockgw "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb/gw"
)

// GatewayConfig says what a Gateway needs.
type GatewayConfig struct {
	// Conn leads to the services of this member. The gateway's caller closes it after the gateway.
	Conn grpc.ClientConnInterface
	// MaxMessageBytes is the largest message that the services take.
	MaxMessageBytes int
}

// jsonShare is how many times larger than its message a JSON body may be: names of fields and base64 make
// many small operations grow by less, and a message that is too large is still one for the services to refuse.
const jsonShare = 8

// Gateway answers the services' methods as JSON over HTTP, below /v3/: a POST of the request, whose answer
// is one JSON value, or for a stream one a line. A stream can also be had over a websocket.
type Gateway struct {
	mux     *runtime.ServeMux
	limit   int64
	running context.Context
	stop    context.CancelFunc

	mu struct {
		sync.Mutex
		stopped bool
	}
	sockets sync.WaitGroup
}

// NewGateway returns a gateway. Close ends it.
func NewGateway(cfg GatewayConfig) (*Gateway, error) {
	limit := int64(cfg.MaxMessageBytes) * jsonShare
	g := &Gateway{limit: limit, mux: runtime.NewServeMux(runtime.WithMarshalerOption(runtime.MIMEWildcard, bounded{
		Marshaler: &runtime.HTTPBodyMarshaler{Marshaler: &runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true},
			UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: true},
		}},
		limit: limit,
	}))}
	g.running, g.stop = context.WithCancel(context.Background())
	ctx := context.Background() // what is registered has no end of its own
	err := errors.Join(
		gw.RegisterKVHandlerClient(ctx, g.mux, pb.NewKVClient(cfg.Conn)),
		gw.RegisterWatchHandlerClient(ctx, g.mux, pb.NewWatchClient(cfg.Conn)),
		gw.RegisterLeaseHandlerClient(ctx, g.mux, pb.NewLeaseClient(cfg.Conn)),
		gw.RegisterClusterHandlerClient(ctx, g.mux, pb.NewClusterClient(cfg.Conn)),
		gw.RegisterMaintenanceHandlerClient(ctx, g.mux, pb.NewMaintenanceClient(cfg.Conn)),
		gw.RegisterAuthHandlerClient(ctx, g.mux, pb.NewAuthClient(cfg.Conn)),
		lockgw.RegisterLockHandlerClient(ctx, g.mux, v3lockpb.NewLockClient(cfg.Conn)),
		electiongw.RegisterElectionHandlerClient(ctx, g.mux, v3electionpb.NewElectionClient(cfg.Conn)),
	)
	if err != nil {
		return nil, fmt.Errorf("httpapi: register the gateway's paths: %w", err)
	}
	return g, nil
}

// ServeHTTP implements http.Handler.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !upgrades(r) {
		g.mux.ServeHTTP(w, r)
		return
	}
	g.mu.Lock()
	if g.mu.stopped {
		g.mu.Unlock()
		http.Error(w, "the server is stopping", http.StatusServiceUnavailable)
		return
	}
	g.sockets.Add(1)
	g.mu.Unlock()
	defer g.sockets.Done()
	g.serveSocket(w, r)
}

// upgrades reports whether a request asks for a websocket.
func upgrades(r *http.Request) bool {
	return hasToken(r.Header, "Connection", "upgrade") && hasToken(r.Header, "Upgrade", "websocket")
}

func hasToken(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for one := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(one), token) {
				return true
			}
		}
	}
	return false
}

// Close cuts websockets, which the HTTP server does not know of any more, and waits for them.
func (g *Gateway) Close() {
	g.mu.Lock()
	g.mu.stopped = true
	g.mu.Unlock()
	g.stop()
	g.sockets.Wait()
}

// bounded is a marshaler that reads no message larger than limit.
type bounded struct {
	runtime.Marshaler
	limit int64
}

// NewDecoder implements runtime.Marshaler.
func (b bounded) NewDecoder(r io.Reader) runtime.Decoder {
	from := &limitedReader{from: r, limit: b.limit}
	return boundedDecoder{b.Marshaler.NewDecoder(from), from}
}

type boundedDecoder struct {
	runtime.Decoder
	from *limitedReader
}

// Decode implements runtime.Decoder. Each message of a stream may be as large as one alone.
func (d boundedDecoder) Decode(v any) error {
	d.from.left = d.from.limit
	return d.Decoder.Decode(v)
}

// limitedReader fails when more than left bytes are read.
type limitedReader struct {
	from        io.Reader
	limit, left int64
}

func (r *limitedReader) Read(p []byte) (int, error) {
	if r.left <= 0 {
		return 0, fmt.Errorf("the message is larger than %d bytes", r.limit)
	}
	n, err := r.from.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	return n, err
}
