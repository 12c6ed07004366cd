package node

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/etcd/api/v3/version"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/membership"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// versionInterval is how often a leader compares the members' versions with the cluster's, etcd's figure.
const versionInterval = 4 * time.Second

// ErrDowngrade says that this program is older than the cluster allows its members to be.
var ErrDowngrade = errors.New("invalid downgrade; server version is lower than determined cluster version")

// versions is what this member knows of the cluster's version and of that of its own storage, which
// follows. All but storage belongs to the goroutine that keeps them.
type versions struct {
	cluster string // as last seen
	storage atomic.Pointer[string]
	// metric has a series for each version that the cluster has had while this member ran: one or two.
	metric *prometheus.GaugeVec
}

// openVersions begins with the version that the state was opened with.
func openVersions(v *membership.View) (*versions, error) {
	cluster := v.Version()
	if err := checkVersion(cluster); err != nil {
		return nil, err
	}
	vs := &versions{cluster: cluster, metric: prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "etcd_cluster_version", Help: "1 for the cluster's version, 0 for one that it had before.",
	}, []string{"cluster_version"})}
	vs.storage.Store(new(string))
	if cluster != "" {
		vs.metric.WithLabelValues(version.Cluster(cluster)).Set(1)
	}
	if cluster != membership.MinVersion {
		vs.storage.Store(&cluster)
	}
	return vs, nil
}

func checkVersion(cluster string) error {
	if cluster != "" && !membership.Serves(serverVersion, cluster) {
		return fmt.Errorf("%w: this is %s, the cluster is %s; run a newer version, or downgrade the cluster first",
			ErrDowngrade, serverVersion, cluster)
	}
	return nil
}

// keepVersions follows the cluster's version and, on the leader, decides it.
func (m *Member) keepVersions(ctx context.Context) error {
	ticker := time.NewTicker(versionInterval)
	defer ticker.Stop()
	var downgrade <-chan time.Time
	if every := m.cfg.DowngradeCheckTime; every > 0 {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		downgrade = ticker.C
	}
	for {
		changed := m.cons.LeaderChanged()
		if err := m.followVersion(); err != nil {
			return err
		}
		if m.leads() {
			m.decideVersion(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-ticker.C:
		case <-m.applier.members:
		case <-downgrade:
			if m.leads() {
				m.endDowngrade(ctx)
			}
		}
	}
}

// followVersion takes note of what the cluster's version has become.
func (m *Member) followVersion() error {
	v := m.state.View()
	defer v.Release()
	from, to := m.versions.cluster, v.Members.Version()
	if to == "" {
		return nil
	}
	if from != to {
		if err := checkVersion(to); err != nil {
			return err
		}
		m.noteVersion(from, to)
	}
	storage := *m.versions.storage.Load()
	if to == membership.MinVersion || storage == to {
		return nil
	}
	if storage != "" {
		m.lg.Info("cluster version differs from storage version.", zap.String("cluster-version", to), zap.String("storage-version", storage))
	}
	m.versions.storage.Store(&to)
	m.lg.Info("updated storage version", zap.String("new-storage-version", to))
	if d := v.Members.Downgrade(); d.Enabled {
		m.lg.Info("The server is ready to downgrade", zap.String("target-version", d.TargetVersion), zap.String("server-version", serverVersion))
	}
	return nil
}

func (m *Member) noteVersion(from, to string) {
	m.versions.cluster = to
	who := []zap.Field{zap.Stringer("cluster-id", types.ID(m.id.cluster)), zap.Stringer("local-member-id", types.ID(m.id.member))}
	if from == "" {
		m.lg.Info("set initial cluster version", append(who, zap.String("cluster-version", version.Cluster(to)))...)
	} else {
		m.lg.Info("updated cluster version", append(who, zap.String("from", version.Cluster(from)), zap.String("to", version.Cluster(to)))...)
		m.versions.metric.WithLabelValues(version.Cluster(from)).Set(0)
	}
	m.versions.metric.WithLabelValues(version.Cluster(to)).Set(1)
	if membership.Serves(from, to) && from != "" {
		m.lg.Info("Cluster version downgrade detected, forcing snapshot",
			zap.String("prev-cluster-version", from), zap.String("new-cluster-version", to))
		m.flusher.ask()
	}
}

// decideVersion gives the cluster the version that its members can have in common. What fails is tried
// again at the next tick.
func (m *Member) decideVersion(ctx context.Context) {
	v, err := m.Read(ctx, true) // a new leader may not have applied yet what was decided before it
	if err != nil {
		return
	}
	members := v.Members
	v.Release()
	next, err := members.NextVersion(m.serverVersions(ctx, members))
	if err != nil {
		m.lg.Error("Failed to monitor cluster version", zap.Error(err))
	}
	if next == "" {
		return
	}
	if from := members.Version(); from == "" {
		m.lg.Info("setting up initial cluster version using v3 API", zap.String("cluster-version", version.Cluster(next)))
	} else {
		m.lg.Info("updating cluster version using v3 API",
			zap.String("from", version.Cluster(from)), zap.String("to", version.Cluster(next)))
	}
	m.proposeVersion(ctx, "failed to update cluster version", &pb.InternalRaftRequest{
		ClusterVersionSet: &membershippb.ClusterVersionSetRequest{Ver: next},
	})
}

// endDowngrade ends a downgrade that all members have gone through.
func (m *Member) endDowngrade(ctx context.Context) {
	v, err := m.Read(ctx, true)
	if err != nil {
		return
	}
	members := v.Members
	v.Release()
	if !members.Downgrade().Enabled || !members.Downgraded(m.serverVersions(ctx, members)) {
		return
	}
	m.lg.Info("the cluster has been downgraded", zap.String("cluster-version", members.Downgrade().TargetVersion))
	m.proposeVersion(ctx, "failed to cancel downgrade", &pb.InternalRaftRequest{
		DowngradeInfoSet: &membershippb.DowngradeInfoSetRequest{},
	})
}

func (m *Member) proposeVersion(ctx context.Context, failed string, req *pb.InternalRaftRequest) {
	res, err := m.Propose(ctx, req)
	if err := errors.Join(err, res.Err); err != nil && ctx.Err() == nil && !errors.Is(err, consensus.ErrStopped) {
		m.lg.Warn(failed, zap.Error(err))
	}
}

// serverVersions returns the versions that the members run, "" for one that does not tell.
func (m *Member) serverVersions(ctx context.Context, members *membership.View) []string {
	ctx, cancel := context.WithTimeout(ctx, versionInterval)
	defer cancel()
	var all []string
	for _, other := range members.Members() {
		running := serverVersion
		if other.ID != m.id.member {
			var err error
			if running, err = m.others.ServerVersion(ctx, other); err != nil {
				m.lg.Debug("a member does not tell its version", zap.Stringer("remote-member-id", types.ID(other.ID)), zap.Error(err))
				running = ""
			}
		}
		all = append(all, running)
	}
	return all
}
