package rpc

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"
)

// logUnary logs requests that took long, and at debug level all. The line and its fields are etcd's.
func (s *Server) logUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := time.Now()
	resp, err := handler(ctx, req)
	took := time.Since(start)
	level := zap.DebugLevel
	if took > s.cfg.SlowRequest {
		level = zap.WarnLevel
	}
	if line := s.cfg.Logger.Check(level, "request stats"); line != nil {
		writeStats(ctx, line, info.FullMethod, start, took, describe(req, resp))
	}
	return resp, err
}

func writeStats(ctx context.Context, line *zapcore.CheckedEntry, method string, start time.Time, took time.Duration, d description) {
	remote := "No remote client info."
	if p, ok := peer.FromContext(ctx); ok {
		remote = p.Addr.String()
	}
	line.Write(
		zap.Time("start time", start),
		zap.Duration("time spent", took),
		zap.String("remote", remote),
		zap.String("response type", method),
		zap.Int64("request count", d.requestCount),
		zap.Int("request size", d.requestSize),
		zap.Int64("response count", d.responseCount),
		zap.Int("response size", d.responseSize),
		zap.String("request content", d.content),
	)
}

// description is what the log says of a request and its answer: -1 for what is not known of its kind.
// Sizes are in bytes. Values are left out of the content: they may be secret, and they may be large.
type description struct {
	requestCount, responseCount int64
	requestSize, responseSize   int
	content                     string
}

// describe looks at answers through their getters, so that a Raw that has them is described too.
func describe(req, resp any) description {
	switch r := req.(type) {
	case *pb.RangeRequest:
		d := description{requestSize: proto.Size(r), responseSize: size(resp), content: r.String()}
		if c, ok := resp.(interface{ GetCount() int64 }); ok {
			d.responseCount = c.GetCount()
		}
		return d
	case *pb.PutRequest:
		return description{
			requestCount: 1, requestSize: proto.Size(r), responseSize: size(resp),
			content: pb.NewLoggablePutRequest(r).String(),
		}
	case *pb.DeleteRangeRequest:
		d := description{requestSize: proto.Size(r), responseSize: size(resp), content: r.String()}
		if c, ok := resp.(interface{ GetDeleted() int64 }); ok {
			d.responseCount = c.GetDeleted()
		}
		return d
	case *pb.TxnRequest:
		d := description{responseSize: size(resp), content: pb.NewLoggableTxnRequest(r).String()}
		taken := r.GetFailure()
		if c, ok := resp.(interface{ GetSucceeded() bool }); ok && c.GetSucceeded() {
			taken = r.GetSuccess()
		}
		d.requestCount = int64(len(taken))
		for _, op := range taken {
			d.requestSize += proto.Size(op)
		}
		return d
	}
	return description{requestCount: -1, responseCount: -1, requestSize: -1, responseSize: -1}
}

// size is the encoded size of an answer in bytes, 0 if there is none.
func size(resp any) int {
	switch r := resp.(type) {
	case Raw:
		return r.Size()
	case proto.Message:
		return proto.Size(r)
	}
	return 0
}
