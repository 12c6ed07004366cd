package node

import (
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dolmen-io/dolmen/internal/config"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// TestStalledClientCostsNoLease stops a member while a client does not read a large answer. The drain
// uses up its time; the remaining times of leases, more than fit one entry, are noted all the same.
func TestStalledClientCostsNoLease(t *testing.T) {
	cfg := quietConfig(t, config.EngineMemory)
	cfg.ListenClientURLs = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	core, lines := observer.New(zapcore.WarnLevel)
	m, err := Open(t.Context(), cfg, zap.New(core))
	require.NoError(t, err)
	ready(t, m)
	c, err := clientv3.New(clientv3.Config{Endpoints: m.ClientURLs(), Logger: zap.NewNop()})
	require.NoError(t, err)
	defer func() { _ = c.Close() }() // the member may have cut it off already

	const leases = checkpointBatch + 200
	for id := range int64(leases) {
		_, err := m.Propose(t.Context(), &pb.InternalRaftRequest{LeaseGrant: &pb.LeaseGrantRequest{ID: id + 1, TTL: 1000}})
		require.NoError(t, err)
	}
	for _, key := range []string{"a", "b", "c", "d"} {
		_, err := m.Propose(t.Context(), &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte(key), Value: make([]byte, 1<<20)}})
		require.NoError(t, err)
	}
	stream, err := pb.NewKVClient(c.ActiveConnection()).RangeStream(t.Context(), &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	require.NoError(t, err)
	header, err := stream.Header() // the member has begun to answer, and can get no further
	require.NoError(t, err)
	require.NotNil(t, header)

	require.Eventually(t, func() bool { return m.primary.Load() && *m.versions.storage.Load() != "" },
		testPatience, time.Millisecond) // nobody reads patience any more
	m.patience = 5 * time.Second
	stop(t, m)
	require.Len(t, lines.FilterMessage("some requests were cut off").All(), 1)
	require.Empty(t, lines.FilterMessageSnippet("could not note the remaining times").All())

	again, err := Open(t.Context(), cfg, zap.NewNop())
	require.NoError(t, err)
	defer stop(t, again)
	ready(t, again)
	for id := range int64(leases) {
		l, ok := again.state.Leases().Get(id + 1)
		require.True(t, ok)
		require.Positive(t, l.Remaining, "lease %x", id+1)
	}
}
