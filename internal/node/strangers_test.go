package node

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/corruption"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/peer"
)

// strangersCounted returns the two counters of the cluster's ID.
func strangersCounted(t *testing.T, m *Member) map[string]float64 {
	t.Helper()
	families, err := m.Registry().Gather()
	require.NoError(t, err)
	counted := map[string]float64{}
	for _, f := range families {
		if f.GetName() == "dolmen_network_cluster_id_mismatches_total" {
			for _, c := range f.GetMetric() {
				counted[c.GetLabel()[0].GetValue()] = c.GetCounter().GetValue()
			}
		}
	}
	return counted
}

// TestMembersOfOtherClusters: what one asks is refused and counted, and so is what one answers.
func TestMembersOfOtherClusters(t *testing.T) {
	f := newFleet(t, config.EngineMemory, 1)
	m := f.members[0]
	require.Equal(t, map[string]float64{"received": 0, "sent": 0}, strangersCounted(t, m))
	for path, method := range map[string]string{"/raft": http.MethodPost, "/raft/snapshot": http.MethodPost, "/members/hashkv": http.MethodGet} {
		req, err := http.NewRequestWithContext(t.Context(), method, f.cfgs[0].AdvertisePeerURLs[0].String()+path, nil)
		require.NoError(t, err)
		req.Header.Set(peer.ClusterHeader, "7")
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusPreconditionFailed, res.StatusCode)
	}
	require.Equal(t, 1, f.lines[0].FilterMessage("request cluster ID mismatch").Len())

	a := newAnswering(t)
	a.cluster, a.members = 7, []membership.Member{{ID: 1}}
	_, _, err := m.network.membersOf(t.Context(), a.URL)
	require.ErrorIs(t, err, corruption.ErrOtherCluster)
	require.ErrorContains(t, err, a.URL+"/members is of cluster 7, this member of ")
	require.Equal(t, 1, f.lines[0].FilterMessage("an answer of another cluster is refused").Len())
	require.Equal(t, map[string]float64{"received": 3, "sent": 1}, strangersCounted(t, m))

	a.cluster = m.id.cluster
	_, _, err = m.network.membersOf(t.Context(), a.URL)
	require.NoError(t, err)
}
