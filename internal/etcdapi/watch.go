package etcdapi

import (
	"context"
	"errors"
	"io"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"github.com/dolmen-io/dolmen/internal/watch"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// watcher is the Watch service.
type watcher struct {
	pb.UnimplementedWatchServer
	*Services
}

// messageSlack is how much larger than a request a message may be: what gRPC may add to it.
const messageSlack = 512 << 10

// Watch runs one stream: requests are read by a goroutine of its own, so that a client that does not
// read its events can still cancel; responses are pulled from the hub at the client's pace.
func (s watcher) Watch(rpc pb.Watch_WatchServer) error {
	ctx, cancel := context.WithCancel(rpc.Context())
	defer cancel()
	stream := s.hub.NewStream()
	defer stream.Close()
	failed := make(chan error, 1)
	go s.receive(ctx, cancel, rpc, stream, failed)
	err := s.send(ctx, rpc, stream)
	select {
	case err = <-failed:
	default:
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, watch.ErrClosed) {
		if cause := context.Cause(rpc.Context()); cause != nil && !errors.Is(cause, context.Canceled) {
			return toStatus(cause)
		}
		return rpctypes.ErrGRPCWatchCanceled
	}
	return toStatus(err)
}

// receive takes requests until the client has no more, which does not end the stream, or fails.
func (s watcher) receive(ctx context.Context, cancel func(), rpc pb.Watch_WatchServer, stream *watch.Stream, failed chan<- error) {
	for {
		req, err := rpc.Recv()
		if errors.Is(err, io.EOF) {
			return
		}
		if err == nil {
			err = s.request(ctx, stream, req)
		}
		if err != nil {
			failed <- err
			cancel()
			return
		}
	}
}

func (s watcher) request(ctx context.Context, stream *watch.Stream, req *pb.WatchRequest) error {
	switch r := req.GetRequestUnion().(type) {
	case *pb.WatchRequest_CreateRequest:
		if r.CreateRequest == nil {
			return nil
		}
		return s.create(ctx, stream, r.CreateRequest)
	case *pb.WatchRequest_CancelRequest:
		if r.CancelRequest == nil {
			return nil
		}
		return stream.Cancel(ctx, r.CancelRequest.GetWatchId())
	case *pb.WatchRequest_ProgressRequest:
		return stream.Progress(ctx)
	}
	return nil
}

// create adds a watch if the caller may read its range. The range is checked as the client sent it: one
// without an upper limit needs a permission without one. A start that cannot be is refused before.
func (s watcher) create(ctx context.Context, stream *watch.Stream, r *pb.WatchCreateRequest) error {
	if r.GetStartRevision() >= 0 {
		key := r.GetKey()
		if len(key) == 0 {
			key = []byte{0}
		}
		s.awaitToken(ctx)
		if _, err := s.authorizeRead(ctx, s.member.Users(), key, r.GetRangeEnd()); err != nil {
			return stream.Refuse(ctx, watchRefusal(err))
		}
	}
	return stream.Create(ctx, createRequest(r))
}

func createRequest(r *pb.WatchCreateRequest) watch.CreateRequest {
	c := watch.CreateRequest{
		ID: r.GetWatchId(), Key: r.GetKey(), End: r.GetRangeEnd(), Start: r.GetStartRevision(),
		PrevKV: r.GetPrevKv(), Fragment: r.GetFragment(), ProgressNotify: r.GetProgressNotify(),
	}
	for _, f := range r.GetFilters() {
		switch f {
		case pb.WatchCreateRequest_NOPUT:
			c.NoPut = true
		case pb.WatchCreateRequest_NODELETE:
			c.NoDelete = true
		}
	}
	return c
}

func (s watcher) send(ctx context.Context, rpc grpc.ServerStream, stream *watch.Stream) error {
	for {
		r, err := stream.Next(ctx)
		if err != nil {
			return err
		}
		if err := s.sendResponse(rpc, &r); err != nil {
			return err
		}
	}
}

// fragmentFlag is the size of the flag that marks a piece of a response.
const fragmentFlag = 2

// sendResponse sends a response, in pieces if the watch asked for that and it is too large for one
// message. A single event is never split. As in etcd the last piece has room for the flag too, though it
// goes without.
func (s watcher) sendResponse(rpc grpc.ServerStream, r *watch.Response) error {
	who := s.member.Header()
	events := r.Events
	if !r.Fragment || len(events) < 2 {
		return rpc.SendMsg(encodeWatch(&who, r, events, false))
	}
	limit := s.limits.RequestBytes + messageSlack
	head := len(encodeWatch(&who, r, nil, false))
	if head+eventsSize(events, r.PrevKV) < limit {
		return rpc.SendMsg(encodeWatch(&who, r, events, false))
	}
	for {
		n, size := 1, head+fragmentFlag+eventsSize(events[:1], r.PrevKV)
		for n < len(events) {
			size += eventsSize(events[n:n+1], r.PrevKV)
			if size >= limit {
				break
			}
			n++
		}
		last := n == len(events)
		if err := rpc.SendMsg(encodeWatch(&who, r, events[:n], !last)); err != nil || last {
			return err
		}
		events = events[n:]
	}
}
