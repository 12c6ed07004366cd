package node

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/alarm"
	"github.com/dolmen-io/dolmen/internal/etcdapi"
	"github.com/dolmen-io/dolmen/internal/httpapi"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/mvcc"
)

// handlers makes the HTTP handlers over an opened member.
func (f *front) handlers(m *Member) error {
	if err := registerMetrics(f.registry, m); err != nil {
		return err
	}
	h, err := httpapi.New(httpapi.Config{
		Backend: web{m}, Logger: f.lg, Registry: f.registry, Process: prometheus.DefaultGatherer,
		ProbeTimeout: m.patience,
		Vars: map[string]func() any{
			"raft.status":           func() any { return m.cons.Status() },
			"file_descriptor_limit": func() any { return openFileLimit() },
		},
		Pprof: m.cfg.EnablePprof || f.lg.Core().Enabled(zap.DebugLevel),
		CORS:  m.cfg.CORS, HostWhitelist: m.cfg.HostWhitelist,
	})
	if err != nil {
		return err
	}
	f.clientHandler, f.metricsHandler, f.peerHandler = h.Client, h.Metrics, h.Peer
	return nil
}

// web is the member as HTTP sees it.
type web struct{ m *Member }

// Alarms implements httpapi.Backend.
func (w web) Alarms() []alarm.Alarm {
	v := w.m.state.View()
	defer v.Release()
	return v.Alarms.Alarms
}

// HasLeader implements httpapi.Backend.
func (w web) HasLeader() bool { return w.m.HasLeader() }

// IsLearner implements httpapi.Backend.
func (w web) IsLearner() bool { return w.m.IsLearner() }

// Probe implements httpapi.Backend.
func (w web) Probe(ctx context.Context, serializable bool) error {
	v, err := w.m.Read(ctx, !serializable)
	if err != nil {
		return errors.New(etcdapi.Message(err))
	}
	v.Release()
	return nil
}

// Versions implements httpapi.Backend.
func (w web) Versions() httpapi.Versions {
	v := w.m.state.View()
	defer v.Release()
	return httpapi.Versions{Server: serverVersion, Cluster: v.Members.Version(), Storage: *w.m.versions.storage.Load()}
}

// Members implements httpapi.Backend.
func (w web) Members() []membership.Member {
	v := w.m.state.View()
	defer v.Release()
	return v.Members.Members()
}

// HashKV implements httpapi.Backend.
func (w web) HashKV(revision int64) (mvcc.Hash, int64, error) {
	v := w.m.state.View()
	defer v.Release()
	h, err := v.HashKV(revision)
	return h, v.KV.Current(), err
}

// ClusterID implements httpapi.Backend.
func (w web) ClusterID() uint64 { return w.m.id.cluster }
