package httpapi

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dolmen-io/dolmen/internal/alarm"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/mvcc"
)

// member is a Backend; the zero value is healthy.
type member struct {
	alarms        []alarm.Alarm
	leaderless    bool
	learner       bool
	local, quorum error // what the probes return
	blocks        bool  // probes wait for their context
	versions      Versions
}

// HashKV knows revisions 3 to 9.
func (m *member) HashKV(revision int64) (mvcc.Hash, int64, error) {
	switch {
	case revision > 9:
		return mvcc.Hash{}, 9, mvcc.ErrFuture
	case revision > 0 && revision < 3:
		return mvcc.Hash{}, 9, mvcc.ErrCompacted
	}
	return mvcc.Hash{Sum: 77, Compacted: -1, Revision: revision}, 9, nil
}

func (m *member) Alarms() []alarm.Alarm { return m.alarms }
func (m *member) HasLeader() bool       { return !m.leaderless }
func (m *member) IsLearner() bool       { return m.learner }
func (m *member) Versions() Versions    { return m.versions }
func (m *member) ClusterID() uint64     { return 0xcdf818194e3a8c32 }

func (m *member) Members() []membership.Member {
	return []membership.Member{{ID: 0x8e9e05c52164694d, PeerURLs: []string{"http://a"}, Name: "n", ClientURLs: []string{"http://c"}}}
}

func (m *member) Probe(ctx context.Context, serializable bool) error {
	if m.blocks {
		<-ctx.Done()
		return ctx.Err()
	}
	if serializable {
		return m.local
	}
	return m.quorum
}

type fixture struct {
	*Handlers
	member   *member
	registry *prometheus.Registry
	logs     *observer.ObservedLogs
}

