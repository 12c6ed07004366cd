package httpapi

import (
	"encoding/json"
	"errors"
	"expvar"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"
)

func newMetricsHandler(cfg Config) http.Handler {
	all := layered{cfg.Registry, cfg.Process}
	// A metric that cannot be gathered must not take the others with it: they are needed most then.
	opts := promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}
	return promhttp.InstrumentMetricHandler(cfg.Registry, promhttp.HandlerFor(all, opts))
}

// layered gathers from several sources, a metric of one name only from the first that has it. The libraries
// of etcd that we share register their metrics with the process, and our own under the same name is the
// one that counts.
type layered []prometheus.Gatherer

// Gather returns the metrics ordered by name, and what could be gathered beside an error.
func (l layered) Gather() ([]*dto.MetricFamily, error) {
	var (
		all  []*dto.MetricFamily
		errs []error
	)
	seen := map[string]bool{}
	for _, source := range l {
		families, err := source.Gather()
		errs = append(errs, err)
		for _, f := range families {
			if !seen[f.GetName()] {
				seen[f.GetName()] = true
				all = append(all, f)
			}
		}
	}
	slices.SortFunc(all, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return all, errors.Join(errs...)
}

// vars answers with the process' expvars and the member's, one a line in the order of their names.
func vars(cfg Config) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		text := map[string]string{}
		expvar.Do(func(kv expvar.KeyValue) { text[kv.Key] = kv.Value.String() })
		for name, value := range cfg.Vars {
			encoded, err := json.Marshal(value())
			if err != nil {
				cfg.Logger.Warn("left a variable out of /debug/vars that does not encode", zap.String("name", name), zap.Error(err))
				continue
			}
			text[name] = string(encoded)
		}
		var body strings.Builder
		body.WriteString("{\n")
		for i, name := range slices.Sorted(maps.Keys(text)) {
			if i > 0 {
				body.WriteString(",\n")
			}
			quoted, _ := json.Marshal(name) // a string always encodes
			body.Write(quoted)
			body.WriteString(": " + text[name])
		}
		body.WriteString("\n}\n")
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		_, _ = w.Write([]byte(body.String())) // the client has gone
	}
}
