package rpc

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// tallies are the counters of each method under the names of go-grpc-prometheus, which etcd's dashboards know. A
// method's counters are looked up once, not for each request.
type tallies struct {
	started, handled, received, sent *prometheus.CounterVec
	seconds                          *prometheus.HistogramVec // nil unless metrics are extensive
	methods                          map[string]*tally        // by full name; complete before the first request
}

// tally is the counters of one method.
type tally struct {
	kind, service, method string
	all                   *tallies
	once                  sync.Once
	started               prometheus.Counter
	received, sent        prometheus.Counter
	handled               [codes.Unauthenticated + 1]prometheus.Counter
	seconds               prometheus.Observer // may be nil
}

func newTallies(extensive bool) *tallies {
	labels := []string{"grpc_type", "grpc_service", "grpc_method"}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	t := &tallies{
		started:  counter("grpc_server_started_total", "Requests that were begun.", labels...),
		handled:  counter("grpc_server_handled_total", "Requests that were ended, by their status.", append(labels, "grpc_code")...),
		received: counter("grpc_server_msg_received_total", "Messages received from clients.", labels...),
		sent:     counter("grpc_server_msg_sent_total", "Messages sent to clients.", labels...),
		methods:  map[string]*tally{},
	}
	if extensive {
		t.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "grpc_server_handling_seconds", Help: "How long requests took.", Buckets: prometheus.DefBuckets,
		}, labels)
	}
	return t
}

func (t *tallies) collectors() []prometheus.Collector {
	all := []prometheus.Collector{t.started, t.handled, t.received, t.sent}
	if t.seconds != nil {
		all = append(all, t.seconds)
	}
	return all
}

// add makes the counters of a service.
func (t *tallies) add(desc *grpc.ServiceDesc) {
	for i := range desc.Methods {
		t.addMethod(desc.ServiceName, desc.Methods[i].MethodName, "unary")
	}
	for i := range desc.Streams {
		kind := "server_stream"
		switch s := &desc.Streams[i]; {
		case s.ClientStreams && s.ServerStreams:
			kind = "bidi_stream"
		case s.ClientStreams:
			kind = "client_stream"
		}
		t.addMethod(desc.ServiceName, desc.Streams[i].StreamName, kind)
	}
}

func (t *tallies) addMethod(service, method, kind string) {
	t.methods["/"+service+"/"+method] = &tally{kind: kind, service: service, method: method, all: t}
}

// initialize creates the series of every method with value 0, so that rates exist from the first scrape.
// As in etcd, locks and elections have theirs from their first use on.
func (t *tallies) initialize() {
	for name, one := range t.methods {
		if !strings.HasPrefix(name, "/v3lockpb.") && !strings.HasPrefix(name, "/v3electionpb.") {
			one.once.Do(one.create)
		}
	}
}

func (m *tally) create() {
	labels := []string{m.kind, m.service, m.method}
	m.started = m.all.started.WithLabelValues(labels...)
	m.received = m.all.received.WithLabelValues(labels...)
	m.sent = m.all.sent.WithLabelValues(labels...)
	for code := range m.handled {
		m.handled[code] = m.all.handled.WithLabelValues(append(labels, codes.Code(code).String())...)
	}
	if m.all.seconds != nil {
		m.seconds = m.all.seconds.WithLabelValues(labels...)
	}
}

func (m *tally) full() string { return "/" + m.service + "/" + m.method }

// begin counts the start of a request.
func (m *tally) begin() {
	m.once.Do(m.create)
	m.started.Inc()
}

// end counts the end of a request that took so long.
func (m *tally) end(err error, took time.Duration) {
	code := codes.OK
	if err != nil {
		s, ok := status.FromError(err)
		if !ok {
			s = status.FromContextError(err)
		}
		code = s.Code()
	}
	m.ended(code, took)
}

// ended is end for a code.
func (m *tally) ended(code codes.Code, took time.Duration) {
	if int(code) >= len(m.handled) {
		code = codes.Unknown
	}
	m.handled[code].Inc()
	if m.seconds != nil {
		m.seconds.Observe(took.Seconds())
	}
}

func (s *Server) countUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	m := s.metrics.grpc.methods[info.FullMethod]
	start := time.Now()
	m.begin()
	m.received.Inc()
	resp, err := handler(ctx, req)
	m.sent.Inc() // as in etcd, whatever it is
	m.end(err, time.Since(start))
	return resp, err
}

func (s *Server) countStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	m := s.metrics.grpc.methods[info.FullMethod]
	start := time.Now()
	m.begin()
	err := handler(srv, &countedStream{ss, m})
	m.end(err, time.Since(start))
	return err
}

// countedStream counts the messages of a stream, as etcd with the one that did not come or could not be sent.
type countedStream struct {
	grpc.ServerStream
	tally *tally
}

func (c *countedStream) SendMsg(v any) error {
	c.tally.sent.Inc()
	return c.ServerStream.SendMsg(v)
}

func (c *countedStream) RecvMsg(v any) error {
	err := c.ServerStream.RecvMsg(v)
	c.tally.received.Inc()
	return err
}
