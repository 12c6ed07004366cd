package rpc

import (
	"fmt"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxVersionSeries bounds the series of the request counter: a client chooses its own version.
	maxVersionSeries = 128
	// maxVersionLength bounds the length of one such label; "3.7" and its like are short.
	maxVersionLength = 64
	otherVersion     = "other"
)

// metrics are etcd's, under etcd's names, and one of our own.
type metrics struct {
	grpc           *tallies
	sent, received prometheus.Counter
	requests       *prometheus.CounterVec
	panics         *prometheus.CounterVec

	mu struct {
		sync.RWMutex
		series map[series]prometheus.Counter
	}
}

// series is the labels of one counter of requests.
type series struct{ kind, version string }

func newMetrics(registry prometheus.Registerer, extensive bool) (*metrics, error) {
	m := &metrics{
		grpc: newTallies(extensive),
		sent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "etcd_network_client_grpc_sent_bytes_total",
			Help: "Bytes of messages sent to gRPC clients.",
		}),
		received: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "etcd_network_client_grpc_received_bytes_total",
			Help: "Bytes of messages received from gRPC clients.",
		}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "etcd_server_client_requests_total",
			Help: "Requests by kind and by the version of the API that the client speaks.",
		}, []string{"type", "client_api_version"}),
		panics: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dolmen_server_handler_panics_total",
			Help: "Requests that failed by a panic in their handler.",
		}, []string{"method"}),
	}
	m.mu.series = make(map[series]prometheus.Counter)
	for _, c := range append(m.grpc.collectors(), m.sent, m.received, m.requests, m.panics) {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("rpc: register metrics: %w", err)
		}
	}
	return m, nil
}

// countRequest counts a request. The strings must be valid UTF-8.
func (m *metrics) countRequest(kind, version string) {
	if len(version) > maxVersionLength {
		version = otherVersion
	}
	key := series{kind, version}
	m.mu.RLock()
	counter := m.mu.series[key]
	m.mu.RUnlock()
	if counter == nil {
		counter = m.newSeries(key)
	}
	counter.Inc()
}

func (m *metrics) newSeries(key series) prometheus.Counter {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.mu.series) >= maxVersionSeries {
		// The few series of this label are not counted towards the bound.
		return m.requests.WithLabelValues(key.kind, otherVersion)
	}
	// The key outlives the request, and its bytes may be part of a larger buffer.
	key.version = strings.Clone(key.version)
	counter := m.requests.WithLabelValues(key.kind, key.version)
	m.mu.series[key] = counter
	return counter
}
