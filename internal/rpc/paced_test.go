package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding/gzip"

	"github.com/dolmen-io/dolmen/internal/certs/certstest"
)

// sumService has test.Sum/Keys, which counts messages and the bytes of their keys until the client is done.
var sumService = grpc.ServiceDesc{
	ServiceName: "test.Sum",
	HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{{
		StreamName: "Keys", ClientStreams: true, ServerStreams: true,
		Handler: func(_ any, stream grpc.ServerStream) error {
			sum := &pb.RangeRequest{}
			for {
				var m pb.RangeRequest
				if err := stream.RecvMsg(&m); errors.Is(err, io.EOF) {
					return stream.SendMsg(sum)
				} else if err != nil {
					return err
				}
				sum.Limit++
				sum.MaxCreateRevision += int64(len(m.GetKey()))
			}
		},
	}},
}

// inBubble connects a client to a server of secure connections, in a bubble of its own time.
func inBubble(t *testing.T, handler http.Handler, f func(t *testing.T, conn *grpc.ClientConn)) {
	synctest.Test(t, func(t *testing.T) {
		ca := certstest.NewAuthority(t, "authority")
		p := newPipes()
		ep := Endpoint{Listener: p, GRPC: true, Handler: handler, TLS: &tls.Config{
			MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{ca.Issue("s", []string{"s"}).TLS()},
		}}
		start(t, p, nil, func(s *Server, _ net.Listener) error {
			s.RegisterService(&sumService, nil)
			return s.Serve(ep)
		})
		cfg := ca.Client(nil)
		cfg.ServerName = "s"
		conn, err := grpc.NewClient("passthrough:///s", grpc.WithTransportCredentials(credentials.NewTLS(cfg)),
			grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return p.dial(), nil }))
		require.NoError(t, err)
		defer func() { require.NoError(t, conn.Close()) }()
		f(t, conn)
	})
}

// TestUnreadMessagesAreBounded: a client that sends more than its handler receives has to wait, however the
// connection is served.
func TestUnreadMessagesAreBounded(t *testing.T) {
	for name, handler := range map[string]http.Handler{"gRPC alone": nil, "with HTTP": web} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, handler, func(t *testing.T, conn *grpc.ClientConn) {
				w, err := pb.NewWatchClient(conn).Watch(t.Context()) // its handler receives nothing
				require.NoError(t, err)
				_, err = w.Recv()
				require.NoError(t, err)
				message := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
					CreateRequest: &pb.WatchCreateRequest{Key: make([]byte, 100_000)},
				}}
				var sent atomic.Int64
				go func() {
					for w.Send(message) == nil && sent.Add(1) < 1000 {
					}
				}()
				synctest.Wait()
				require.Less(t, sent.Load(), int64(20), "what HTTP/2's windows hold, and one message")
			})
		})
	}
}

// TestPacedMessages: whatever its size, each message arrives, and then the end.
func TestPacedMessages(t *testing.T) {
	for name, options := range map[string][]grpc.CallOption{"plain": nil, "compressed": {grpc.UseCompressor(gzip.Name)}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, web, func(t *testing.T, conn *grpc.ClientConn) {
				stream, err := conn.NewStream(t.Context(), &sumService.Streams[0], "/test.Sum/Keys", options...)
				require.NoError(t, err)
				var count, bytes int64
				for _, size := range []int{0, 1, 500_000, 0, 0, 16384, 16379, 100} {
					for range 20 {
						require.NoError(t, stream.SendMsg(&pb.RangeRequest{Key: make([]byte, size)}))
						count, bytes = count+1, bytes+int64(size)
					}
				}
				require.NoError(t, stream.CloseSend())
				var sum pb.RangeRequest
				require.NoError(t, stream.RecvMsg(&sum))
				require.Equal(t, []int64{count, bytes}, []int64{sum.GetLimit(), sum.GetMaxCreateRevision()})
			})
		})
	}
}

func TestPacedBody(t *testing.T) {
	body := func(content string) *pacedBody {
		r := paced(httptest.NewRequest(http.MethodPost, "/", io.NopCloser(strings.NewReader(content))))
		return r.Body.(*pacedBody)
	}
	read := func(b *pacedBody) (string, error) {
		p := make([]byte, 8)
		n, err := b.Read(p)
		return string(p[:n]), err
	}
	b := body("\x00\x00\x00\x00\x0a0123456789\x00\x00\x00\x00\x00")
	for _, want := range []string{"\x00\x00\x00\x00\x0a", "01234567", "89"} {
		got, err := read(b)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	require.Empty(t, b.next, "the next message waits")
	b.received()
	got, err := read(b)
	require.NoError(t, err)
	require.Equal(t, "\x00\x00\x00\x00\x00", got)
	b.received()
	_, err = read(b)
	require.ErrorIs(t, err, io.EOF)
	require.NoError(t, b.Close())
	require.NoError(t, b.Close(), "again")
	_, err = read(b)
	require.ErrorIs(t, err, http.ErrBodyReadAfterClose)

	for _, cut := range []string{"\x00\x00", "\x00\x00\x00\x00\x0a01"} {
		_, err := io.ReadAll(body(cut))
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	}
}
