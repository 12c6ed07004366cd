package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// protoCodec is a Codec of protobuf messages.
type protoCodec struct{ sent, received atomic.Int64 }

func (*protoCodec) Append(b []byte, v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, errors.New("no message")
	}
	return proto.MarshalOptions{}.MarshalAppend(b, m)
}
func (*protoCodec) Unmarshal(data []byte, v any) error {
	return proto.Unmarshal(data, v.(proto.Message))
}
func (c *protoCodec) Sent(n int)     { c.sent.Add(int64(n)) }
func (c *protoCodec) Received(n int) { c.received.Add(int64(n)) }

// service does what its requests ask for.
type service struct {
	testpb.UnimplementedTestServiceServer
	running atomic.Int64
	block   chan struct{} // calls whose message is "block" wait for it, whatever their contexts say
}

const maxReceived = 1 << 20

func (s *service) EmptyCall(context.Context, *testpb.Empty) (*testpb.Empty, error) {
	return &testpb.Empty{}, nil
}

func (s *service) UnaryCall(ctx context.Context, r *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	s.running.Add(1)
	defer s.running.Add(-1)
	md, _ := metadata.FromIncomingContext(ctx)
	if _, ok := peer.FromContext(ctx); !ok {
		return nil, status.Error(codes.Internal, "no peer")
	}
	echo := metadata.MD{"seen-binary-bin": md["x-binary-bin"], "seen": md["x-text"], "authority": md[":authority"]}
	if err := grpc.SetHeader(ctx, echo); err != nil {
		return nil, err
	}
	_ = grpc.SetTrailer(ctx, metadata.Pairs("last", "word"))
	switch e := r.GetResponseStatus(); {
	case e.GetMessage() == "block":
		<-s.block
	case e.GetMessage() == "wait":
		<-ctx.Done()
		return nil, ctx.Err()
	case e.GetMessage() == "plain":
		return nil, errors.New("an error without a status")
	case e.GetCode() != 0:
		return nil, status.Error(codes.Code(e.GetCode()), e.GetMessage())
	}
	return &testpb.SimpleResponse{Payload: &testpb.Payload{Body: make([]byte, r.GetResponseSize())}, Username: grpcMethod(ctx)}, nil
}

func grpcMethod(ctx context.Context) string {
	name, _ := grpc.Method(ctx)
	return name
}

func (s *service) StreamingOutputCall(r *testpb.StreamingOutputCallRequest, ss grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
	s.running.Add(1)
	defer s.running.Add(-1)
	for _, p := range r.GetResponseParameters() {
		if err := ss.Send(&testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: make([]byte, p.GetSize())}}); err != nil {
			return err
		}
	}
	if e := r.GetResponseStatus(); e.GetCode() != 0 {
		return status.Error(codes.Code(e.GetCode()), e.GetMessage())
	}
	return nil
}

func (s *service) StreamingInputCall(ss grpc.ClientStreamingServer[testpb.StreamingInputCallRequest, testpb.StreamingInputCallResponse]) error {
	sum := 0
	for {
		r, err := ss.Recv()
		if errors.Is(err, io.EOF) {
			return ss.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: int32(sum)})
		}
		if err != nil {
			return err
		}
		sum += len(r.GetPayload().GetBody())
	}
}

func (s *service) FullDuplexCall(ss grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	s.running.Add(1)
	defer s.running.Add(-1)
	for {
		r, err := ss.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.StreamingOutputCall(r, ss); err != nil {
			return err
		}
	}
}

// place is a server for tests.
type place struct {
	*Server
	service *service
	codec   *protoCodec
	address string
	served  chan error
}

func start(t *testing.T, change func(*Config)) *place {
	t.Helper()
	codec := &protoCodec{}
	cfg := Config{MaxRecvBytes: maxReceived, Codec: codec}
	if change != nil {
		change(&cfg)
	}
	p := &place{Server: New(cfg), service: &service{block: make(chan struct{})}, codec: codec, served: make(chan error, 1)}
	testpb.RegisterTestServiceServer(p.Server, p.service)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p.address = ln.Addr().String()
	go func() { p.served <- p.Serve(ln, http.HandlerFunc(web)) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		_ = p.Shutdown(ctx) // a test may leave streams
		<-p.served
	})
	return p
}

// startReference is grpc-go with the same service.
func startReference(t *testing.T) string {
	t.Helper()
	g := grpc.NewServer(grpc.MaxRecvMsgSize(maxReceived))
	testpb.RegisterTestServiceServer(g, &service{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = g.Serve(ln) }()
	t.Cleanup(g.Stop)
	return ln.Addr().String()
}

func dial(t *testing.T, address string, opts ...grpc.DialOption) testpb.TestServiceClient {
	t.Helper()
	opts = append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("server")}, opts...)
	cc, err := grpc.NewClient("passthrough:///"+address, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = cc.Close() })
	return testpb.NewTestServiceClient(cc)
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// web is a handler of requests that are not gRPC.
func web(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/panic":
		panic("as asked")
	case "/echo":
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.Copy(w, r.Body)
	default:
		_, _ = io.WriteString(w, "hello "+r.Host)
	}
}
