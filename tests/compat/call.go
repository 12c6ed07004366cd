package compat

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// method returns the full gRPC method of a unary request and an empty message for its answer.
func method(req proto.Message) (path string, resp proto.Message) {
	m, ok := rpcOf(req)
	if !ok {
		return "", nil
	}
	return m.path, m.output.New().Interface()
}

// invoke does one unary call, whose method follows from the request's type.
func invoke(ctx context.Context, conn *grpc.ClientConn, req proto.Message) (proto.Message, error) {
	path, resp := method(req)
	if resp == nil {
		return nil, fmt.Errorf("no unary method takes a %T", req)
	}
	if err := conn.Invoke(ctx, path, req, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// first makes a call of any kind and returns the first answer to its request, of a streamed range all of it. A stream
// ends with that.
func first(ctx context.Context, conn *grpc.ClientConn, m rpc, req proto.Message) (proto.Message, error) {
	if m.unary() {
		return invoke(ctx, conn, req)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if r, ok := req.(*pb.RangeRequest); ok {
		return rangeStream(ctx, conn, r)
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: m.clientStreams, ServerStreams: m.serverStreams}, m.path)
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(req); err != nil && !errors.Is(err, io.EOF) { // after EOF, receiving tells why
		return nil, err
	}
	if !m.clientStreams {
		if err := stream.CloseSend(); err != nil {
			return nil, err
		}
	}
	resp := m.output.New().Interface()
	if err := stream.RecvMsg(resp); err != nil {
		return nil, err
	}
	return resp, nil
}
