package node

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

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
