package rpc

import (
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/dolmen-io/dolmen/internal/rpc/transport"
)

// DirectCall is a unary request that is begun on its connection's reader. It passes what other requests pass, too:
// counters, the slow-request log and the checks of metadata.
type DirectCall struct {
	*transport.Call
	srv   *Server
	tally *tally
	start time.Time
}

// Direct begins a request; it must not block. It returns false before it has done anything to have the method's handler
// run instead, and otherwise ends the call, now or later, with Answer or Fail.
type Direct func(DirectCall) bool

// Direct has requests for a method, "/service/method", begin on their connections' readers, if the transport can. It must
// be called after the method's service was registered and before the first Serve.
func (s *Server) Direct(full string, serve Direct) {
	if s.own == nil {
		return
	}
	m := s.metrics.grpc.methods[full]
	s.own.Direct(full, func(c *transport.Call) (taken bool) {
		if s.cfg.Membership.IsLearner() {
			return false
		}
		if _, asks := c.Field(rpctypes.MetadataRequireLeaderKey); asks && !s.cfg.Membership.HasLeader() {
			return false
		}
		version, ok := c.Field(rpctypes.MetadataClientAPIVersionKey)
		if !ok {
			version = unknownVersion
		}
		defer func() {
			if p := recover(); p != nil {
				s.reportPanic(full, p)
				c.Fail(status.Convert(errPanic))
				taken = true
			}
		}()
		if taken = serve(DirectCall{Call: c, srv: s, tally: m, start: time.Now()}); taken {
			s.metrics.countRequest("unary", version)
			m.begin()
			m.received.Inc()
			s.metrics.received.Add(float64(len(c.Message())))
		}
		return taken
	})
}

// Answer ends the call with a message. describe says for the log what was asked; it is called for few requests.
func (c DirectCall) Answer(v Raw, describe func() (req, resp any)) {
	c.Call.Answer(v)
	c.end(codes.OK, describe)
}

// Fail ends the call with an error of gRPC.
func (c DirectCall) Fail(err error, describe func() (req, resp any)) {
	st := status.Convert(err)
	c.Call.Fail(st)
	c.end(st.Code(), describe)
}

func (c DirectCall) end(code codes.Code, about func() (req, resp any)) {
	took := time.Since(c.start)
	c.tally.sent.Inc()
	c.tally.ended(code, took)
	level := zap.DebugLevel
	if took > c.srv.cfg.SlowRequest {
		level = zap.WarnLevel
	}
	if line := c.srv.cfg.Logger.Check(level, "request stats"); line != nil {
		writeStats(c.Connection(), line, c.tally.full(), c.start, took, describe(about()))
	}
}

// Peer returns who is at the other end of the connection.
func (c DirectCall) Peer() *peer.Peer {
	p, _ := peer.FromContext(c.Connection())
	return p
}
