package rpc

import (
	"context"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// raw is an encoded RangeResponse that may lie about its size.
type raw struct {
	bytes []byte
	size  int
}

func (r raw) Size() int                { return r.size }
func (r raw) AppendTo(b []byte) []byte { return append(b, r.bytes...) }
func (r raw) GetCount() int64          { return 7 }

// rawService answers test.Raw/Get with a Raw.
var rawService = grpc.ServiceDesc{
	ServiceName: "test.Raw",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Get",
		Handler: func(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
			req := new(pb.RangeRequest)
			if err := decode(req); err != nil {
				return nil, err
			}
			return intercept(ctx, req, &grpc.UnaryServerInfo{FullMethod: "/test.Raw/Get"}, func(context.Context, any) (any, error) {
				b, err := proto.Marshal(&pb.RangeResponse{Count: req.GetLimit()})
				return raw{b, len(b)}, err
			})
		},
	}},
}

func TestRawAnswer(t *testing.T) {
	f := startBoth(t, nil)
	resp := new(pb.RangeResponse)
	require.NoError(t, f.conn.Invoke(t.Context(), "/test.Raw/Get", &pb.RangeRequest{Limit: 42}, resp))
	require.Equal(t, int64(42), resp.GetCount())
	require.Equal(t, float64(2), f.metric(t, "etcd_network_client_grpc_sent_bytes_total"))
	require.Equal(t, float64(2), f.metric(t, "etcd_network_client_grpc_received_bytes_total"))
}

func TestCodec(t *testing.T) {
	sent := prometheus.NewCounter(prometheus.CounterOpts{Name: "a"})
	received := prometheus.NewCounter(prometheus.CounterOpts{Name: "b"})
	c := newCodec(sent, received)
	require.Equal(t, "proto", c.Name())
	for _, n := range []int{0, 10, 100_000} {
		text := []byte(strings.Repeat("x", n))
		data, err := c.Marshal(raw{text, n})
		require.NoError(t, err)
		require.Equal(t, string(text), string(data.Materialize()))
		data.Free()
	}
	for _, lie := range []int{1, 3} {
		_, err := c.Marshal(raw{[]byte("xx"), lie})
		require.EqualError(t, err, map[int]string{
			1: "rpc: rpc.raw said it has 1 bytes and has 2",
			3: "rpc: rpc.raw said it has 3 bytes and has 2",
		}[lie])
	}
	want := &pb.PutRequest{Key: []byte("k")}
	data, err := c.Marshal(want)
	require.NoError(t, err)
	got := new(pb.PutRequest)
	require.NoError(t, c.Unmarshal(data, got))
	require.True(t, proto.Equal(want, got))
	_, err = c.Marshal("text")
	require.Error(t, err)
}
