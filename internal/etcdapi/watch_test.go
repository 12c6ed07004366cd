package etcdapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/watch"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// send sends requests given as prototext of a WatchRequest.
func sendAll(t *testing.T, s pb.Watch_WatchClient, requests ...string) {
	for _, text := range requests {
		require.NoError(t, s.Send(parse(t, &pb.WatchRequest{}, text)))
	}
}

func expectWatch(t *testing.T, s pb.Watch_WatchClient, want *pb.WatchResponse) {
	t.Helper()
	got, err := s.Recv()
	require.NoError(t, err)
	requireEqual(t, want, got)
}

func TestWatch(t *testing.T) {
	f := newFixture(t)
	f.put("a", "1")
	s, err := f.watch.Watch(f.ctx)
	require.NoError(t, err)
	sendAll(t, s, `create_request:{key:"a" range_end:"c" start_revision:2 prev_kv:true}`)
	expectWatch(t, s, &pb.WatchResponse{Header: f.header(2), Created: true})
	one := &mvccpb.KeyValue{Key: []byte("a"), Value: []byte("1"), CreateRevision: 2, ModRevision: 2, Version: 1}
	expectWatch(t, s, &pb.WatchResponse{Header: f.header(2), Events: []*mvccpb.Event{{Kv: one}}})
	f.put("a", "2")
	two := &mvccpb.KeyValue{Key: []byte("a"), Value: []byte("2"), CreateRevision: 2, ModRevision: 3, Version: 2}
	expectWatch(t, s, &pb.WatchResponse{Header: f.header(3), Events: []*mvccpb.Event{{Kv: two, PrevKv: one}}})

	// What means nothing is passed over, and does not end the stream.
	sendAll(t, s, ``, `progress_request:{}`)
	expectWatch(t, s, &pb.WatchResponse{Header: f.header(3), WatchId: -1})
	sendAll(t, s, `cancel_request:{watch_id:77}`, `create_request:{key:"a" watch_id:5 start_revision:-1}`)
	expectWatch(t, s, &pb.WatchResponse{
		Header: f.header(3), WatchId: -1, Created: true, Canceled: true, CancelReason: rpctypes.ErrCompacted.Error(),
	})
	sendAll(t, s, `create_request:{key:"a" watch_id:5 filters:NOPUT}`)
	expectWatch(t, s, &pb.WatchResponse{Header: f.header(3), WatchId: 5, Created: true})
	sendAll(t, s, `cancel_request:{watch_id:0}`)
	expectWatch(t, s, &pb.WatchResponse{Header: f.header(3), Canceled: true})

	_, err = f.kv.DeleteRange(f.ctx, &pb.DeleteRangeRequest{Key: []byte("a")})
	require.NoError(t, err)
	expectWatch(t, s, &pb.WatchResponse{Header: f.header(4), WatchId: 5, Events: []*mvccpb.Event{
		{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: []byte("a"), ModRevision: 4}},
	}})
	_, err = f.kv.Compact(f.ctx, &pb.CompactionRequest{Revision: 4})
	require.NoError(t, err)
	sendAll(t, s, `create_request:{key:"a" start_revision:2}`)
	expectWatch(t, s, &pb.WatchResponse{Header: f.header(4), WatchId: 1, Created: true})
	expectWatch(t, s, &pb.WatchResponse{Header: f.header(0), WatchId: 1, Canceled: true, CompactRevision: 4})
}

// A client that sends no more still receives.
func TestWatchHalfClosed(t *testing.T) {
	f := newFixture(t)
	s, err := f.watch.Watch(f.ctx)
	require.NoError(t, err)
	sendAll(t, s, `create_request:{key:"a" filters:NODELETE}`)
	expectWatch(t, s, &pb.WatchResponse{Header: f.header(1), Created: true})
	require.NoError(t, s.CloseSend())
	for i := range int64(3) {
		rev := f.put("a", "1")
		got, err := s.Recv()
		require.NoError(t, err)
		require.Equal(t, rev, got.GetHeader().GetRevision())
		require.EqualValues(t, i+1, got.GetEvents()[0].GetKv().GetVersion())
	}
}

