package rpc

import (
	"context"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// encodedRange is an answer that encodes itself.
type encodedRange struct{ *pb.RangeResponse }

func (e encodedRange) Size() int { return proto.Size(e.RangeResponse) }
func (e encodedRange) AppendTo(b []byte) []byte {
	b, _ = proto.MarshalOptions{}.MarshalAppend(b, e.RangeResponse)
	return b
}

// TestDirect: what is answered on the reader passes what other requests pass.
func TestDirect(t *testing.T) {
	if testsGRPCGo {
		return // it has no such methods
	}
	taken := 0
	f := start(t, listen(t), func(c *Config) { c.SlowRequest = 0 }, func(s *Server, ln net.Listener) error {
		s.Direct(pb.KV_Range_FullMethodName, func(c DirectCall) bool {
			var r pb.RangeRequest
			require.NoError(t, proto.Unmarshal(c.Message(), &r))
			about := func() (req, resp any) { return &r, nil }
			switch string(r.GetKey()) {
			case "handler":
				return false
			case "fail":
				c.Fail(rpctypes.ErrGRPCCompacted, about)
			case "panic":
				panic("by request")
			default:
				require.NotNil(t, c.Peer().Addr)
				c.Answer(encodedRange{&pb.RangeResponse{Count: 7}}, about)
			}
			taken++
			return true
		})
		return s.Serve(Endpoint{Listener: ln, Plain: true, GRPC: true})
	})
	kv := pb.NewKVClient(f.conn)
	ask := func(ctx context.Context, key string) (int64, error) {
		resp, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte(key)})
		return resp.GetCount(), err
	}
	count, err := ask(t.Context(), "k")
	require.NoError(t, err)
	require.Equal(t, int64(7), count)
	count, err = ask(t.Context(), "handler")
	require.NoError(t, err)
	require.Equal(t, int64(3), count)
	_, err = ask(t.Context(), "fail")
	require.Equal(t, rpctypes.ErrGRPCCompacted.Error(), err.Error())
	_, err = ask(t.Context(), "panic")
	require.Equal(t, codes.Internal, status.Code(err))
	require.Equal(t, 2, taken)
	require.Len(t, f.logs.FilterMessage("request stats").All(), 3)
	require.Len(t, f.logs.FilterMessageSnippet("a request failed by a panic").All(), 1)

	f.member.learner.Store(true)
	_, err = ask(t.Context(), "k")
	require.Equal(t, rpctypes.ErrGRPCNotSupportedForLearner.Error(), err.Error())
	f.member.learner.Store(false)
	f.member.leaderless.Store(true)
	_, err = ask(metadata.AppendToOutgoingContext(t.Context(), rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader), "k")
	require.Equal(t, rpctypes.ErrGRPCNoLeader.Error(), err.Error())
	require.Equal(t, 2, taken)
}
