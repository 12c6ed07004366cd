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

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func requireEqual(t *testing.T, want, got proto.Message) {
	t.Helper()
	require.True(t, proto.Equal(want, got), "want %v\ngot  %v", want, got)
}

func TestKV(t *testing.T) {
	f := newFixture(t)
	f.put("a", "1", "b", "2")
	put, err := f.kv.Put(f.ctx, &pb.PutRequest{Key: []byte("a"), Value: []byte("3"), PrevKv: true})
	require.NoError(t, err)
	first := &mvccpb.KeyValue{Key: []byte("a"), Value: []byte("1"), CreateRevision: 2, ModRevision: 2, Version: 1}
	a := &mvccpb.KeyValue{Key: []byte("a"), Value: []byte("3"), CreateRevision: 2, ModRevision: 4, Version: 2}
	b := &mvccpb.KeyValue{Key: []byte("b"), Value: []byte("2"), CreateRevision: 3, ModRevision: 3, Version: 1}
	requireEqual(t, &pb.PutResponse{Header: f.header(4), PrevKv: first}, put)

	got, err := f.kv.Range(f.ctx, &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("c"), Limit: 1, SortTarget: pb.RangeRequest_MOD})
	require.NoError(t, err)
	requireEqual(t, &pb.RangeResponse{Header: f.header(4), Kvs: []*mvccpb.KeyValue{b}, More: true, Count: 2}, got)
	_, err = f.kv.Range(f.ctx, &pb.RangeRequest{Key: []byte("a"), Serializable: true})
	require.NoError(t, err)
	require.Equal(t, []bool{true, false}, f.member.reads)

	proposed := f.member.proposed
	txn, err := f.kv.Txn(f.ctx, parse(t, &pb.TxnRequest{}, expand(`compare:{key:"a" target:VERSION version:2} success:R("b")`)))
	require.NoError(t, err)
	requireEqual(t, &pb.TxnResponse{Header: f.header(4), Succeeded: true, Responses: []*pb.ResponseOp{{
		Response: &pb.ResponseOp_ResponseRange{ResponseRange: &pb.RangeResponse{
			Header: &pb.ResponseHeader{Revision: 4}, Kvs: []*mvccpb.KeyValue{b}, Count: 1,
		}},
	}}}, txn)
	require.Equal(t, proposed, f.member.proposed, "a transaction that only reads went through the log")
	txn, err = f.kv.Txn(f.ctx, parse(t, &pb.TxnRequest{}, expand(`success:D("a" prev_kv:true) success:{request_txn:{}}`)))
	require.NoError(t, err)
	requireEqual(t, &pb.TxnResponse{Header: f.header(5), Succeeded: true, Responses: []*pb.ResponseOp{
		{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: &pb.DeleteRangeResponse{
			Header: &pb.ResponseHeader{Revision: 5}, Deleted: 1, PrevKvs: []*mvccpb.KeyValue{a},
		}}},
		{Response: &pb.ResponseOp_ResponseTxn{ResponseTxn: &pb.TxnResponse{Header: &pb.ResponseHeader{}, Succeeded: true}}},
	}}, txn)

	del, err := f.kv.DeleteRange(f.ctx, &pb.DeleteRangeRequest{Key: []byte("b"), PrevKv: true})
	require.NoError(t, err)
	requireEqual(t, &pb.DeleteRangeResponse{Header: f.header(6), Deleted: 1, PrevKvs: []*mvccpb.KeyValue{b}}, del)

	compact, err := f.kv.Compact(f.ctx, &pb.CompactionRequest{Revision: 5})
	require.NoError(t, err)
	requireEqual(t, &pb.CompactionResponse{Header: f.header(6)}, compact)
	require.Empty(t, f.member.compacted)
	_, err = f.kv.Compact(f.ctx, &pb.CompactionRequest{Revision: 6, Physical: true})
	require.NoError(t, err)
	require.Equal(t, []int64{6}, f.member.compacted)
}

