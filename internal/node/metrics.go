package node

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dolmen-io/dolmen/internal/state"
)

// registerMetrics adds the member's figures to its registry. They are read when somebody asks: nothing
// on the way of a request counts for them.
func registerMetrics(r prometheus.Registerer, m *Member) error {
	var errs []error
	add := func(c prometheus.Collector) { errs = append(errs, r.Register(c)) }
	gauge := func(name, help string, value func() float64) {
		add(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	counter := func(name, help string, value func() float64) {
		add(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, value))
	}
	view := func(get func(*state.View) float64) func() float64 {
		return func() float64 {
			v := m.state.View()
			defer v.Release()
			return get(v)
		}
	}
	c := m.cons.Counters()
	gauge("etcd_server_has_leader", "Whether a leader is known.", func() float64 { return truth(m.HasLeader()) })
	gauge("etcd_server_is_leader", "Whether this member leads.", func() float64 { return truth(m.leads()) })
	gauge("etcd_server_is_learner", "Whether this member has no vote.", func() float64 { return truth(m.IsLearner()) })
	gauge("etcd_server_proposals_committed_total", "The committed index of the raft log.",
		func() float64 { return float64(m.cons.Status().Commit) })
	gauge("etcd_server_proposals_applied_total", "The applied index of the raft log.",
		view(func(v *state.View) float64 { return float64(v.Applied.Index) }))
	gauge("etcd_server_proposals_pending", "Requests of this member on their way through the log.",
		func() float64 { return float64(m.pending.size()) })
	counter("etcd_server_leader_changes_seen_total", "Changes of the leader.",
		func() float64 { return float64(c.LeaderChanges.Load()) })
	counter("etcd_server_proposals_failed_total", "Proposals that were refused or dropped.",
		func() float64 { return float64(c.ProposalsDropped.Load() + c.ProposalsRefused.Load()) })
	gauge("etcd_server_quota_backend_bytes", "The quota in bytes.",
		func() float64 { return float64(m.quota.limit) })
	gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes of the engine on disk, or the bytes in use where those are more.",
		func() float64 { return float64(m.sizes().total) })
	gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Live bytes, which the quota counts.",
		func() float64 { return float64(m.sizes().inUse) })
	gauge("etcd_debugging_mvcc_keys_total", "Keys that exist.",
		view(func(v *state.View) float64 { return float64(v.KV.Keys()) }))
	gauge("etcd_debugging_mvcc_current_revision", "The current revision.",
		view(func(v *state.View) float64 { return float64(v.KV.Current()) }))
	gauge("etcd_debugging_mvcc_compact_revision", "The revision of the last compaction, -1 before any.",
		view(func(v *state.View) float64 { return float64(v.KV.Compacted()) }))
	gauge("dolmen_mvcc_recent_roots", "Roots of the key index that are kept for reads at revisions of the last minute.",
		view(func(v *state.View) float64 { roots, _ := v.KV.Recent(); return float64(roots) }))
	gauge("dolmen_mvcc_recent_bytes", "Memory that only the kept roots of the key index hold on to.",
		view(func(v *state.View) float64 { _, bytes := v.KV.Recent(); return float64(bytes) }))
	gauge("etcd_debugging_auth_revision", "The revision of users and roles.",
		func() float64 { return float64(m.state.Users().Revision()) })
	registerStallMetrics(gauge, counter, m)
	registerWatchMetrics(gauge, counter, m)
	if m.network != nil {
		registerStrangerMetrics(add, m)
	}
	errs = append(errs, m.applier.remover.metrics.register(r))
	add(m.versions.metric)
	constant := func(name, label, value string) {
		add(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: name, Help: "Always 1; the label says which.", ConstLabels: prometheus.Labels{label: value},
		}, func() float64 { return 1 }))
	}
	constant("etcd_server_version", "server_version", serverVersion)
	constant("etcd_server_id", "server_id", strconv.FormatUint(m.id.member, 16))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	return nil
}

func registerStallMetrics(gauge, counter func(name, help string, value func() float64), m *Member) {
	c := m.cons.Counters()
	gauge("dolmen_disk_stalled", "Whether the raft log has been waiting for the disk for an election timeout or longer.",
		func() float64 { return truth(m.cons.Status().DiskStalled) })
	counter("dolmen_disk_stalls_total", "How often that has happened.", func() float64 { return float64(c.DiskStalls.Load()) })
	counter("dolmen_disk_stall_handovers_total", "How often this member has begun to hand leadership over because of that.",
		func() float64 { return float64(c.StallHandOvers.Load()) })
	if m.network != nil {
		counter("dolmen_snapshots_refused_total", "Snapshots of other members that were damaged or not what their message says.",
			func() float64 { return float64(m.network.incoming.refused.Load()) })
	}
}

func registerWatchMetrics(gauge, counter func(name, help string, value func() float64), m *Member) {
	gauge("etcd_debugging_mvcc_watch_stream_total", "Open watch streams.",
		func() float64 { return float64(m.hub.Stats().Streams) })
	gauge("etcd_debugging_mvcc_watcher_total", "Watches.",
		func() float64 { return float64(m.hub.Stats().Watchers) })
	gauge("etcd_debugging_mvcc_slow_watcher_total", "Watches that are behind and catch up.",
		func() float64 { return float64(m.hub.Stats().Slow) })
	gauge("etcd_debugging_mvcc_pending_events_total", "Events that wait to be sent.",
		func() float64 { return float64(m.hub.Stats().Pending) })
	counter("etcd_debugging_mvcc_events_total", "Events that were given to watches.",
		func() float64 { return float64(m.hub.Stats().Events) })
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// registerStrangerMetrics counts what went between this member and members of other clusters.
func registerStrangerMetrics(add func(prometheus.Collector), m *Member) {
	direction := func(name string, value func(received, sent uint64) uint64) {
		add(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name:        "dolmen_network_cluster_id_mismatches_total",
			Help:        "Requests between members that were refused because of the cluster's ID: received from another cluster, or sent to one.",
			ConstLabels: prometheus.Labels{"direction": name},
		}, func() float64 { return float64(value(m.network.transport.Strangers())) }))
	}
	direction("received", func(received, _ uint64) uint64 { return received })
	direction("sent", func(_, sent uint64) uint64 { return sent })
}
