package etcdapi

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/mvcc"
	"github.com/dolmen-io/dolmen/internal/state"
	"github.com/dolmen-io/dolmen/internal/watch"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// random makes answers in the form that the encoders take beside the messages that they stand for.
type random struct{ *rand.Rand }

func newRandom(seed uint64) random { return random{rand.New(rand.NewPCG(seed, 9))} }

// int gives zero, small, large and negative numbers: all lengths of a varint.
func (r random) int() int64 {
	if r.IntN(4) == 0 {
		return 0
	}
	return int64(r.Uint64() >> r.IntN(64))
}

func (r random) bool() bool { return r.IntN(2) == 0 }

func (r random) bytes() []byte {
	b := make([]byte, []int{0, 1, 20, 127, 128, 20000}[r.IntN(6)])
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func (r random) header() (*Header, *pb.ResponseHeader) {
	h := &Header{Cluster: uint64(r.int()), Member: uint64(r.int()), Term: uint64(r.int())}
	return h, &pb.ResponseHeader{ClusterId: h.Cluster, MemberId: h.Member, RaftTerm: h.Term}
}

func (r random) kv() ([]byte, *mvccpb.KeyValue) {
	kv := mvcc.KeyValue{Key: r.bytes(), Value: r.bytes(), Create: r.int(), Mod: r.int(), Ver: r.int(), LeaseID: r.int()}
	return kv.Encode(), &mvccpb.KeyValue{
		Key: kv.Key, Value: kv.Value, CreateRevision: kv.Create, ModRevision: kv.Mod, Version: kv.Ver, Lease: kv.LeaseID,
	}
}

func (r random) kvs() (encoded [][]byte, kvs []*mvccpb.KeyValue) {
	for range r.IntN(4) {
		b, kv := r.kv()
		encoded, kvs = append(encoded, b), append(kvs, kv)
	}
	return encoded, kvs
}

func (r random) rangeResult() (*mvcc.RangeResult, *pb.RangeResponse) {
	res := &mvcc.RangeResult{Count: r.int(), More: r.bool(), Revision: r.int()}
	want := &pb.RangeResponse{Count: res.Count, More: res.More}
	res.KVs, want.Kvs = r.kvs()
	return res, want
}

func (r random) put() (*state.PutResponse, *pb.PutResponse) {
	res, want := &state.PutResponse{}, &pb.PutResponse{}
	if r.bool() {
		res.Prev, want.PrevKv = r.kv()
	}
	return res, want
}

func (r random) delete() (*state.DeleteResponse, *pb.DeleteRangeResponse) {
	res := &state.DeleteResponse{Deleted: r.int()}
	want := &pb.DeleteRangeResponse{Deleted: res.Deleted}
	res.Prev, want.PrevKvs = r.kvs()
	return res, want
}

func (r random) txn(depth int) (*state.TxnResponse, *pb.TxnResponse) {
	res := &state.TxnResponse{Succeeded: r.bool()}
	want := &pb.TxnResponse{Succeeded: res.Succeeded}
	for range r.IntN(5) {
		op, wantOp := r.op(depth)
		res.Ops, want.Responses = append(res.Ops, op), append(want.Responses, wantOp)
	}
	return res, want
}

func (r random) op(depth int) (op state.OpResponse, want *pb.ResponseOp) {
	op.Revision = r.int()
	header := &pb.ResponseHeader{Revision: op.Revision}
	switch r.IntN(5) {
	case 0:
		res, w := r.rangeResult()
		w.Header = &pb.ResponseHeader{Revision: res.Revision}
		op.Range = res
		return op, &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: w}}
	case 1:
		res, w := r.put()
		op.Put, w.Header = res, header
		return op, &pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: w}}
	case 2:
		res, w := r.delete()
		op.Delete, w.Header = res, header
		return op, &pb.ResponseOp{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: w}}
	case 3:
		if depth > 0 {
			res, w := r.txn(depth - 1)
			op.Txn, w.Header = res, &pb.ResponseHeader{}
			return op, &pb.ResponseOp{Response: &pb.ResponseOp_ResponseTxn{ResponseTxn: w}}
		}
	}
	return op, &pb.ResponseOp{}
}

func (r random) event() (watch.Event, *mvccpb.Event) {
	e, want := watch.Event{Delete: r.bool()}, &mvccpb.Event{}
	if e.Delete {
		want.Type = mvccpb.Event_DELETE
	}
	e.KV, want.Kv = r.kv()
	if r.bool() {
		e.Prev, want.PrevKv = r.kv()
	}
	return e, want
}

func (r random) watch() (*watch.Response, *pb.WatchResponse) {
	res := &watch.Response{
		WatchID: r.int(), Revision: r.int(), Created: r.bool(), Canceled: r.bool(), CompactRevision: r.int(), PrevKV: r.bool(),
	}
	if r.bool() {
		res.Reason = "some reason"
	}
	want := &pb.WatchResponse{
		WatchId: res.WatchID, Created: res.Created, Canceled: res.Canceled,
		CompactRevision: res.CompactRevision, CancelReason: res.Reason,
	}
	for range r.IntN(4) {
		e, w := r.event()
		if !res.PrevKV {
			w.PrevKv = nil
		}
		res.Events, want.Events = append(res.Events, e), append(want.Events, w)
	}
	return res, want
}