func TestKVErrors(t *testing.T) {
	f := newFixture(t)
	f.put("a", "1", "a", "2")
	_, err := f.kv.Compact(f.ctx, &pb.CompactionRequest{Revision: 3})
	require.NoError(t, err)
	calls := []struct {
		name string
		want error
		call func() error
	}{
		{"range without key", rpctypes.ErrGRPCEmptyKey, func() error { return second(f.kv.Range(f.ctx, &pb.RangeRequest{})) }},
		{"range of old", rpctypes.ErrGRPCCompacted, func() error { return second(f.kv.Range(f.ctx, &pb.RangeRequest{Key: []byte("a"), Revision: 2})) }},
		{"range ahead", rpctypes.ErrGRPCFutureRev, func() error { return second(f.kv.Range(f.ctx, &pb.RangeRequest{Key: []byte("a"), Revision: 9})) }},
		{"put without key", rpctypes.ErrGRPCEmptyKey, func() error { return second(f.kv.Put(f.ctx, &pb.PutRequest{})) }},
		{"put to no lease", rpctypes.ErrGRPCLeaseNotFound, func() error { return second(f.kv.Put(f.ctx, &pb.PutRequest{Key: []byte("a"), Lease: 5})) }},
		{"delete without key", rpctypes.ErrGRPCEmptyKey, func() error { return second(f.kv.DeleteRange(f.ctx, &pb.DeleteRangeRequest{})) }},
		{"txn twice", rpctypes.ErrGRPCDuplicateKey, func() error {
			return second(f.kv.Txn(f.ctx, parse(t, &pb.TxnRequest{}, expand(`success:P("a") success:P("a")`))))
		}},
		{"txn without op", rpctypes.ErrGRPCKeyNotFound, func() error { return second(f.kv.Txn(f.ctx, parse(t, &pb.TxnRequest{}, `success:{}`))) }},
		{"read-only txn of old", rpctypes.ErrGRPCCompacted, func() error {
			return second(f.kv.Txn(f.ctx, parse(t, &pb.TxnRequest{}, expand(`success:R("a" revision:2)`))))
		}},
		{"compact again", rpctypes.ErrGRPCCompacted, func() error { return second(f.kv.Compact(f.ctx, &pb.CompactionRequest{Revision: 3})) }},
		{"compact ahead", rpctypes.ErrGRPCFutureRev, func() error { return second(f.kv.Compact(f.ctx, &pb.CompactionRequest{Revision: 9})) }},
	}
	for _, c := range calls {
		require.Equal(t, c.want.Error(), fmt.Sprint(c.call()), c.name)
	}
	f.member.proposals, f.member.readErr = ErrTooLarge, ErrTimeout
	for name, call := range map[string]func() error{
		"put":      func() error { return second(f.kv.Put(f.ctx, &pb.PutRequest{Key: []byte("a")})) },
		"delete":   func() error { return second(f.kv.DeleteRange(f.ctx, &pb.DeleteRangeRequest{Key: []byte("a")})) },
		"write":    func() error { return second(f.kv.Txn(f.ctx, parse(t, &pb.TxnRequest{}, expand(`success:P("a")`)))) },
		"compact":  func() error { return second(f.kv.Compact(f.ctx, &pb.CompactionRequest{Revision: 3})) },
		"grant":    func() error { return second(f.lease.LeaseGrant(f.ctx, &pb.LeaseGrantRequest{TTL: 1})) },
		"revoke":   func() error { return second(f.lease.LeaseRevoke(f.ctx, &pb.LeaseRevokeRequest{ID: 1})) },
		"alarm":    func() error { return second(pb.NewMaintenanceClient(f.conn).Alarm(f.ctx, &pb.AlarmRequest{})) },
		"range":    func() error { return second(f.kv.Range(f.ctx, &pb.RangeRequest{Key: []byte("a")})) },
		"readonly": func() error { return second(f.kv.Txn(f.ctx, &pb.TxnRequest{})) },
		"status":   func() error { return second(pb.NewMaintenanceClient(f.conn).Status(f.ctx, &pb.StatusRequest{})) },
		"members":  func() error { return second(pb.NewClusterClient(f.conn).MemberList(f.ctx, &pb.MemberListRequest{})) },
		"leases":   func() error { return second(f.lease.LeaseLeases(f.ctx, &pb.LeaseLeasesRequest{})) },
		"ttl":      func() error { return second(f.lease.LeaseTimeToLive(f.ctx, &pb.LeaseTimeToLiveRequest{})) },
		"stream":   func() error { _, err := f.stream(&pb.RangeRequest{Key: []byte("a")}); return err },
	} {
		want := rpctypes.ErrGRPCRequestTooLarge
		switch name {
		case "range", "readonly", "status", "members", "leases", "ttl", "stream":
			want = rpctypes.ErrGRPCTimeout
		}
		require.Equal(t, want.Error(), fmt.Sprint(call()), name)
	}
}

