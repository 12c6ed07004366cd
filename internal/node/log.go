package node

import (
	"net/url"
	"runtime"

	"go.etcd.io/etcd/api/v3/version"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/state"
)

// logStart writes the line that says what was started. Its fields are those that tools look for in etcd's.
func (m *Member) logStart(applied state.Applied) {
	cfg := m.cfg
	m.lg.Info("starting an etcd server",
		zap.String("etcd-version", serverVersion),
		zap.String("git-sha", version.GitSHA),
		zap.String("go-version", runtime.Version()),
		zap.String("go-os", runtime.GOOS),
		zap.String("go-arch", runtime.GOARCH),
		zap.Int("max-cpu-set", runtime.GOMAXPROCS(0)),
		zap.Int("max-cpu-available", runtime.NumCPU()),
		zap.Bool("member-initialized", applied.Index > 0),
		zap.String("name", cfg.Name),
		zap.String("data-dir", cfg.DataDir),
		zap.String("wal-dir", walDirectory(cfg)),
		zap.String("wal-dir-dedicated", cfg.WALDir),
		zap.String("member-dir", memberDirectory(cfg)),
		zap.String("storage-engine", cfg.StorageEngine),
		zap.Bool("force-new-cluster", cfg.ForceNewCluster),
		zap.String("heartbeat-interval", cfg.HeartbeatInterval.String()),
		zap.String("election-timeout", cfg.ElectionTimeout.String()),
		zap.Bool("initial-election-tick-advance", cfg.InitialElectionTickAdvance),
		zap.Uint64("snapshot-count", cfg.SnapshotCount),
		zap.Uint("max-wals", cfg.MaxWALs),
		zap.Uint("max-snapshots", cfg.MaxSnapshots),
		zap.Uint64("snapshot-catchup-entries", cfg.SnapshotCatchUpEntries),
		zap.Strings("initial-advertise-peer-urls", texts(cfg.AdvertisePeerURLs)),
		zap.Strings("listen-peer-urls", texts(cfg.ListenPeerURLs)),
		zap.Strings("advertise-client-urls", texts(cfg.AdvertiseClientURLs)),
		zap.Strings("listen-client-urls", texts(cfg.ListenClientURLs)),
		zap.Strings("listen-metrics-urls", texts(cfg.ListenMetricsURLs)),
		zap.Strings("cors", cfg.CORS),
		zap.Strings("host-whitelist", cfg.HostWhitelist),
		zap.String("initial-cluster", cfg.InitialCluster),
		zap.String("initial-cluster-state", cfg.InitialClusterState),
		zap.String("initial-cluster-token", cfg.InitialClusterToken),
		zap.String("discovery-token", cfg.Discovery.Token),
		zap.Strings("discovery-endpoints", cfg.Discovery.Endpoints),
		zap.String("discovery-srv", cfg.Discovery.SRVDomain),
		zap.Int64("quota-backend-bytes", quotaBytes(cfg.QuotaBackendBytes)),
		zap.Uint("max-request-bytes", cfg.MaxRequestBytes),
		zap.Uint32("max-concurrent-streams", cfg.GRPC.MaxConcurrentStreams),
		zap.Bool("pre-vote", cfg.PreVote),
		zap.String("feature-gates", cfg.FeatureGates.String()),
		zap.String("auto-compaction-mode", cfg.AutoCompactionMode),
		zap.String("downgrade-check-interval", cfg.DowngradeCheckTime.String()),
		zap.Int("max-learners", cfg.MaxLearners),
		zap.String("v2-deprecation", "write-only"),
		zap.Uint64("applied-index", applied.Index),
	)
	m.lg.Info("starting local member", zap.Stringer("local-member-id", types.ID(m.id.member)), zap.Stringer("cluster-id", types.ID(m.id.cluster)))
}

func texts(urls []url.URL) []string {
	list := make([]string, 0, len(urls))
	for i := range urls {
		list = append(list, urls[i].String())
	}
	return list
}