func newFixture(t *testing.T, m *member, change func(*Config)) *fixture {
	core, logs := observer.New(zapcore.DebugLevel)
	f := &fixture{member: m, registry: prometheus.NewRegistry(), logs: logs}
	cfg := Config{
		Backend: m, Logger: zap.New(core), Registry: f.registry, Process: prometheus.DefaultGatherer,
		ProbeTimeout: time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	f.Handlers, err = New(cfg)
	require.NoError(t, err)
	return f
}

func do(h http.Handler, method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w
}

const (
	plain   = "text/plain; charset=utf-8"
	nosniff = "nosniff"
)

// TestAnswers holds the handlers to what etcd 3.7.3 answers.
func TestAnswers(t *testing.T) {
	healthy, decided := member{}, member{versions: Versions{"3.7.3", "3.7.0", "3.7.0"}}
	timeout := errors.New("etcdserver: request timed out")
	noSpace, corrupt := alarm.Alarm{Member: 1, Type: alarm.NoSpace}, alarm.Alarm{Member: 1, Type: alarm.Corrupt}
	const (
		good    = `{"health":"true","reason":""}`
		refused = "Method Not Allowed\n"
		missing = "404 page not found\n"
	)
	bad := func(reason string) string { return `{"health":"false","reason":"` + reason + `"}` + "\n" }
	for _, test := range []struct {
		member            member
		method, path      string
		status            int
		contentType, body string
	}{
		{decided, "GET", "/version", 200, "application/json", `{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}`},
		{member{versions: Versions{Server: "3.7.3"}}, "GET", "/version", 200, "application/json",
			`{"etcdserver":"3.7.3","etcdcluster":"not_decided","storage":"unknown"}`},
		{healthy, "POST", "/version", 405, plain, refused},
		{healthy, "POST", "/debug/vars", 405, plain, refused},
		{healthy, "GET", "/", 404, plain, missing},
		{healthy, "GET", "/nothing", 404, plain, missing},
		{healthy, "GET", "/debug/pprof/", 404, plain, missing},

		{healthy, "GET", "/health", 200, plain, good},
		{healthy, "POST", "/health", 405, plain, refused},
		{healthy, "HEAD", "/health", 405, plain, refused},
		{member{leaderless: true}, "GET", "/health", 503, plain, bad("RAFT NO LEADER")},
		{member{leaderless: true}, "GET", "/health?serializable=true", 200, plain, good},
		{member{leaderless: true}, "GET", "/health?serializable=nonsense", 503, plain, bad("RAFT NO LEADER")},
		{member{quorum: timeout}, "GET", "/health", 503, plain, bad("RANGE ERROR:etcdserver: request timed out")},
		{member{quorum: timeout}, "GET", "/health?serializable=true", 200, plain, good},
		{member{local: timeout}, "GET", "/health?serializable=true", 503, plain, bad("RANGE ERROR:etcdserver: request timed out")},
		{member{blocks: true}, "GET", "/health", 503, plain, bad("RANGE ERROR:context deadline exceeded")},
		{member{alarms: []alarm.Alarm{noSpace, corrupt}, leaderless: true}, "GET", "/health", 503, plain, bad("ALARM NOSPACE")},
		{member{alarms: []alarm.Alarm{noSpace, corrupt}}, "GET", "/health?exclude=NOSPACE", 503, plain, bad("ALARM CORRUPT")},
		{member{alarms: []alarm.Alarm{noSpace, corrupt}}, "GET", "/health?exclude=NOSPACE&exclude=CORRUPT", 200, plain, good},
		{member{alarms: []alarm.Alarm{{Member: 1, Type: 9}}}, "GET", "/health", 503, plain, bad("ALARM UNKNOWN")},

		{healthy, "GET", "/livez", 200, plain, "ok\n"},
		{healthy, "GET", "/livez?verbose", 200, plain, "[+]serializable_read ok\nok\n"},
		{healthy, "GET", "/livez/serializable_read", 200, plain, "ok\n"},
		{healthy, "GET", "/livez/linearizable_read", 404, plain, missing},
		{healthy, "POST", "/livez", 405, plain, refused},
		{healthy, "POST", "/readyz/non_learner", 405, plain, refused},
		{member{local: timeout}, "GET", "/livez", 503, plain, "[-]serializable_read failed: etcdserver: request timed out\n\n"},
		{healthy, "GET", "/readyz?verbose", 200, plain,
			"[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n"},
		{member{quorum: timeout}, "GET", "/readyz?verbose&exclude=linearizable_read", 200, plain,
			"[+]data_corruption ok\n[+]serializable_read ok\n[+]non_learner ok\nok\n"},
		{member{quorum: timeout, learner: true, alarms: []alarm.Alarm{noSpace, corrupt}}, "GET", "/readyz", 503, plain,
			"[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n" +
				"[-]linearizable_read failed: etcdserver: request timed out\n[-]non_learner failed: not supported for learner\n\n"},
		{member{alarms: []alarm.Alarm{noSpace}}, "GET", "/readyz/data_corruption", 200, plain, "ok\n"},
		{healthy, "GET", "/readyz?exclude=nothing&exclude=", 200, plain, "ok\n"},
		{healthy, "GET", "/readyz/nothing", 404, plain, missing},
	} {
		f := newFixture(t, &test.member, nil)
		w := do(f.Client, test.method, test.path)
		require.Equal(t, test.status, w.Code, "%s %s", test.method, test.path)
		require.Equal(t, test.body, w.Body.String(), "%s %s", test.method, test.path)
		require.Equal(t, test.contentType, w.Header().Get("Content-Type"), "%s %s", test.method, test.path)
		if test.status == 405 {
			require.Equal(t, "GET", w.Header().Get("Allow"))
		}
		if test.status != 200 || strings.HasSuffix(test.body, "ok\n") {
			require.Equal(t, nosniff, w.Header().Get("X-Content-Type-Options"), "%s %s", test.method, test.path)
		}
		require.Equal(t, "*", w.Header().Get("Access-Control-Allow-Origin"))
	}
}

func TestHealthIsCountedAndLogged(t *testing.T) {
	f := newFixture(t, &member{quorum: errors.New("no")}, nil)
	do(f.Metrics, "GET", "/health")
	do(f.Metrics, "GET", "/health?serializable=true")
	do(f.Metrics, "POST", "/health")
	do(f.Metrics, "GET", "/readyz?exclude=serializable_read&exclude=other")
	body := do(f.Metrics, "GET", "/metrics").Body.String()
	for _, line := range []string{
		"etcd_server_health_success 1", "etcd_server_health_failures 1",
		`etcd_server_healthcheck{name="non_learner",type="readyz"} 1`,
		`etcd_server_healthcheck{name="linearizable_read",type="readyz"} 0`,
		`etcd_server_healthchecks_total{name="linearizable_read",status="error",type="readyz"} 1`,
	} {
		require.Contains(t, body, line+"\n")
	}
	require.NotContains(t, body, `etcd_server_healthcheck{name="serializable_read"`)
	require.Equal(t, 2, f.logs.FilterMessage("/health error").Len())
	require.Equal(t, 1, f.logs.FilterMessage("Health check error").Len())
	require.Equal(t, 1, f.logs.FilterMessage("some health checks cannot be excluded").Len())
	require.Equal(t, 404, do(f.Metrics, "GET", "/version").Code)
	require.Empty(t, do(f.Metrics, "GET", "/health").Header().Get("Access-Control-Allow-Origin"))
}

func TestMetrics(t *testing.T) {
	process := prometheus.NewRegistry()
	f := newFixture(t, &member{}, func(c *Config) { c.Process = prometheus.Gatherers{process, broken{}} })
	both := prometheus.CounterOpts{Name: "both", Help: "x"}
	shared := prometheus.NewCounter(both)
	shared.Add(7)
	process.MustRegister(shared, prometheus.NewCounter(prometheus.CounterOpts{Name: "a_process", Help: "x"}))
	f.registry.MustRegister(prometheus.NewCounter(both))
	for _, method := range []string{"GET", "POST"} {
		w := do(f.Client, method, "/metrics")
		require.Equal(t, 200, w.Code)
		require.Equal(t, "text/plain; version=0.0.4; charset=utf-8; escaping=underscores", w.Header().Get("Content-Type"))
		body := w.Body.String()
		require.Equal(t, 1, strings.Count(body, "# TYPE both counter\n"))
		require.Contains(t, body, "\nboth 0\n")
		require.Contains(t, body, "a_process 0\n")
		require.Contains(t, body, "promhttp_metric_handler_requests_total{")
		require.Less(t, strings.Index(body, "a_process"), strings.Index(body, "both"))
	}
}

// broken is a source of metrics that fails.
type broken struct{}

func (broken) Gather() ([]*dto.MetricFamily, error) { return nil, errors.New("broken") }

func TestVars(t *testing.T) {
	f := newFixture(t, &member{}, func(c *Config) {
		c.Vars = map[string]func() any{
			"file_descriptor_limit": func() any { return 20000 },
			"raft.status":           func() any { return map[string]int{"term": 2} },
			"bad":                   func() any { return func() {} },
		}
	})
	w := do(f.Client, "GET", "/debug/vars")
	require.Equal(t, "application/json; charset=utf-8", w.Header().Get("Content-Type"))
	var got map[string]any
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
	require.Equal(t, 20000.0, got["file_descriptor_limit"])
	require.Equal(t, map[string]any{"term": 2.0}, got["raft.status"])
	require.Contains(t, got, "cmdline")
	require.Contains(t, got, "memstats")
	require.NotContains(t, got, "bad")
	require.Contains(t, w.Body.String(), ",\n\"file_descriptor_limit\": 20000,\n")
}

func TestPprof(t *testing.T) {
	f := newFixture(t, &member{}, func(c *Config) { c.Pprof = true })
	require.Contains(t, do(f.Client, "GET", "/debug/pprof/").Body.String(), "goroutine")
	require.Equal(t, 200, do(f.Client, "GET", "/debug/pprof/heap").Code)
	require.Equal(t, 200, do(f.Client, "GET", "/debug/pprof/cmdline").Code)
	require.Equal(t, 404, do(f.Metrics, "GET", "/debug/pprof/").Code)
}

func TestPeer(t *testing.T) {
	f := newFixture(t, &member{versions: Versions{"3.7.3", "3.7.0", "3.7.0"}}, nil)
	w := do(f.Peer, "GET", "/members")
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	require.Equal(t, "cdf818194e3a8c32", w.Header().Get("X-Etcd-Cluster-ID"))
	require.Equal(t, `[{"id":10276657743932975437,"peerURLs":["http://a"],"name":"n","clientURLs":["http://c"]}]`+"\n", w.Body.String())
	require.Equal(t, `{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}`, do(f.Peer, "GET", "/version").Body.String())
	require.Equal(t, 405, do(f.Peer, "POST", "/members").Code)
	for _, path := range []string{"/", "/metrics", "/health", "/members/"} {
		w := do(f.Peer, "GET", path)
		require.Equal(t, "404 page not found\n", w.Body.String(), path)
		require.Empty(t, w.Header().Get("Access-Control-Allow-Origin"))
	}
}

func TestHashKV(t *testing.T) {
	f := newFixture(t, &member{}, nil)
	for _, test := range []struct {
		method, cluster, body string
		code                  int
		want                  string
	}{
		{"GET", "", `{"revision":5}`, 200, `{"header":{"revision":9},"hash":77,"compact_revision":-1,"hash_revision":5}`},
		{"GET", "cdf818194e3a8c32", `{}`, 200, `{"header":{"revision":9},"hash":77,"compact_revision":-1}`},
		{"GET", "1", `{}`, 412, "cluster ID mismatch\n"},
		{"GET", "", ``, 400, "error unmarshalling request\n"},
		{"GET", "", `{"revision":"x"}`, 400, "error unmarshalling request\n"},
		{"GET", "", strings.Repeat(" ", maxHashRequest+1), 400, "error reading body\n"},
		{"GET", "", `{"revision":2}`, 400, "mvcc: required revision has been compacted\n"},
		{"GET", "", `{"revision":10}`, 400, "mvcc: required revision is a future revision\n"},
		{"POST", "", `{}`, 405, "Method Not Allowed\n"},
	} {
		r := httptest.NewRequest(test.method, "/members/hashkv", strings.NewReader(test.body))
		if test.cluster != "" {
			r.Header.Set("X-Etcd-Cluster-ID", test.cluster)
		}
		w := httptest.NewRecorder()
		f.Peer.ServeHTTP(w, r)
		require.Equal(t, test.code, w.Code, test)
		require.Equal(t, test.want, w.Body.String())
		if w.Code == 200 {
			require.Equal(t, "cdf818194e3a8c32", w.Header().Get("X-Etcd-Cluster-ID"))
			require.Equal(t, "application/json", w.Header().Get("Content-Type"))
		}
	}
}

func TestAccess(t *testing.T) {
	f := newFixture(t, &member{}, func(c *Config) {
		c.HostWhitelist, c.CORS = []string{"good", "::1"}, []string{"http://app"}
	})
	for _, test := range []struct {
		host, origin string
		tls          bool
		status       int
		allow        string
	}{
		{"good:2379", "http://app", false, 200, "http://app"},
		{"good", "http://other", false, 200, ""},
		{"[::1]:2379", "", false, 200, ""},
		{"bad:2379", "http://app", false, 421, ""},
		{"bad", "http://app", true, 200, "http://app"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/livez", nil)
		r.Host = test.host
		if test.origin != "" {
			r.Header.Set("Origin", test.origin)
		}
		if test.tls {
			r.TLS = &tls.ConnectionState{}
		}
		w := httptest.NewRecorder()
		f.Client.ServeHTTP(w, r)
		require.Equal(t, test.status, w.Code, "%+v", test)
		require.Equal(t, test.allow, w.Header().Get("Access-Control-Allow-Origin"), "%+v", test)
		if test.status == 421 {
			require.True(t, strings.HasPrefix(w.Body.String(), "\netcd received your request, but the Host header was unrecognized."))
			require.Contains(t, w.Body.String(), `etcd --host-whitelist "bad"`)
		}
	}
	require.Equal(t, 1, f.logs.FilterMessage("rejecting HTTP request to prevent DNS rebinding attacks").Len())

	open := newFixture(t, &member{}, nil)
	w := do(open.Client, "OPTIONS", "/nothing")
	require.Equal(t, 200, w.Code)
	require.Empty(t, w.Body.String())
	require.Equal(t, "POST, GET, OPTIONS, PUT, DELETE", w.Header().Get("Access-Control-Allow-Methods"))
	require.Equal(t, "accept, content-type, authorization", w.Header().Get("Access-Control-Allow-Headers"))
}

func TestFormerGatewayName(t *testing.T) {
	var path string
	h := newAccess(Config{Logger: zap.NewNop()}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { path = r.URL.Path }))
	do(h, "POST", "/v3beta/kv/put")
	require.Equal(t, "/v3/kv/put", path)
}

func TestNewRefuses(t *testing.T) {
	_, err := New(Config{})
	require.ErrorContains(t, err, "need a backend")
	cfg := Config{Backend: &member{}, Logger: zap.NewNop(), Registry: prometheus.NewRegistry(), Process: prometheus.DefaultGatherer}
	_, err = New(cfg)
	require.NoError(t, err)
	_, err = New(cfg)
	require.ErrorAs(t, err, &prometheus.AlreadyRegisteredError{})
}
