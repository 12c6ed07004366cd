package coordination

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// echo is services for the connection to call.
type echo struct {
	pb.UnimplementedKVServer
	pb.UnimplementedLeaseServer
	token []string
	seen  *pb.PutRequest
	// stream is the handler of LeaseKeepAlive.
	stream func(pb.Lease_LeaseKeepAliveServer) error
}

func (e *echo) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	if len(r.GetKey()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "no key")
	}
	e.token, e.seen = metadata.ValueFromIncomingContext(ctx, "token"), r
	r.Lease = 99 // a service may do so
	return &pb.PutResponse{Header: &pb.ResponseHeader{Revision: 7}}, nil
}

func (e *echo) LeaseKeepAlive(s pb.Lease_LeaseKeepAliveServer) error { return e.stream(s) }

func newConnection(e *echo) *connection {
	m := newMethods(zap.NewNop())
	m.add(&pb.KV_ServiceDesc, e)
	m.add(&pb.Lease_ServiceDesc, e)
	return &connection{methods: m}
}

func TestUnaryCalls(t *testing.T) {
	e := &echo{}
	c := newConnection(e)
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("token", "secret"))
	req := &pb.PutRequest{Key: []byte("k")}
	res, err := pb.NewKVClient(c).Put(ctx, req)
	require.NoError(t, err)
	require.Equal(t, int64(7), res.GetHeader().GetRevision())
	require.Equal(t, []string{"secret"}, e.token, "the service sees who calls")
	require.Zero(t, req.GetLease(), "and shares nothing with him")
	require.Equal(t, "k", string(e.seen.GetKey()))

	_, err = pb.NewKVClient(c).Put(ctx, &pb.PutRequest{})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	_, err = pb.NewAuthClient(c).AuthEnable(ctx, &pb.AuthEnableRequest{})
	require.Equal(t, codes.Unimplemented, status.Code(err))
	_, err = pb.NewWatchClient(c).Watch(ctx)
	require.Equal(t, codes.Unimplemented, status.Code(err))
	require.Equal(t, codes.Internal, status.Code(c.Invoke(ctx, pb.KV_Put_FullMethodName, "no message", &pb.PutResponse{})))
	require.Equal(t, codes.Internal, status.Code(c.Invoke(ctx, pb.KV_Put_FullMethodName, req, "no message")))
}

// open opens a stream whose other end the handler plays.
func open(ctx context.Context, t *testing.T, handler func(pb.Lease_LeaseKeepAliveServer) error) (*connection, pb.Lease_LeaseKeepAliveClient) {
	c := newConnection(&echo{stream: handler})
	s, err := pb.NewLeaseClient(c).LeaseKeepAlive(ctx)
	require.NoError(t, err)
	return c, s
}

func TestStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := open(t.Context(), t, func(s pb.Lease_LeaseKeepAliveServer) error {
			for {
				r, err := s.Recv()
				if errors.Is(err, io.EOF) {
					return s.Send(&pb.LeaseKeepAliveResponse{ID: -1}) // what is sent at the end still arrives
				}
				if err := errors.Join(err, s.Send(&pb.LeaseKeepAliveResponse{ID: r.GetID()})); err != nil {
					return err
				}
			}
		})
		for id := range int64(3) {
			require.NoError(t, s.Send(&pb.LeaseKeepAliveRequest{ID: id}))
			res, err := s.Recv()
			require.NoError(t, err)
			require.Equal(t, id, res.GetID())
		}
		require.NoError(t, s.Send(&pb.LeaseKeepAliveRequest{ID: 3}))
		require.NoError(t, s.CloseSend())
		require.NoError(t, s.CloseSend())
		for _, want := range []int64{3, -1} {
			res, err := s.Recv()
			require.NoError(t, err)
			require.Equal(t, want, res.GetID())
		}
		_, err := s.Recv()
		require.ErrorIs(t, err, io.EOF)
		c.streams.Wait()
		header, err := s.Header()
		require.NoError(t, err)
		require.Empty(t, header)
		require.Empty(t, s.Trailer())
	})
}

// TestStreamIsBounded: a handler that does not read holds up who sends, one that is not read is held up.
func TestStreamIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		sent := 0
		c, s := open(ctx, t, func(s pb.Lease_LeaseKeepAliveServer) error {
			for {
				if err := s.Send(&pb.LeaseKeepAliveResponse{}); err != nil {
					return err
				}
				sent++
			}
		})
		require.NoError(t, s.Send(&pb.LeaseKeepAliveRequest{}))
		blocked := make(chan error, 1)
		go func() { blocked <- s.Send(&pb.LeaseKeepAliveRequest{}) }()
		synctest.Wait()
		require.Equal(t, 1, sent)
		require.Empty(t, blocked)
		cancel()
		require.Equal(t, codes.Canceled, status.Code(<-blocked))
		c.streams.Wait()
		for err := error(nil); err == nil; {
			_, err = s.Recv()
			if err != nil {
				require.Equal(t, codes.Canceled, status.Code(err))
			}
		}
	})
}

func TestEndsOfStreams(t *testing.T) {
	for name, tc := range map[string]struct {
		handler func(pb.Lease_LeaseKeepAliveServer) error
		code    codes.Code
	}{
		"status": {func(pb.Lease_LeaseKeepAliveServer) error { return status.Error(codes.NotFound, "x") }, codes.NotFound},
		"error":  {func(pb.Lease_LeaseKeepAliveServer) error { return errors.New("x") }, codes.Unknown},
		"late":   {func(pb.Lease_LeaseKeepAliveServer) error { return context.DeadlineExceeded }, codes.DeadlineExceeded},
		"panic":  {func(pb.Lease_LeaseKeepAliveServer) error { panic("x") }, codes.Internal},
		"no message": {func(s pb.Lease_LeaseKeepAliveServer) error {
			return errors.Join(s.SetHeader(nil), s.SendHeader(nil), s.(grpc.ServerStream).SendMsg("x"))
		}, codes.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			c, s := open(t.Context(), t, tc.handler)
			_, err := s.Recv()
			require.Equal(t, tc.code, status.Code(err), "%v", err)
			c.streams.Wait()
			require.Error(t, s.(grpc.ClientStream).SendMsg("no message"))
			for err == nil || !errors.Is(err, io.EOF) {
				err = s.Send(&pb.LeaseKeepAliveRequest{}) // one may still find room
			}
		})
	}
}