func second[T any](_ T, err error) error { return err }

// An interceptor gets the decoded request and the method's name, and may refuse.
func TestUnaryInterceptor(t *testing.T) {
	var seen []string
	refuse := errors.New("no")
	f := newFixture(t, grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		seen = append(seen, fmt.Sprintf("%s %T %v", info.FullMethod, req, info.Server != nil))
		if r, ok := req.(*pb.RangeRequest); ok && string(r.GetKey()) == "secret" {
			return nil, refuse
		}
		return next(ctx, req)
	}))
	f.put("a", "1")
	_, err := f.kv.Range(f.ctx, &pb.RangeRequest{Key: []byte("secret")})
	require.ErrorContains(t, err, "no")
	require.Equal(t, []string{
		"/etcdserverpb.KV/Put *etcdserverpb.PutRequest true", "/etcdserverpb.KV/Range *etcdserverpb.RangeRequest true",
	}, seen)
	err = f.conn.Invoke(f.ctx, "/etcdserverpb.KV/Range", &pb.PutRequest{Lease: 1, IgnoreValue: true, Value: []byte("\xff")}, &pb.RangeResponse{})
	require.Error(t, err, "a message of another kind")
}

// stream collects a RangeStream: the pieces and all of them merged.
func (f *fixture) stream(r *pb.RangeRequest) (pieces []*pb.RangeResponse, err error) {
	s, err := f.kv.RangeStream(f.ctx, r)
	if err != nil {
		return nil, err
	}
	for {
		res, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return pieces, nil
		}
		if err != nil {
			return pieces, err
		}
		pieces = append(pieces, res.GetRangeResponse())
	}
}

// fill puts n keys of about size bytes.
func (f *fixture) fill(n, size int) {
	for i := range n {
		f.put(fmt.Sprintf("k%04d", i), strings.Repeat("v", size))
	}
}

func TestRangeStreamEqualsRange(t *testing.T) {
	f := newFixture(t)
	f.fill(100, 10)
	for _, text := range []string{
		`key:"k" range_end:"l"`, `key:"k" range_end:"\0"`, `key:"k0005"`, `key:"none"`, `key:"l" range_end:"k"`,
		`key:"k" range_end:"l" limit:5`, `key:"k" range_end:"l" limit:10`, `key:"k" range_end:"l" limit:11`,
		`key:"k" range_end:"l" limit:35`, `key:"k" range_end:"l" limit:100`, `key:"k" range_end:"l" limit:500`,
		`key:"k" range_end:"l" keys_only:true`, `key:"k" range_end:"l" count_only:true`, `key:"k" range_end:"l" limit:7 count_only:true`,
		`key:"k" range_end:"l" revision:50`, `key:"k" range_end:"l" revision:50 limit:20`, `key:"k" range_end:"l" revision:-1`,
		`key:"k" range_end:"l" sort_order:ASCEND`, `key:"k0050" range_end:"l" limit:-3`,
	} {
		t.Run(text, func(t *testing.T) {
			r := parse(t, &pb.RangeRequest{}, text)
			want, err := f.kv.Range(f.ctx, r)
			require.NoError(t, err)
			pieces, err := f.stream(r)
			require.NoError(t, err)
			merged := &pb.RangeResponse{}
			for i, p := range pieces {
				proto.Merge(merged, p)
				if i < len(pieces)-1 {
					require.Nil(t, p.GetHeader(), "only the last piece has a header")
					require.NotEmpty(t, p.GetKvs())
					require.Zero(t, p.GetCount())
					require.False(t, p.GetMore())
				}
			}
			requireEqual(t, want, merged)
		})
	}
}

