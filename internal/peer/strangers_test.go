package peer

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// ask sends a request to a guarded transport, whose handler answers 200 where rafthttp does not, and returns the answer.
func ask(t *testing.T, m *member, method, path, cluster string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	if cluster != "" {
		r.Header.Set(ClusterHeader, cluster)
	}
	r.Header.Set("X-Server-From", "1")
	w := httptest.NewRecorder()
	m.transport.Guard(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })).ServeHTTP(w, r)
	return w
}

func TestRequestsOfOtherClusters(t *testing.T) {
	m := newMember(t, 2, 0x8)
	core, lines := observer.New(zapcore.InfoLevel)
	now := time.Unix(1, 0)
	m.transport.strangers.lg, m.transport.strangers.now = zap.New(core), func() time.Time { return now }
	refused := 0
	for _, tc := range []struct{ method, path string }{
		{http.MethodPost, "/raft"}, {http.MethodGet, "/raft/stream/msgapp/2"}, {http.MethodGet, "/raft/stream/message/2"},
		{http.MethodPost, "/raft/snapshot"},
	} {
		w := ask(t, m, tc.method, tc.path, "7")
		require.Equal(t, http.StatusPreconditionFailed, w.Code, tc.path)
		require.Equal(t, "cluster ID mismatch\n", w.Body.String())
		require.Equal(t, "8", w.Header().Get(ClusterHeader))
		require.Equal(t, http.StatusOK, ask(t, m, tc.method, tc.path, "8").Code)
		refused++
	}
	require.Equal(t, http.StatusPreconditionFailed, ask(t, m, http.MethodPost, "/raft", "").Code)
	refused++
	for _, path := range []string{"/raft/probing", "/members", "/version", "/leases", "/raft", "/raft/nothing"} { // GET /raft is not raft's
		require.Equal(t, http.StatusOK, ask(t, m, http.MethodGet, path, "").Code, path)
		require.Equal(t, http.StatusOK, ask(t, m, http.MethodGet, path, "7").Code, path)
	}
	require.Equal(t, http.StatusOK, ask(t, m, http.MethodGet, hashPath, "7").Code, "its handler refuses it")
	refused++
	received, sent := m.transport.Strangers()
	require.Equal(t, []uint64{uint64(refused), 0}, []uint64{received, sent})

	// One line about each of them, again after a while.
	all := func() []observer.LoggedEntry { return lines.FilterMessage("request cluster ID mismatch").All() }
	require.Len(t, all(), 2)
	require.Equal(t, "7", all()[0].ContextMap()["remote-peer-cluster-id"])
	require.Contains(t, all()[0].ContextMap()["advice"], "--initial-cluster-token")
	now = now.Add(strangerInterval)
	ask(t, m, http.MethodPost, "/raft", "7")
	require.Len(t, all(), 3)

	// What is remembered of them is bounded.
	for i := range 10 * maxStrangers {
		ask(t, m, http.MethodPost, "/raft", fmt.Sprintf("%x", 0x100+i))
	}
	require.LessOrEqual(t, len(all()), 3+maxStrangers+1)
	require.LessOrEqual(t, len(m.transport.strangers.mu.told), maxStrangers+1)
}

// TestMembersOfTwoClusters: each tries to reach the other many times, counts that, and says so once.
func TestMembersOfTwoClusters(t *testing.T) {
	a, b := newMember(t, 1, 7), newMember(t, 2, 8)
	core, lines := observer.New(zapcore.InfoLevel)
	a.transport.strangers.lg = zap.New(core)
	require.NoError(t, a.transport.Renew())
	guarded := httptest.NewServer(b.transport.Guard(b.transport.Handler()))
	defer guarded.Close()
	require.NoError(t, a.transport.Set(map[uint64][]string{2: {guarded.URL}}))
	require.Eventually(t, func() bool {
		_, sent := a.transport.Strangers()
		received, _ := b.transport.Strangers()
		return sent > 5 && received > 5
	}, patience, 5*time.Millisecond)
	a.transport.Stop()
	require.Len(t, lines.FilterMessageSnippet("due to cluster ID mismatch").All(), 1)
	require.Zero(t, lines.FilterLevelExact(zapcore.ErrorLevel).Len())

	a.transport.NoteStranger(guarded.URL, "8")
	a.transport.NoteStranger(guarded.URL, "8")
	require.Len(t, lines.FilterMessage("an answer of another cluster is refused").All(), 1)
}
