package node

import (
	"cmp"
	"net/url"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/membership"
)

func TestInitialMembers(t *testing.T) {
	peer := func(hosts ...string) (urls []url.URL) {
		for _, h := range hosts {
			urls = append(urls, url.URL{Scheme: "http", Host: h})
		}
		return urls
	}
	tests := []struct {
		name, cluster, self string
		advertised          []url.URL
		want                string // error
		members             int
	}{
		{"one", "a=http://h:1", "a", peer("h:1"), "", 1},
		{"two, in any order of URLs", "b=http://h:3,a=http://h:2,a=http://h:1", "a", peer("h:2", "h:1"), "", 2},
		{"no such name", "a=http://h:1", "b", peer("h:1"), `couldn't find local name "b" in the initial cluster configuration`, 0},
		{"no member", "", "a", peer("h:1"), `couldn't find local name "a" in the initial cluster configuration`, 0},
		{"no URL", "a=h:1", "a", peer("h:1"), "read --initial-cluster: ", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := config.Default()
			cfg.InitialCluster, cfg.Name, cfg.AdvertisePeerURLs = tt.cluster, tt.self, tt.advertised
			told, err := initialMembers(cfg)
			if tt.want != "" {
				require.ErrorContains(t, err, tt.want)
				return
			}
			require.NoError(t, err)
			require.NoError(t, told.checkAdvertised(t.Context(), cfg, zap.NewNop()))
			require.Len(t, told.members, tt.members)
			require.Equal(t, "a", told.self.Name)
			require.Contains(t, told.members, told.self)
			require.True(t, slices.IsSortedFunc(told.members, func(a, b membership.Member) int { return cmp.Compare(a.ID, b.ID) }))
			peers, err := bootstrapPeers(told.members)
			require.NoError(t, err)
			require.Len(t, peers, tt.members)
			require.Equal(t, told.members[0].ID, peers[0].ID)
		})
	}
}

func TestMinTTL(t *testing.T) {
	for ms, want := range map[int]int64{1000: 2, 100: 1, 2000: 3, 667: 2} {
		require.Equal(t, want, minTTL(durationMillis(ms)), "%d ms", ms)
	}
}