// duplex is the server's end of a stream without a network: requests come from a channel, which ends in
// end, and messages are kept.
type duplex struct {
	grpc.ServerStream
	ctx      context.Context
	requests chan *pb.WatchRequest
	end      error
	sent     []encoded
	sendErr  error
}

func (d *duplex) Context() context.Context     { return d.ctx }
func (d *duplex) Send(*pb.WatchResponse) error { return errors.New("not in encoded form") }

func (d *duplex) SendMsg(m any) error {
	d.sent = append(d.sent, m.(encoded))
	return d.sendErr
}

func (d *duplex) Recv() (*pb.WatchRequest, error) {
	select {
	case r, ok := <-d.requests:
		if ok {
			return r, nil
		}
		if errors.Is(d.end, io.EOF) { // half closed, and a Recv after that would block
			return nil, io.EOF
		}
		return nil, d.end
	case <-d.ctx.Done():
		return nil, d.ctx.Err()
	}
}

func TestWatchEnds(t *testing.T) {
	gone := errors.New("transport is gone")
	create := parse(t, &pb.WatchRequest{}, `create_request:{key:"a"}`)
	for _, tc := range []struct {
		name    string
		end     error // of what the client sends
		sendErr error
		cancel  error // cause with which the stream's context ends before anything
		want    string
	}{
		{name: "receive fails", end: gone, want: status.Error(codes.Unknown, gone.Error()).Error()},
		{name: "receive canceled", end: status.Error(codes.Canceled, "context canceled"), want: status.Error(codes.Canceled, "context canceled").Error()},
		{name: "send fails", end: io.EOF, sendErr: gone, want: status.Error(codes.Unknown, gone.Error()).Error()},
		{name: "canceled", end: io.EOF, cancel: context.Canceled, want: rpctypes.ErrGRPCWatchCanceled.Error()},
		{name: "canceled for a reason", end: io.EOF, cancel: rpctypes.ErrGRPCNoLeader, want: rpctypes.ErrGRPCNoLeader.Error()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			ctx, cancel := context.WithCancelCause(f.ctx)
			defer cancel(nil)
			d := &duplex{ctx: ctx, requests: make(chan *pb.WatchRequest, 1), end: tc.end, sendErr: tc.sendErr}
			d.requests <- create
			close(d.requests)
			if tc.cancel != nil {
				cancel(tc.cancel)
			}
			err := watcher{Services: f.services}.Watch(d)
			require.Equal(t, tc.want, fmt.Sprint(err))
			require.Zero(t, f.member.hub.Stats().Streams, "the stream was not closed")
		})
	}
}

func TestWatchPassesOverEmptyRequests(t *testing.T) {
	f := newFixture(t)
	s := f.member.hub.NewStream()
	defer s.Close()
	w := watcher{Services: f.services}
	require.NoError(t, w.request(f.ctx, s, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{}}))
	require.NoError(t, w.request(f.ctx, s, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{}}))
	require.Zero(t, f.member.hub.Stats().Watchers)
}

func TestCreateRequest(t *testing.T) {
	require.Equal(t, watch.CreateRequest{
		ID: 3, Key: []byte("a"), End: []byte("b"), Start: 7, PrevKV: true, Fragment: true, ProgressNotify: true, NoPut: true, NoDelete: true,
	}, createRequest(parse(t, &pb.WatchCreateRequest{}, `key:"a" range_end:"b" start_revision:7 watch_id:3 prev_kv:true
		fragment:true progress_notify:true filters:NOPUT filters:NODELETE filters:NOPUT`)))
	require.Equal(t, watch.CreateRequest{Key: []byte("a")}, createRequest(&pb.WatchCreateRequest{Key: []byte("a"),
		Filters: []pb.WatchCreateRequest_FilterType{9}}), "an unknown filter filters nothing")
}

// pieces sends a response and returns what went out, decoded.
func (f *fixture) pieces(r *watch.Response) (out []*pb.WatchResponse) {
	d := &duplex{ctx: f.ctx}
	require.NoError(f.t, watcher{Services: f.services}.sendResponse(d, r))
	for _, e := range d.sent {
		res := &pb.WatchResponse{}
		require.NoError(f.t, proto.Unmarshal(e, res))
		out = append(out, res)
	}
	return out
}

