package peer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

const patience = 20 * time.Second

// member is a Receiver that notes what it gets.
type member struct {
	t         *testing.T
	transport *Transport
	server    *httptest.Server
	messages  chan *raftpb.Message
	snapshots chan []byte
	wanted    chan *raftpb.Message
	reports   chan bool
	refuse    error

	mu      sync.Mutex
	removed map[uint64]bool
}

func (m *member) Step(_ context.Context, msg *raftpb.Message) error {
	m.messages <- msg
	return nil
}

func (m *member) ReceiveSnapshot(_ context.Context, _ *raftpb.Message, path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		m.t.Error(err)
	}
	m.snapshots <- content
	return m.refuse
}

func (m *member) SendSnapshot(msg *raftpb.Message) { m.wanted <- msg }

func (m *member) Removed(id uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.removed[id]
}

func (m *member) ReportUnreachable(uint64) {}

func (m *member) ReportSnapshot(_ uint64, failed bool) { m.reports <- failed }

func newMember(t *testing.T, id, cluster uint64) *member {
	m := &member{t: t, messages: make(chan *raftpb.Message, 4096), snapshots: make(chan []byte, 8),
		wanted: make(chan *raftpb.Message, 8), reports: make(chan bool, 8), removed: map[uint64]bool{}}
	m.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.transport.Handler().ServeHTTP(w, r)
	}))
	url := "http://" + m.server.Listener.Addr().String()
	var err error
	m.transport, err = New(Config{ID: id, Cluster: cluster, URLs: []string{url}, DialTimeout: time.Second, Dir: t.TempDir(),
		Receiver: m, Logger: zap.NewNop()})
	require.NoError(t, err)
	m.server.Start()
	t.Cleanup(func() {
		m.transport.Stop()
		m.server.CloseClientConnections()
		m.server.Close()
	})
	return m
}

func heartbeat(from, to, term uint64) *raftpb.Message {
	return &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: &from, To: &to, Term: &term}
}

// exchange sends until one message has arrived: rafthttp drops what it cannot send yet.
func exchange(t *testing.T, from, to *member, term uint64) {
	t.Helper()
	require.Eventually(t, func() bool {
		from.transport.Send([]*raftpb.Message{heartbeat(from.transport.cfg.ID, to.transport.cfg.ID, term)})
		select {
		case m := <-to.messages:
			return m.GetTerm() == term
		default:
			return false
		}
	}, patience, 5*time.Millisecond)
}

func pair(t *testing.T) (a, b *member) {
	a, b = newMember(t, 1, 7), newMember(t, 2, 7)
	members := map[uint64][]string{1: {a.server.URL}, 2: {b.server.URL}}
	require.NoError(t, a.transport.Set(members))
	require.NoError(t, b.transport.Set(members))
	return a, b
}

func TestMessagesBothWays(t *testing.T) {
	a, b := pair(t)
	exchange(t, a, b, 3)
	exchange(t, b, a, 4)
	require.False(t, a.transport.ActiveSince(2).IsZero())
	require.True(t, a.transport.ActiveSince(1).IsZero(), "a member is no peer of itself")
	require.True(t, a.transport.ActiveSince(9).IsZero())

	require.NoError(t, a.transport.Renew())
	exchange(t, a, b, 5)
	exchange(t, b, a, 6)
}

func snapshot(to uint64) *raftpb.Message {
	return &raftpb.Message{Type: raftpb.MsgSnap.Enum(), From: new(uint64(1)), To: &to, Term: new(uint64(3)), Snapshot: &raftpb.Snapshot{
		Data: []byte("{}"), Metadata: &raftpb.SnapshotMetadata{Index: new(uint64(50)), Term: new(uint64(3)),
			ConfState: &raftpb.ConfState{Voters: []uint64{1, 2}}},
	}}
}

func TestSnapshots(t *testing.T) {
	a, b := pair(t)
	exchange(t, a, b, 3)
	// raft's message is a wish; what is sent is made by the member.
	a.transport.Send([]*raftpb.Message{heartbeat(1, 2, 8), snapshot(2), heartbeat(1, 2, 9)})
	require.Equal(t, uint64(2), (<-a.wanted).GetTo())
	require.Eventually(t, func() bool { return (<-b.messages).GetTerm() == 9 }, patience, time.Millisecond)

	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	send := func(size int64) bool {
		done := make(chan bool, 1)
		a.transport.SendSnapshot(snapshot(2), io.NopCloser(bytes.NewReader(content)), size, func(ok bool) { done <- ok })
		return <-done
	}
	require.True(t, send(int64(len(content))))
	require.Equal(t, content, <-b.snapshots)
	require.False(t, <-a.reports, "it did not fail")
	entries, err := os.ReadDir(b.transport.cfg.Dir)
	require.NoError(t, err)
	require.Empty(t, entries, "a snapshot is kept only while it is received")

	require.False(t, send(int64(len(content))+1), "it is shorter than was said")
	require.True(t, <-a.reports)
	b.refuse = errors.New("no")
	require.False(t, send(int64(len(content))))
	require.True(t, <-a.reports)
}

func TestRemovedMembersAreRefused(t *testing.T) {
	a, b := pair(t)
	exchange(t, a, b, 3)
	b.mu.Lock()
	b.removed[1] = true
	b.mu.Unlock()
	require.Error(t, inbound{b.transport}.Process(t.Context(), heartbeat(1, 2, 3)))
	require.NoError(t, b.transport.Set(map[uint64][]string{2: {b.server.URL}}))
	// It learns so from whoever it tries to reach.
	require.NoError(t, a.transport.Renew())
	select {
	case err := <-a.transport.Evicted():
		require.Error(t, err)
	case <-time.After(patience):
		t.Fatal("nobody told it")
	}
}

func TestSet(t *testing.T) {
	a, b := pair(t)
	require.ErrorIs(t, a.transport.Set(map[uint64][]string{2: {b.server.URL}, 3: {"nonsense"}}), ErrURL)
	exchange(t, a, b, 3)
	c := newMember(t, 2, 7) // moved
	require.NoError(t, c.transport.Set(map[uint64][]string{1: {a.server.URL}}))
	require.NoError(t, a.transport.Set(map[uint64][]string{2: {c.server.URL}}))
	exchange(t, a, c, 4)
	a.transport.Stop()
	a.transport.Stop()
	require.ErrorIs(t, a.transport.Set(nil), ErrStopped)
	require.ErrorIs(t, a.transport.Renew(), ErrStopped)
}

// A member of another cluster is not heard.
func TestForeignCluster(t *testing.T) {
	a, b := newMember(t, 1, 7), newMember(t, 2, 8)
	require.NoError(t, a.transport.Set(map[uint64][]string{2: {b.server.URL}}))
	require.NoError(t, b.transport.Set(map[uint64][]string{1: {a.server.URL}}))
	res, err := http.Post(b.server.URL+"/raft", "application/protobuf", nil)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusPreconditionFailed, res.StatusCode)
}

func TestNewRefuses(t *testing.T) {
	_, err := New(Config{ID: 1, URLs: []string{"x"}, Logger: zap.NewNop()})
	require.ErrorIs(t, err, ErrURL)
	_, err = New(Config{ID: 1, URLs: []string{"https://127.0.0.1:1"}, Logger: zap.NewNop(),
		TLS: transport.TLSInfo{CertFile: "gone", KeyFile: "gone", TrustedCAFile: "gone"}})
	require.Error(t, err)
}
