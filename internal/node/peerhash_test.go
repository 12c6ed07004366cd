package node

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/membership"
)

// TestMembersAreAskedAtOnce: members that are all started again wait for each other, and not for one after the other.
func TestMembersAreAskedAtOnce(t *testing.T) {
	asked, all := make(chan struct{}, 4), make(chan struct{})
	var members []membership.Member
	for id := range uint64(4) {
		server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			asked <- struct{}{}
			select {
			case <-all: // nobody is answered before all are asked
				_, _ = rw.Write([]byte(`{"hash":7}`))
			case <-r.Context().Done():
			}
		}))
		t.Cleanup(server.Close)
		members = append(members, membership.Member{ID: id, PeerURLs: []string{server.URL}})
	}
	go func() {
		for range members {
			<-asked
		}
		close(all)
	}()
	p := newPeerHashes(zap.NewNop(), 1, 10*time.Second, nil)
	defer p.questions.client.CloseIdleConnections()
	for i, peer := range p.ask(t.Context(), members, 1) {
		require.NoError(t, peer.Err)
		require.Equal(t, members[i].ID, peer.ID)
		require.EqualValues(t, 7, peer.Sum)
	}
}

// TestChecksumsDuringTheFirstCheck: members that are started together compare their data with each other's, so one that
// waits for an answer gives its own. It takes part in nothing else yet.
func TestChecksumsDuringTheFirstCheck(t *testing.T) {
	f := newFleet(t, config.EngineMemory, 3)
	f.put(0, "k", "v")
	f.requireEqual()
	for i := range f.members {
		f.crash(i)
	}
	silent, err := net.Listen("tcp", f.cfgs[2].ListenPeerURLs[0].Host)
	require.NoError(t, err)
	core, lines := observer.New(zapcore.InfoLevel)
	opened := make(chan *Member, 1)
	go func() {
		m, err := Open(t.Context(), f.cfgs[0], zap.New(core))
		assert.NoError(t, err)
		opened <- m
	}()
	require.Eventually(t, func() bool { return lines.FilterMessage("starting initial corruption check").Len() == 1 },
		fleetPatience, time.Millisecond)
	ask := func(method, path string) int {
		r, err := http.NewRequestWithContext(t.Context(), method, f.cfgs[0].AdvertisePeerURLs[0].String()+path, strings.NewReader("{}"))
		require.NoError(t, err)
		res, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		return res.StatusCode
	}
	require.Equal(t, http.StatusOK, ask(http.MethodGet, "/members/hashkv"))
	require.Equal(t, http.StatusServiceUnavailable, ask(http.MethodPost, "/members/promote/1"))
	require.NoError(t, silent.Close())
	m := <-opened
	require.NotNil(t, m)
	f.members[0] = m
	f.open(1)
	f.awaitReady(0)
	f.awaitReady(1)
	f.put(1, "after", "v")
}
