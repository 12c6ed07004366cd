package etcdapi

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/rpc"
	"github.com/dolmen-io/dolmen/internal/state"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// immediate counts what is answered on connections' readers.
type immediate struct {
	state   *state.State
	busy    atomic.Bool
	answers atomic.Int64
}

func (i *immediate) ReadNow(linearizable bool) (*state.View, bool) {
	if linearizable && i.busy.Load() {
		return nil, false
	}
	i.answers.Add(1)
	return i.state.View(), true
}

type standing struct{}

func (standing) HasLeader() bool { return true }
func (standing) IsLearner() bool { return false }

// direct is a client of the fixture's services that are carried by our own transport.
func (f *fixture) direct() (pb.KVClient, *immediate, *prometheus.Registry) {
	f.t.Helper()
	registry := prometheus.NewRegistry()
	server, err := rpc.New(rpc.Config{
		MaxRequestBytes: 1 << 20, ElectionTimeout: time.Hour, SlowRequest: time.Hour,
		Logger: zap.NewNop(), Registry: registry, Membership: standing{},
	})
	require.NoError(f.t, err)
	f.services.Register(server)
	member := &immediate{state: f.member.state}
	f.services.RegisterDirect(server, member)
	conn, err := server.Dial()
	require.NoError(f.t, err)
	f.t.Cleanup(func() {
		require.NoError(f.t, conn.Close())
		require.NoError(f.t, server.Shutdown(context.Background()))
	})
	return pb.NewKVClient(conn), member, registry
}

// ranges are requests, and whether they are answered on the reader.
var ranges = []struct {
	request *pb.RangeRequest
	direct  bool
}{
	{&pb.RangeRequest{Key: []byte("b")}, true},
	{&pb.RangeRequest{Key: []byte("b"), Serializable: true}, true},
	{&pb.RangeRequest{Key: []byte("none")}, true},
	{&pb.RangeRequest{Key: []byte("b"), CountOnly: true}, true},
	{&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), CountOnly: true}, true},
	{&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), Limit: 2}, true},
	{&pb.RangeRequest{Key: []byte("z"), RangeEnd: []byte("a"), Limit: 2}, true},
	{&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}, Limit: inPlace}, true},
	{&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}, Limit: inPlace + 1}, false},
	{&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z")}, false},
	{&pb.RangeRequest{Key: []byte("b"), Revision: 2}, false},
	{&pb.RangeRequest{Key: []byte("b"), KeysOnly: true}, false},
	{&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), Limit: 2, SortOrder: pb.RangeRequest_DESCEND}, false},
	{&pb.RangeRequest{Key: []byte("b"), MinModRevision: 2}, false},
	{&pb.RangeRequest{}, false},
	{&pb.RangeRequest{Key: []byte("b"), Limit: -1}, false},
	{&pb.RangeRequest{Key: []byte("b"), Revision: 100}, false},
}

// TestDirectRange: whoever answers, the answer is the same.
func TestDirectRange(t *testing.T) {
	f := newFixture(t)
	f.put("a", "1", "b", "2", "c", "3", "b", "4")
	kv, member, registry := f.direct()
	for _, tc := range ranges {
		t.Run(fmt.Sprint(tc.request), func(t *testing.T) {
			want, wantErr := f.kv.Range(f.ctx, tc.request)
			before := member.answers.Load()
			got, err := kv.Range(f.ctx, tc.request)
			require.Equal(t, fmt.Sprint(wantErr), fmt.Sprint(err))
			requireEqual(t, want, got)
			require.Equal(t, tc.direct, member.answers.Load() > before)
		})
	}
	// What has to wait is the handler's.
	member.busy.Store(true)
	before := member.answers.Load()
	_, err := kv.Range(f.ctx, &pb.RangeRequest{Key: []byte("b")})
	require.NoError(t, err)
	require.Equal(t, before, member.answers.Load())
	families, err := registry.Gather()
	require.NoError(t, err)
	handled := 0.0
	for _, family := range families {
		if family.GetName() == "grpc_server_handled_total" {
			for _, m := range family.GetMetric() {
				handled += m.GetCounter().GetValue()
			}
		}
	}
	require.InDelta(t, len(ranges)+1, handled, 0, "those on the reader are counted, too")
}

// TestDirectRangeOfUsers: with auth, too.
func TestDirectRangeOfUsers(t *testing.T) {
	f := newSecured(t)
	_, err := f.kv.Put(f.root, &pb.PutRequest{Key: []byte("b"), Value: []byte("1")})
	require.NoError(t, err)
	_, err = f.kv.Put(f.root, &pb.PutRequest{Key: []byte("x"), Value: []byte("2")})
	require.NoError(t, err)
	kv, _, _ := f.direct()
	forged := metadata.AppendToOutgoingContext(f.ctx, rpctypes.TokenFieldNameGRPC, "nonsense.1")
	for who, ctx := range map[string]context.Context{"root": f.root, "a reader": f.u, "nobody": f.ctx, "a forger": forged} {
		for _, tc := range ranges {
			t.Run(who+" "+fmt.Sprint(tc.request), func(t *testing.T) {
				want, wantErr := f.kv.Range(ctx, tc.request)
				got, err := kv.Range(ctx, tc.request)
				require.Equal(t, fmt.Sprint(wantErr), fmt.Sprint(err))
				requireEqual(t, want, got)
			})
		}
	}
}

// FuzzSmallRange: what is read by hand is what protobuf reads, and what is left to it is the rest.
func FuzzSmallRange(f *testing.F) {
	for _, tc := range ranges {
		b, err := proto.Marshal(tc.request)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Add([]byte{0x0a, 1, 'a', 0x0a, 1, 'b'})
	f.Add(protowire.AppendVarint([]byte{0x0a, 1, 'a', 0x38}, 1<<40))
	f.Fuzz(func(t *testing.T, b []byte) {
		var small smallRange
		if !small.decode(b) {
			return
		}
		var full pb.RangeRequest
		require.NoError(t, proto.Unmarshal(b, &full))
		require.Equal(t, string(full.GetKey()), string(small.key))
		require.Equal(t, string(full.GetRangeEnd()), string(small.end))
		require.Equal(t, full.GetLimit(), small.limit)
		require.Equal(t, full.GetSerializable(), small.serializable)
		require.Equal(t, full.GetCountOnly(), small.countOnly)
		rest := &pb.RangeRequest{Key: full.GetKey(), RangeEnd: full.GetRangeEnd(), Limit: full.GetLimit(),
			Serializable: full.GetSerializable(), CountOnly: full.GetCountOnly()}
		require.True(t, proto.Equal(rest, &full), "fields that were not read: %v", &full)
	})
}
