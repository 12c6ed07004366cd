package compat

import (
	"io"
	"net/http"
	"regexp"
	"sort"
	"strings"
	"testing"

	"github.com/dolmen-io/dolmen/tests/harness"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// fetch records status, the headers a client may rely on, and the body of an HTTP request.
func (r *Recorder) fetch(verb, path string) {
	r.notef("> %s %s", verb, path)
	status, header, body, err := r.request(verb, path)
	if err != nil {
		r.notef("! %v", err)
		return
	}
	// The checks of /livez and /readyz come in random order.
	lines := strings.SplitAfter(body, "\n")
	sort.Strings(lines)
	r.notef("< %d %q %q %q %q", status, header.Get("Content-Type"), header.Get("X-Content-Type-Options"), header.Get("Allow"),
		strings.Join(lines, ""))
}

func (r *Recorder) request(verb, path string) (status int, header http.Header, body string, err error) {
	req, err := http.NewRequestWithContext(r.ctx, verb, "http://"+r.server.Endpoint()+path, nil)
	if err != nil {
		return 0, nil, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, string(text), err
}

func TestHTTPEndpoints(t *testing.T) {
	paths := []string{
		"/version", "/health", "/health?serializable=true", "/health?exclude=NOSPACE", "/health?serializable=nonsense",
		"/livez", "/livez?verbose", "/readyz", "/readyz?verbose", "/livez/serializable_read", "/readyz/data_corruption",
		"/readyz/serializable_read", "/readyz/linearizable_read", "/readyz/non_learner", "/readyz/nothing", "/livez/linearizable_read",
		"/readyz?exclude=linearizable_read&verbose", "/readyz?exclude=nothing", "/nothing", "/", "/v2/keys", "/debug/pprof/",
	}
	alarm := func(action pb.AlarmRequest_AlarmAction, kind pb.AlarmType) *pb.AlarmRequest {
		return &pb.AlarmRequest{Action: action, MemberID: 1, Alarm: kind}
	}
	compare(t, harness.Options{}, func(r *Recorder) {
		r.awaitStorageVersion()
		for _, path := range paths {
			for _, verb := range []string{http.MethodGet, http.MethodPost, http.MethodHead} {
				r.fetch(verb, path)
			}
		}
		for _, kind := range []pb.AlarmType{pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT} {
			r.Do(alarm(pb.AlarmRequest_ACTIVATE, kind))
			for _, path := range paths {
				r.fetch(http.MethodGet, path)
			}
			r.fetch(http.MethodGet, "/health?exclude=CORRUPT")
			r.fetch(http.MethodGet, "/health?exclude=CORRUPT&exclude=NOSPACE")
			r.Do(alarm(pb.AlarmRequest_DEACTIVATE, kind))
		}
	})
}

var metricName = regexp.MustCompile(`(?m)^# TYPE (\S+ \S+)$`)

// TestMetricsNames: the Go, process and gRPC metrics are there under the same names and types; the rest of etcd's are
// not built yet.
func TestMetricsNames(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.Do(put("a", "1"))
		status, header, body, err := r.request(http.MethodGet, "/metrics")
		if err != nil {
			r.fatalf("get metrics: %v", err)
		}
		r.notef("< %d %q", status, header.Get("Content-Type"))
		for _, match := range metricName.FindAllStringSubmatch(body, -1) {
			if name := match[1]; strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") || strings.HasPrefix(name, "grpc_") {
				r.notef("< %s", name)
			}
		}
	})
}
