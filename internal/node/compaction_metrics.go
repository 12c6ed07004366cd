package node

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dolmen-io/dolmen/internal/state"
)

// compactionMetrics are etcd's figures about compaction. Here index and engine are compacted in the same
// steps, so the two pauses are one.
type compactionMetrics struct {
	indexPause, pause, total prometheus.Histogram
	last                     prometheus.Gauge
	keys                     prometheus.Counter
}

func newCompactionMetrics() *compactionMetrics {
	histogram := func(name, help string, start float64, count int) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "etcd_debugging_mvcc_" + name, Help: help, Buckets: prometheus.ExponentialBuckets(start, 2, count),
		})
	}
	return &compactionMetrics{
		indexPause: histogram("index_compaction_pause_duration_milliseconds",
			"How long writes waited for a step of compaction, which takes from index and engine at once.", 0.5, 14),
		pause: histogram("db_compaction_pause_duration_milliseconds",
			"How long writes waited for a step of compaction, which takes from index and engine at once.", 1, 13),
		total: histogram("db_compaction_total_duration_milliseconds", "How long compactions took, pauses included.", 100, 14),
		last: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "etcd_debugging_mvcc_db_compaction_last", Help: "When the last compaction finished, in seconds since 1970.",
		}),
		keys: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "etcd_debugging_mvcc_db_compaction_keys_total", Help: "Revisions that compaction has removed.",
		}),
	}
}

func (m *compactionMetrics) register(r prometheus.Registerer) error {
	var errs []error
	for _, c := range []prometheus.Collector{m.indexPause, m.pause, m.total, m.last, m.keys} {
		errs = append(errs, r.Register(c))
	}
	return errors.Join(errs...)
}

func (m *compactionMetrics) step(done state.Removal, took time.Duration) {
	if done.Waiting {
		return
	}
	m.keys.Add(float64(done.Removed))
	m.indexPause.Observe(milliseconds(took))
	m.pause.Observe(milliseconds(took))
}

func (m *compactionMetrics) finish(took time.Duration, now time.Time) {
	m.total.Observe(milliseconds(took))
	m.last.Set(float64(now.Unix()))
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
