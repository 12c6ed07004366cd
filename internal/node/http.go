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
	"github.com/dolmen-io/dolmen/internal/rpc"
)

// handlers makes the HTTP handlers over an opened member.
func (f *front) handlers(m *Member) error {
	if err := registerMetrics(f.registry, m); err != nil {
		return err
	}
	if err := f.openGateway(m); err != nil {
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
		Gateway:             f.gateway,
		NamesInCertificates: func() bool { return m.cfg.ClientTLS.ClientCertAuth && m.Users().Enabled() },
	})
	if err != nil {
		return err
	}
	f.clientHandler, f.metricsHandler, f.peerHandler = h.Client, h.Metrics, h.Peer
	return nil
}

// openGateway connects the JSON gateway to the services, which must be registered.
func (f *front) openGateway(m *Member) error {
	if !m.cfg.EnableGRPCGateway {
		return nil
	}
	conn, err := f.rpc.Dial()
	if err != nil {
		return err
	}
	f.loopback = conn
	f.gateway, err = httpapi.NewGateway(httpapi.GatewayConfig{Conn: conn, MaxMessageBytes: rpc.MaxMessageBytes(m.cfg.MaxRequestBytes)})
	return err
}

// closeGateway ends what the gateway still does, and its connection.
func (f *front) closeGateway() error {
	if f.gateway != nil {
		f.gateway.Close()
	}
	if f.loopback != nil {
		return f.loopback.Close()
	}
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
