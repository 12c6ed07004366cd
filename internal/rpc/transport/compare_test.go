package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding/gzip"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// outcome is all that a client sees of a call.
func outcome(err error, header, trailer metadata.MD, answer string) string {
	s := status.Convert(err)
	delete(header, "content-type")
	delete(trailer, "content-type") // of an answer that has nothing but a status
	return fmt.Sprintf("%v %q header %v trailer %v answer %s", s.Code(), s.Message(), header, trailer, answer)
}

// calls are what a client asks of both servers.
var calls = map[string]func(context.Context, testpb.TestServiceClient) string{
	"empty":           unary(&testpb.SimpleRequest{}),
	"large answer":    unary(&testpb.SimpleRequest{ResponseSize: 3 << 20}),
	"answer of frame": unary(&testpb.SimpleRequest{ResponseSize: 16384 - 30}),
	"large request":   unary(&testpb.SimpleRequest{Payload: &testpb.Payload{Body: make([]byte, maxReceived-100)}}),
	"too large":       unary(&testpb.SimpleRequest{Payload: &testpb.Payload{Body: make([]byte, maxReceived)}}),
	"compressed":      unary(&testpb.SimpleRequest{Payload: &testpb.Payload{Body: make([]byte, 100_000)}, ResponseSize: 100_000}, grpc.UseCompressor(gzip.Name)),
	"bomb":            unary(&testpb.SimpleRequest{Payload: &testpb.Payload{Body: make([]byte, 2*maxReceived)}}, grpc.UseCompressor(gzip.Name)),
	"status":          unary(&testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Code: 9, Message: "etcdserver: not so"}}),
	"odd status":      unary(&testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Code: 5, Message: "\t\nünïcode 100% 😈\x00 "}}),
	"no status":       unary(&testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Message: "plain"}}),
	"long status":     unary(&testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Code: 5, Message: strings.Repeat("long ", 8000)}}),
	"metadata": func(ctx context.Context, c testpb.TestServiceClient) string {
		ctx = metadata.AppendToOutgoingContext(ctx, "x-text", "a", "x-text", "b", "x-binary-bin", "\x00\xff\x10", "x-binary-bin", "")
		return unary(&testpb.SimpleRequest{})(ctx, c)
	},
	"deadline": func(ctx context.Context, c testpb.TestServiceClient) string {
		ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		_, err := c.UnaryCall(ctx, &testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Message: "wait"}})
		return status.Code(err).String()
	},
	"unimplemented": func(ctx context.Context, c testpb.TestServiceClient) string {
		_, err := c.UnimplementedCall(ctx, &testpb.Empty{})
		return outcome(err, nil, nil, "")
	},
	"server streams": func(ctx context.Context, c testpb.TestServiceClient) string {
		return streamed(ctx, c, &testpb.EchoStatus{}, 10, 100_000, 3_000_000, 0, 70_000)
	},
	"server streams, then fails": func(ctx context.Context, c testpb.TestServiceClient) string {
		return streamed(ctx, c, &testpb.EchoStatus{Code: 8, Message: "no more"}, 10)
	},
	"server fails": func(ctx context.Context, c testpb.TestServiceClient) string {
		return streamed(ctx, c, &testpb.EchoStatus{Code: 8, Message: "no more"})
	},
	"client streams": func(ctx context.Context, c testpb.TestServiceClient) string {
		ss, err := c.StreamingInputCall(ctx)
		if err != nil {
			return err.Error()
		}
		for _, n := range []int{1, 0, 200_000, maxReceived - 100, 70_000} {
			if err := ss.Send(&testpb.StreamingInputCallRequest{Payload: &testpb.Payload{Body: make([]byte, n)}}); err != nil {
				return err.Error()
			}
		}
		resp, err := ss.CloseAndRecv()
		return outcome(err, nil, ss.Trailer(), fmt.Sprint(resp.GetAggregatedPayloadSize()))
	},
	"both stream": func(ctx context.Context, c testpb.TestServiceClient) string {
		ss, err := c.FullDuplexCall(ctx)
		if err != nil {
			return err.Error()
		}
		sum := 0
		for i := range 20 {
			r := &testpb.StreamingOutputCallRequest{
				ResponseParameters: []*testpb.ResponseParameters{{Size: int32(i * 10_000)}},
				Payload:            &testpb.Payload{Body: make([]byte, i*5_000)},
			}
			if err := ss.Send(r); err != nil {
				return err.Error()
			}
			m, err := ss.Recv()
			if err != nil {
				return err.Error()
			}
			sum += len(m.GetPayload().GetBody())
		}
		_ = ss.CloseSend()
		_, err = ss.Recv()
		return fmt.Sprint(sum, err)
	},
}

func unary(r *testpb.SimpleRequest, opts ...grpc.CallOption) func(context.Context, testpb.TestServiceClient) string {
	return func(ctx context.Context, c testpb.TestServiceClient) string {
		var header, trailer metadata.MD
		opts := append([]grpc.CallOption{grpc.Header(&header), grpc.Trailer(&trailer)}, opts...)
		resp, err := c.UnaryCall(ctx, r, opts...)
		return outcome(err, header, trailer, fmt.Sprint(len(resp.GetPayload().GetBody()), resp.GetUsername()))
	}
}

func streamed(ctx context.Context, c testpb.TestServiceClient, end *testpb.EchoStatus, sizes ...int32) string {
	r := &testpb.StreamingOutputCallRequest{ResponseStatus: end}
	for _, n := range sizes {
		r.ResponseParameters = append(r.ResponseParameters, &testpb.ResponseParameters{Size: n})
	}
	ss, err := c.StreamingOutputCall(ctx, r)
	if err != nil {
		return err.Error()
	}
	var got []int
	for {
		m, err := ss.Recv()
		if errors.Is(err, io.EOF) {
			err = nil
		} else if err == nil {
			got = append(got, len(m.GetPayload().GetBody()))
			continue
		}
		header, _ := ss.Header()
		return outcome(err, header, ss.Trailer(), fmt.Sprint(got))
	}
}

// TestAsGRPCGo: a client of grpc-go cannot tell this server from grpc-go's.
func TestAsGRPCGo(t *testing.T) {
	sizes := grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1 << 30))
	small := []grpc.DialOption{grpc.WithInitialWindowSize(1 << 16), grpc.WithInitialConnWindowSize(1 << 16)}
	for name, opts := range map[string][]grpc.DialOption{"windows grow": nil, "windows stay": small} {
		t.Run(name, func(t *testing.T) {
			opts := append(opts, sizes)
			ours, theirs := dial(t, start(t, nil).address, opts...), dial(t, startReference(t), opts...)
			for name, call := range calls {
				t.Run(name, func(t *testing.T) {
					require.Equal(t, call(testContext(t), theirs), call(testContext(t), ours))
				})
			}
		})
	}
}
