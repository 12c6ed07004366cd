package rpc

import (
	"context"
	"runtime/debug"
	"unicode/utf8"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	methodRange    = "/etcdserverpb.KV/Range"
	methodStatus   = "/etcdserverpb.Maintenance/Status"
	methodSnapshot = "/etcdserverpb.Maintenance/Snapshot"
	methodObserve  = "/v3electionpb.Election/Observe"
	methodHealth   = "/grpc.health.v1.Health/Watch"
)

// unknownVersion is the label of clients that do not say which version of the API they speak.
const unknownVersion = "unknown"

// errPanic is what a client sees of a panic in a handler.
var errPanic = status.Error(codes.Internal, "dolmen: the request failed unexpectedly; the server's log says why")

func (s *Server) checkUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if s.cfg.Membership.IsLearner() && !allowedOnLearner(info.FullMethod, req) {
		return nil, rpctypes.ErrGRPCNotSupportedForLearner
	}
	if _, err := s.checkMetadata(ctx, "unary"); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// allowedOnLearner reports whether a learner answers a unary request: it may serve what it holds itself,
// to those who ask for no more.
func allowedOnLearner(method string, req any) bool {
	switch method {
	case methodStatus:
		return true
	case methodRange:
		r, ok := req.(interface{ GetSerializable() bool })
		return ok && r.GetSerializable()
	}
	return false
}

// checkMetadata counts the request and reports whether it asks to be served only while there is a leader,
// which there is if it returns no error.
func (s *Server) checkMetadata(ctx context.Context, kind string) (needsLeader bool, err error) {
	version := unknownVersion
	if v := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataClientAPIVersionKey); len(v) > 0 {
		version = v[0]
	}
	if !utf8.ValidString(version) {
		return false, rpctypes.ErrGRPCInvalidClientAPIVersion
	}
	s.metrics.countRequest(kind, version)
	v := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataRequireLeaderKey)
	if len(v) == 0 || v[0] != rpctypes.MetadataHasLeader {
		return false, nil
	}
	if !s.cfg.Membership.HasLeader() {
		return true, rpctypes.ErrGRPCNoLeader
	}
	return true, nil
}

func (s *Server) checkStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if s.cfg.Membership.IsLearner() && info.FullMethod != methodSnapshot {
		return rpctypes.ErrGRPCNotSupportedForLearner
	}
	needsLeader, err := s.checkMetadata(ss.Context(), "stream")
	if err != nil {
		return err
	}
	if !needsLeader && !endless(info) {
		return handler(srv, ss)
	}
	st, err := s.streams.open(ss, needsLeader, endless(info))
	if err != nil {
		return err
	}
	defer s.streams.close(st)
	err = handler(srv, st)
	if reason := st.reason(); reason != nil {
		return reason
	}
	return err
}

// endless reports whether a stream lasts as long as its client wants. A shutdown waits for the others.
func endless(info *grpc.StreamServerInfo) bool {
	return info.IsClientStream || info.FullMethod == methodObserve || info.FullMethod == methodHealth
}

func (s *Server) recoverUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.reportPanic(info.FullMethod, p)
			resp, err = nil, errPanic
		}
	}()
	return handler(ctx, req)
}

func (s *Server) recoverStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.reportPanic(info.FullMethod, p)
			err = errPanic
		}
	}()
	return handler(srv, ss)
}

func (s *Server) reportPanic(method string, p any) {
	s.metrics.panics.WithLabelValues(method).Inc()
	s.cfg.Logger.Error("a request failed by a panic; the member goes on, please report this",
		zap.String("method", method), zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
}