// The rule: a response of limit bytes or more is split; a piece takes events while it stays below the
// limit with the fragment flag, and at least one; all but the last have the flag.
func splitByRule(whole *pb.WatchResponse, limit int) (out []*pb.WatchResponse) {
	if proto.Size(whole) < limit || len(whole.Events) < 2 {
		return []*pb.WatchResponse{whole}
	}
	rest := whole.Events
	for len(rest) > 0 {
		piece := proto.CloneOf(whole)
		piece.Fragment = true
		n := 1
		for n < len(rest) {
			piece.Events = rest[:n+1]
			if proto.Size(piece) >= limit {
				break
			}
			n++
		}
		piece.Events = rest[:n]
		rest = rest[n:]
		piece.Fragment = len(rest) > 0
		out = append(out, piece)
	}
	return out
}

func TestFragments(t *testing.T) {
	f := newFixture(t)
	f.services.limits.RequestBytes = 1000
	const limit = 1000 + messageSlack
	for seed := range uint64(60) {
		r := newRandom(seed)
		res := &watch.Response{WatchID: r.int(), Revision: r.int(), Fragment: seed%8 != 0, PrevKV: r.bool()}
		whole := &pb.WatchResponse{Header: f.header(res.Revision), WatchId: res.WatchID}
		for range r.IntN(12) {
			r.addEvent(res, whole, r.IntN(limit/2+r.IntN(limit)))
		}
		want := splitByRule(whole, limit)
		if !res.Fragment {
			want = []*pb.WatchResponse{whole}
		}
		got := f.pieces(res)
		require.Len(t, got, len(want), "seed %d", seed)
		for i := range want {
			requireEqual(t, want[i], got[i])
		}
	}
}

// addEvent adds a put of a value of the given size to a response and to the message it stands for.
func (r random) addEvent(res *watch.Response, whole *pb.WatchResponse, size int) {
	e, want := r.event()
	want.Kv.Value = []byte(strings.Repeat("v", size))
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(want.Kv)
	if err != nil {
		panic(err) // a message made here can be encoded
	}
	e.KV = b
	if !res.PrevKV {
		want.PrevKv = nil
	}
	res.Events, whole.Events = append(res.Events, e), append(whole.Events, want)
}

// One byte decides.
func TestFragmentLimitIsExact(t *testing.T) {
	f := newFixture(t)
	f.services.limits.RequestBytes = 1000
	const limit = 1000 + messageSlack
	for _, over := range []int{-3, -2, -1, 0, 1} {
		res := &watch.Response{Revision: 5, Fragment: true}
		whole := &pb.WatchResponse{Header: f.header(5)}
		kv := func(n int) *mvccpb.KeyValue { return &mvccpb.KeyValue{Key: []byte("k"), Value: make([]byte, n)} }
		small, big := kv(10), kv(limit-200)
		whole.Events = []*mvccpb.Event{{Kv: small}, {Kv: big}}
		big.Value = append(big.Value, make([]byte, limit+over-proto.Size(whole))...)
		require.Equal(t, limit+over, proto.Size(whole))
		for _, e := range whole.Events {
			b, err := proto.Marshal(e.Kv)
			require.NoError(t, err)
			res.Events = append(res.Events, watch.Event{KV: b})
		}
		want := 1
		if over >= 0 {
			want = 2
		}
		require.Len(t, f.pieces(res), want, "%d over the limit", over)
	}
}

func TestFragmentSendFails(t *testing.T) {
	f := newFixture(t)
	f.services.limits.RequestBytes = 0
	d := &duplex{ctx: f.ctx, sendErr: io.ErrClosedPipe}
	big := (&watch.Event{KV: make([]byte, messageSlack)}).KV
	err := watcher{Services: f.services}.sendResponse(d, &watch.Response{Fragment: true, Events: []watch.Event{{KV: big}, {KV: big}}})
	require.ErrorIs(t, err, io.ErrClosedPipe)
	require.Len(t, d.sent, 1)
}