// requireProto checks that encoded bytes are what protobuf makes of the message, and that they say the
// same when they are read.
func requireProto(t *testing.T, want proto.Message, got encoded) {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(want)
	require.NoError(t, err)
	back := want.ProtoReflect().New().Interface()
	require.NoError(t, proto.Unmarshal(got, back))
	require.True(t, proto.Equal(want, back), "got  %v\nwant %v", back, want)
	require.True(t, bytes.Equal(b, got), "other bytes for an equal message")
	require.Equal(t, len(got), got.Size())
	require.Equal(t, append([]byte("x"), got...), got.AppendTo([]byte("x")))
}

func TestEncodersAreProtobuf(t *testing.T) {
	for seed := range uint64(400) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := newRandom(seed)
			who, header := r.header()
			header.Revision = r.int()
			rangeRes, wantRange := r.rangeResult()
			wantRange.Header = proto.CloneOf(header)
			wantRange.Header.Revision = rangeRes.Revision
			requireProto(t, wantRange, encodeRange(who, rangeRes))
			put, wantPut := r.put()
			wantPut.Header = header
			requireProto(t, wantPut, encodePut(who, header.Revision, put))
			del, wantDelete := r.delete()
			wantDelete.Header = header
			requireProto(t, wantDelete, encodeDelete(who, header.Revision, del))
			txn, wantTxn := r.txn(3)
			wantTxn.Header = header
			requireProto(t, wantTxn, encodeTxn(who, header.Revision, txn))
			res, wantWatch := r.watch()
			wantWatch.Header = proto.CloneOf(header)
			wantWatch.Header.Revision = res.Revision
			wantWatch.Fragment = r.bool()
			requireProto(t, wantWatch, encodeWatch(who, res, res.Events, wantWatch.Fragment))
		})
	}
}

// The sizes that decide an allocation are those of what is appended, or a little more.
func TestEncodersAllocateOnce(t *testing.T) {
	who := &Header{Cluster: 1 << 63, Member: 1 << 63, Term: 1 << 63}
	kv := (&mvcc.KeyValue{Key: make([]byte, 100), Value: make([]byte, 1000), Create: -1, Mod: -1, Ver: -1, LeaseID: -1}).Encode()
	event := watch.Event{KV: kv, Prev: kv, Delete: true}
	res := &watch.Response{Revision: -1, WatchID: -1, Created: true, Canceled: true, CompactRevision: -1,
		Reason: "reason", PrevKV: true, Events: []watch.Event{event, event}}
	for name, encode := range map[string]func() encoded{
		"range": func() encoded {
			return encodeRange(who, &mvcc.RangeResult{KVs: [][]byte{kv, kv}, Count: -1, More: true, Revision: -1})
		},
		"put": func() encoded { return encodePut(who, -1, &state.PutResponse{Prev: kv}) },
		"delete": func() encoded {
			return encodeDelete(who, -1, &state.DeleteResponse{Deleted: -1, Prev: [][]byte{kv, kv}})
		},
		"watch": func() encoded { return encodeWatch(who, res, res.Events, true) },
	} {
		require.EqualValues(t, 1, testing.AllocsPerRun(20, func() { sink = encode() }), name)
	}
}

// sink keeps the compiler from leaving an allocation out.
var sink encoded

func FuzzEncodeWatch(f *testing.F) {
	f.Add(uint64(1), int64(2), int64(3), "reason", []byte("key"), []byte("value"), byte(0xff))
	f.Add(uint64(0), int64(-1), int64(0), "", []byte{}, []byte{}, byte(0))
	f.Fuzz(func(t *testing.T, id uint64, revision, watchID int64, reason string, key, value []byte, flags byte) {
		if !utf8.ValidString(reason) {
			return // reasons are our own texts
		}
		flag := func(i int) bool { return flags&(1<<i) != 0 }
		kv := mvcc.KeyValue{Key: key, Value: value, Create: revision, Mod: revision, Ver: 1, LeaseID: watchID}
		message := &mvccpb.KeyValue{Key: key, Value: value, CreateRevision: revision, ModRevision: revision, Version: 1, Lease: watchID}
		res := &watch.Response{WatchID: watchID, Revision: revision, Created: flag(0), Canceled: flag(1), CompactRevision: revision,
			Reason: reason, PrevKV: flag(2), Events: []watch.Event{{KV: kv.Encode(), Delete: flag(3), Prev: kv.Encode()}}}
		event := &mvccpb.Event{Kv: message}
		if flag(2) {
			event.PrevKv = message
		}
		if flag(3) {
			event.Type = mvccpb.Event_DELETE
		}
		requireProto(t, &pb.WatchResponse{
			Header:  &pb.ResponseHeader{ClusterId: id, MemberId: id, RaftTerm: id, Revision: revision},
			WatchId: watchID, Created: flag(0), Canceled: flag(1), CompactRevision: revision, CancelReason: reason,
			Fragment: flag(4), Events: []*mvccpb.Event{event},
		}, encodeWatch(&Header{Cluster: id, Member: id, Term: id}, res, res.Events, flag(4)))
	})
}