// What is asked to be sorted by something else than the key is, if it fits one piece; no key is left out if it does not.
func TestRangeStreamSorts(t *testing.T) {
	f := newFixture(t)
	for i := range 30 {
		f.put(fmt.Sprintf("k%02d", i), fmt.Sprintf("v%02d", 99-i))
	}
	keys := func(text string) (all []string) {
		pieces, err := f.stream(parse(t, &pb.RangeRequest{}, text))
		require.NoError(t, err)
		for _, p := range pieces {
			for _, kv := range p.GetKvs() {
				all = append(all, string(kv.GetKey()))
			}
		}
		return all
	}
	require.Equal(t, []string{"k03", "k02", "k01", "k00"}, keys(`key:"k" range_end:"k04" sort_target:VALUE`))
	require.Equal(t, []string{"k03", "k02", "k01", "k00"}, keys(`key:"k" range_end:"k04" sort_target:VALUE keys_only:true`))
	require.Len(t, keys(`key:"k" range_end:"k10" sort_target:VALUE`), firstChunk)
	require.Equal(t, keys(`key:"k" range_end:"l"`), keys(`key:"k" range_end:"l" sort_target:VALUE`))
	require.Equal(t, keys(`key:"k" range_end:"l" limit:20`), keys(`key:"k" range_end:"l" limit:20 sort_target:VALUE`))
	limited, err := f.kv.Range(f.ctx, parse(t, &pb.RangeRequest{}, `key:"k" range_end:"l" limit:3 sort_target:VALUE`))
	require.NoError(t, err)
	pieces, err := f.stream(parse(t, &pb.RangeRequest{}, `key:"k" range_end:"l" limit:3 sort_target:VALUE`))
	require.NoError(t, err)
	require.Len(t, pieces, 1)
	requireEqual(t, limited, pieces[0])
}

func TestRangeStreamPieces(t *testing.T) {
	f := newFixture(t)
	f.services.limits.RequestBytes = 2000
	f.fill(200, 40)
	pieces, err := f.stream(&pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")})
	require.NoError(t, err)
	require.Len(t, pieces[0].GetKvs(), firstChunk)
	for _, p := range pieces[1 : len(pieces)-1] {
		require.Less(t, proto.Size(p), 2*2000, "messages aim at the size of a request")
	}
	require.Less(t, len(pieces), 12, "messages do not stay as small as the first")
	require.Equal(t, false, f.member.reads[len(f.member.reads)-1])
	require.True(t, f.member.reads[len(f.member.reads)-len(pieces)], "the first read is linearizable, the others are at its revision")
}

func TestRangeStreamShrinks(t *testing.T) {
	require.EqualValues(t, 20, nextChunk(10, 10, 1000))
	require.EqualValues(t, 10, nextChunk(10, 700, 1000))
	require.EqualValues(t, 5, nextChunk(10, 3000, 1000))
	require.EqualValues(t, 1, nextChunk(1, 3000, 1000))
}

// Writes that come between two pieces are not in the stream; a compaction past its revision ends it.
func TestRangeStreamIsOneRevision(t *testing.T) {
	f := newFixture(t)
	f.fill(40, 10)
	reads := 0
	f.member.readAlso = func() {
		if reads++; reads == 2 {
			_, err := f.member.Propose(f.ctx, &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte("k9999")}})
			require.NoError(t, err)
		}
	}
	pieces, err := f.stream(&pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")})
	require.NoError(t, err)
	last := pieces[len(pieces)-1]
	require.EqualValues(t, 40, last.GetCount())
	requireEqual(t, f.header(41), last.GetHeader())

	reads = 0
	f.member.readAlso = func() {
		if reads++; reads == 2 {
			for _, req := range []*pb.InternalRaftRequest{
				{Put: &pb.PutRequest{Key: []byte("k0001")}}, {Compaction: &pb.CompactionRequest{Revision: 43}},
			} {
				_, err := f.member.Propose(f.ctx, req)
				require.NoError(t, err)
			}
		}
	}
	pieces, err = f.stream(&pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")})
	require.Equal(t, rpctypes.ErrGRPCCompacted.Error(), fmt.Sprint(err))
	require.Len(t, pieces, 1)
}

func TestRangeStreamRefuses(t *testing.T) {
	f := newFixture(t)
	for text, want := range map[string]error{
		``:                           rpctypes.ErrGRPCEmptyKey,
		`key:"a" sort_order:5`:       rpctypes.ErrGRPCInvalidSortOption,
		`key:"a" sort_order:DESCEND`: status.Error(codes.Unimplemented, "RangeStream does not support custom sort orders"),
		`key:"a" min_mod_revision:1`: status.Error(codes.Unimplemented, "RangeStream does not support revision filters"),
		`key:"a" revision:99`:        rpctypes.ErrGRPCFutureRev,
		`key:"a" sort_order:ASCEND sort_target:MOD`: status.Error(codes.Unimplemented, "RangeStream does not support custom sort orders"),
	} {
		_, err := f.stream(parse(t, &pb.RangeRequest{}, text))
		require.Equal(t, want.Error(), fmt.Sprint(err), text)
	}
}
