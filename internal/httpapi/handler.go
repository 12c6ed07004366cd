// Package httpapi answers plain HTTP: what probes, dashboards and operators ask of a member, and what
// other members ask before they speak raft to it. Paths, bodies, headers and status codes are etcd's.
package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/pprof"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/alarm"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/mvcc"
)

// Versions is what /version answers, in its JSON.
type Versions struct {
	// Server is the version that this member runs, "3.7.3".
	Server string `json:"etcdserver"`
	// Cluster is the version that the members agreed on, "3.7.0", or "" as long as they have not.
	Cluster string `json:"etcdcluster"`
	// Storage is the version of the stored data, "3.7.0", or "" as long as it is not set.
	Storage string `json:"storage"`
}

// Backend is the member that the handlers speak for. Its methods are called from many goroutines; only
// Probe and HashKV may take long.
type Backend interface {
	// Alarms returns the raised alarms.
	Alarms() []alarm.Alarm
	// HasLeader reports whether this member knows a leader.
	HasLeader() bool
	// IsLearner reports whether this member has no vote.
	IsLearner() bool
	// Probe does what a read of one key does, locally if serializable is set, else through the quorum. The
	// text of its error is shown to whoever asks.
	Probe(ctx context.Context, serializable bool) error
	// Versions returns the versions as they are now.
	Versions() Versions
	// Members returns the members by ascending ID.
	Members() []membership.Member
	// HashKV returns the checksum of the history up to a revision, 0 for the current one, and the current
	// revision. Errors: mvcc.ErrCompacted, mvcc.ErrFuture, the engine's.
	HashKV(revision int64) (hash mvcc.Hash, current int64, err error)
	// ClusterID returns the ID of the cluster.
	ClusterID() uint64
}

// Config says what the handlers serve.
type Config struct {
	Backend Backend
	Logger  *zap.Logger
	// Registry holds the member's own metrics; the handlers add theirs. Process is what belongs to the
	// process and not to the member, usually prometheus.DefaultGatherer. A metric that both have is
	// served from Registry.
	Registry *prometheus.Registry
	Process  prometheus.Gatherer
	// ProbeTimeout bounds the read of /health.
	ProbeTimeout time.Duration
	// Vars are added to /debug/vars beside the process' own. Their results must encode as JSON.
	Vars map[string]func() any
	// Pprof serves /debug/pprof to clients.
	Pprof bool
	// CORS are the origins allowed in browsers, HostWhitelist the names by which clients may call the member
	// without TLS; none or "*" allows all.
	CORS          []string
	HostWhitelist []string
	// Gateway serves /v3/, nil for none.
	Gateway *Gateway
	// NamesInCertificates, if set, reports whether the common name of a client's certificate says who asks
	// while users are asked for. Through the gateway it does not reach the services, so such a client is
	// refused there.
	NamesInCertificates func() bool
}

// Handlers are the handlers of a member's three kinds of address.
type Handlers struct {
	// Client serves the client URLs.
	Client http.Handler
	// Metrics serves the metrics URLs: metrics and health, without access control.
	Metrics http.Handler
	// Peer serves the peer URLs.
	Peer http.Handler
}

// New returns the handlers. Its errors are an incomplete Config, or metrics that the registry has already.
func New(cfg Config) (*Handlers, error) {
	if cfg.Backend == nil || cfg.Logger == nil || cfg.Registry == nil || cfg.Process == nil {
		return nil, errors.New("httpapi: handlers need a backend, a logger, a registry and a gatherer")
	}
	h, err := newHealth(cfg)
	if err != nil {
		return nil, err
	}
	metrics := newMetricsHandler(cfg)

	watched := http.NewServeMux()
	watched.Handle("/metrics", metrics)
	h.install(watched)

	client := http.NewServeMux()
	client.Handle("/metrics", metrics)
	h.install(client)
	client.Handle("/version", get(version(cfg.Backend)))
	client.Handle("/debug/vars", get(vars(cfg)))
	if cfg.Pprof {
		installPprof(client)
	}
	if cfg.Gateway != nil {
		client.Handle("/v3/", cfg.Gateway)
	}

	peer := http.NewServeMux()
	peer.Handle("/version", get(version(cfg.Backend)))
	peer.Handle("/members", get(members(cfg)))
	peer.Handle("/members/hashkv", get(hashKV(cfg)))
	return &Handlers{Client: newAccess(cfg, client), Metrics: watched, Peer: peer}, nil
}

// get refuses every other method.
func get(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.Header().Set("Allow", http.MethodGet)
			http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
			return
		}
		next(w, r)
	})
}

func version(b Backend) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		v := b.Versions()
		if v.Cluster == "" {
			v.Cluster = "not_decided"
		}
		if v.Storage == "" {
			v.Storage = "unknown"
		}
		body, err := json.Marshal(v)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body) // the client has gone
	}
}

func members(cfg Config) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Etcd-Cluster-ID", strconv.FormatUint(cfg.Backend.ClusterID(), 16))
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(cfg.Backend.Members()); err != nil {
			cfg.Logger.Debug("could not answer /members", zap.Error(err))
		}
	}
}

func installPprof(mux *http.ServeMux) {
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
}
