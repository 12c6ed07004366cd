package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/alarm"
)

// check is one named condition of /livez or /readyz.
type check struct {
	name string
	run  func(context.Context) error
}

// health answers /health, /livez and /readyz.
type health struct {
	cfg             Config
	success, failed prometheus.Counter
	result          *prometheus.GaugeVec
	runs            *prometheus.CounterVec
}

func newHealth(cfg Config) (*health, error) {
	h := &health{
		cfg: cfg,
		success: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "etcd_server_health_success", Help: "Requests to /health that found the member healthy.",
		}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "etcd_server_health_failures", Help: "Requests to /health that did not find the member healthy.",
		}),
		result: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "etcd_server_healthcheck", Help: "Whether a check of /livez or /readyz passed when it last ran.",
		}, []string{"type", "name"}),
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "etcd_server_healthchecks_total", Help: "Runs of the checks of /livez and /readyz by their outcome.",
		}, []string{"type", "name", "status"}),
	}
	for _, c := range []prometheus.Collector{h.success, h.failed, h.result, h.runs} {
		if err := cfg.Registry.Register(c); err != nil {
			return nil, fmt.Errorf("httpapi: register metrics: %w", err)
		}
	}
	return h, nil
}

func (h *health) install(mux *http.ServeMux) {
	mux.Handle("/health", h.warned("/health error", get(h.serve)))
	local := check{"serializable_read", func(ctx context.Context) error { return h.cfg.Backend.Probe(ctx, true) }}
	h.installChecks(mux, "livez", []check{local})
	h.installChecks(mux, "readyz", []check{
		{"data_corruption", h.checkCorruption},
		local,
		{"linearizable_read", func(ctx context.Context) error { return h.cfg.Backend.Probe(ctx, false) }},
		{"non_learner", h.checkLearner},
	})
}

// warned logs requests with a method that is refused: a probe set up wrongly looks like a sick member.
func (h *health) warned(line string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			h.cfg.Logger.Warn(line, zap.String("path", r.URL.Path), zap.Int("status-code", http.StatusMethodNotAllowed))
		}
		next.ServeHTTP(w, r)
	})
}

// verdict is the body of /health.
type verdict struct {
	Health string `json:"health"`
	Reason string `json:"reason"`
}

func (h *health) serve(w http.ResponseWriter, r *http.Request) {
	v := verdict{Health: "true"}
	if v.Reason = h.sickness(r); v.Reason != "" {
		v.Health = "false"
	}
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if v.Reason != "" {
		h.failed.Inc()
		http.Error(w, string(body), http.StatusServiceUnavailable)
		h.cfg.Logger.Warn("/health error", zap.ByteString("output", body), zap.Int("status-code", http.StatusServiceUnavailable))
		return
	}
	h.success.Inc()
	_, _ = w.Write(body) // the client has gone
}

// sickness is why /health fails, "" if it does not.
func (h *health) sickness(r *http.Request) string {
	query := r.URL.Query()
	for _, a := range h.cfg.Backend.Alarms() {
		if slices.Contains(query["exclude"], a.Type.String()) {
			continue
		}
		switch a.Type {
		case alarm.NoSpace, alarm.Corrupt:
			return "ALARM " + a.Type.String()
		}
		return "ALARM UNKNOWN"
	}
	serializable := query.Get("serializable") == "true"
	if !serializable && !h.cfg.Backend.HasLeader() {
		return "RAFT NO LEADER"
	}
	ctx, cancel := context.WithTimeout(r.Context(), h.cfg.ProbeTimeout)
	defer cancel()
	if err := h.cfg.Backend.Probe(ctx, serializable); err != nil {
		return "RANGE ERROR:" + err.Error()
	}
	return ""
}

func (h *health) checkCorruption(context.Context) error {
	for _, a := range h.cfg.Backend.Alarms() {
		if a.Type == alarm.Corrupt {
			return fmt.Errorf("alarm activated: %s", a.Type)
		}
	}
	return nil
}

func (h *health) checkLearner(context.Context) error {
	if h.cfg.Backend.IsLearner() {
		return errors.New("not supported for learner")
	}
	return nil
}

// installChecks serves all checks at /kind, and each at /kind/name.
func (h *health) installChecks(mux *http.ServeMux, kind string, checks []check) {
	root := "/" + kind
	mux.Handle(root, h.warned("Health request error", get(func(w http.ResponseWriter, r *http.Request) {
		h.serveChecks(w, r, kind, h.included(checks, r.URL.Query()["exclude"]))
	})))
	for _, c := range checks {
		mux.Handle(root+"/"+c.name, h.warned("Health request error", get(func(w http.ResponseWriter, r *http.Request) {
			h.serveChecks(w, r, kind, []check{c})
		})))
	}
}

// included leaves out the excluded checks. A name that is none is no error, so that a probe can be written
// for several versions.
func (h *health) included(checks []check, excluded []string) []check {
	var unknown []string
	for _, name := range excluded {
		if name != "" && !slices.ContainsFunc(checks, func(c check) bool { return c.name == name }) {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		h.cfg.Logger.Warn("some health checks cannot be excluded", zap.Strings("missing-health-checks", unknown))
	}
	return slices.DeleteFunc(slices.Clone(checks), func(c check) bool { return slices.Contains(excluded, c.name) })
}

func (h *health) serveChecks(w http.ResponseWriter, r *http.Request, kind string, checks []check) {
	text, ok := h.runChecks(r.Context(), kind, checks)
	if !ok {
		http.Error(w, text, http.StatusServiceUnavailable)
		h.cfg.Logger.Error("Health check error",
			zap.String("path", r.URL.Path), zap.String("reason", text), zap.Int("status-code", http.StatusServiceUnavailable))
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if !r.URL.Query().Has("verbose") {
		text = ""
	}
	_, _ = fmt.Fprint(w, text, "ok\n") // the client has gone
}

// runChecks returns a line for each check, and whether all passed.
func (h *health) runChecks(ctx context.Context, kind string, checks []check) (text string, ok bool) {
	var lines strings.Builder
	ok = true
	for _, c := range checks {
		status, value := "success", 1.0
		if err := c.run(ctx); err != nil {
			status, value, ok = "error", 0, false
			fmt.Fprintf(&lines, "[-]%s failed: %v\n", c.name, err)
		} else {
			fmt.Fprintf(&lines, "[+]%s ok\n", c.name)
		}
		h.result.WithLabelValues(kind, c.name).Set(value)
		h.runs.WithLabelValues(kind, c.name, status).Inc()
	}
	return lines.String(), ok
}
