package etcdapi

import (
	"bytes"
	"context"
	"math"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dolmen-io/dolmen/internal/auth"
	"github.com/dolmen-io/dolmen/internal/mvcc"
	"github.com/dolmen-io/dolmen/internal/state"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// kv is the KV service.
type kv struct{ *Services }

// kvService is etcd's KV service with methods that answer in encoded form.
func kvService() *grpc.ServiceDesc {
	desc := pb.KV_ServiceDesc
	desc.HandlerType = (*any)(nil)
	desc.Methods = []grpc.MethodDesc{
		unary(&desc, "Range", kv.rangeKeys),
		unary(&desc, "Put", kv.put),
		unary(&desc, "DeleteRange", kv.deleteRange),
		unary(&desc, "Txn", kv.txn),
		unary(&desc, "Compact", kv.compact),
	}
	desc.Streams = []grpc.StreamDesc{{StreamName: "RangeStream", ServerStreams: true, Handler: func(srv any, s grpc.ServerStream) error {
		req := &pb.RangeRequest{}
		if err := s.RecvMsg(req); err != nil {
			return err
		}
		return srv.(kv).rangeStream(req, s)
	}}}
	return &desc
}

// unary describes a method of a service S that takes a *R.
func unary[S any, R any](desc *grpc.ServiceDesc, name string, call func(S, context.Context, *R) (any, error)) grpc.MethodDesc {
	info := grpc.UnaryServerInfo{FullMethod: "/" + desc.ServiceName + "/" + name}
	return grpc.MethodDesc{MethodName: name, Handler: func(
		srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor,
	) (any, error) {
		req := new(R)
		if err := decode(req); err != nil {
			return nil, err
		}
		handle := func(ctx context.Context, req any) (any, error) {
			res, err := call(srv.(S), ctx, req.(*R))
			if err != nil {
				return nil, toStatus(err)
			}
			return res, nil
		}
		if intercept == nil {
			return handle(ctx, req)
		}
		info := info
		info.Server = srv
		return intercept(ctx, req, &info, handle)
	}}
}

func (s kv) rangeKeys(ctx context.Context, r *pb.RangeRequest) (any, error) {
	if err := checkRange(r); err != nil {
		return nil, err
	}
	v, err := s.read(ctx, !r.GetSerializable())
	if err != nil {
		return nil, err
	}
	defer v.Release()
	who, err := s.authorizeRead(ctx, v.Auth, r.GetKey(), r.GetRangeEnd())
	if err == nil {
		err = sameRevision(who, v.Auth)
	}
	if err != nil {
		return nil, err
	}
	res, err := v.KV.Range(state.RangeOptions(r))
	if err != nil {
		return nil, err
	}
	h := s.member.Header()
	return encodeRange(&h, &res), nil
}

// firstChunk is how many keys the first message of a stream has at most; later ones aim at a size.
const firstChunk = 10

func (s kv) rangeStream(r *pb.RangeRequest, stream grpc.ServerStream) error {
	if err := checkRange(r); err != nil {
		return err
	}
	o := state.RangeOptions(r)
	switch {
	case o.Order != mvcc.SortNone && (o.Order != mvcc.SortAscend || o.Target != mvcc.SortByKey):
		return status.Error(codes.Unimplemented, "RangeStream does not support custom sort orders")
	case o.MinMod != 0 || o.MaxMod != 0 || o.MinCreate != 0 || o.MaxCreate != 0:
		return status.Error(codes.Unimplemented, "RangeStream does not support revision filters")
	}
	o.Order = mvcc.SortNone
	return toStatus(s.streamChunks(stream, o, !r.GetSerializable()))
}

// streamChunks sends a range in pieces, all at the revision of the first. Only the last piece has a
// header. What one piece holds is sorted as Range sorts it. More is in key order, whatever it was asked to
// be sorted by: sorting each piece for itself, as etcd does, skips keys and repeats others. Between pieces nothing is held, so a compaction may end the stream with ErrCompacted.
func (s kv) streamChunks(stream grpc.ServerStream, o mvcc.RangeOptions, linearizable bool) error {
	total := o.Limit
	if total <= 0 {
		total = math.MaxInt64
	}
	o.Limit = min(firstChunk, total)
	sent, header, permit := int64(0), int64(0), s.permitStream(stream.Context(), o.Key, o.End)
	for {
		v, err := s.read(stream.Context(), linearizable && header == 0)
		if err != nil {
			return err
		}
		var res mvcc.RangeResult
		if err = permit(v.Auth); err == nil {
			res, err = v.KV.Range(o)
		}
		if err == nil && o.Target != mvcc.SortByKey {
			if o.Target = mvcc.SortByKey; res.More && o.Limit < total {
				res, err = v.KV.Range(o)
			}
		}
		if err == nil && header == 0 {
			header = res.Revision
			if o.Revision <= 0 {
				o.Revision = header
			}
		}
		v.Release()
		if err != nil {
			return err
		}
		sent += int64(len(res.KVs))
		last := !res.More || sent >= total
		size := kvsSize(res.KVs)
		if err := stream.SendMsg(s.chunk(&res, sent, header, last)); err != nil || last {
			return err
		}
		kv, err := mvcc.DecodeKeyValue(res.KVs[len(res.KVs)-1])
		if err != nil {
			return err
		}
		o.Key = append(bytes.Clone(kv.Key), 0)
		o.Limit = min(nextChunk(o.Limit, size, s.limits.RequestBytes), total-sent)
	}
}

// permitStream returns what decides before each piece of a stream whether it may be sent: the first time by
// who asks, then by whether users and roles are still those.
func (s kv) permitStream(ctx context.Context, key, end []byte) func(*auth.View) error {
	var who auth.Identity
	first := true
	return func(users *auth.View) (err error) {
		if first {
			first = false
			if who, err = s.authorizeRead(ctx, users, key, end); err != nil {
				return err
			}
		}
		return sameRevision(who, users)
	}
}

// chunk encodes one message of a stream.
func (s kv) chunk(res *mvcc.RangeResult, sent, header int64, last bool) encoded {
	var inner []byte
	if last {
		// What was sent before, this piece, and what the limit leaves out: res.Count begins at this piece.
		all := *res
		all.Count += sent - int64(len(res.KVs))
		all.Revision = header
		who := s.member.Header()
		inner = encodeRange(&who, &all)
	} else {
		inner = appendKVs(make([]byte, 0, kvsSize(res.KVs)), fieldRangeKVs, res.KVs)
	}
	return appendMessage(make([]byte, 0, messageSize(len(inner))), fieldStreamRange, inner)
}

// nextChunk returns how many keys to send next so that messages come to be about target bytes long.
func nextChunk(limit int64, size, target int) int64 {
	switch {
	case size < target/2:
		return limit * 2
	case size > target*2:
		return max(limit/2, 1)
	}
	return limit
}

func (s kv) put(ctx context.Context, r *pb.PutRequest) (any, error) {
	req := &pb.InternalRaftRequest{Put: r}
	// Before anything else, as in etcd: a request that is wrong as well is told that there is no space.
	if err := s.limits.Space.Admit(ctx, req); err != nil {
		return nil, err
	}
	if err := checkPut(r); err != nil {
		return nil, err
	}
	res, err := s.propose(ctx, req)
	if err != nil {
		return nil, err
	}
	who := s.member.Header()
	return encodePut(&who, res.Revision, res.Response.(*state.PutResponse)), nil
}

func (s kv) deleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (any, error) {
	if err := checkDelete(r); err != nil {
		return nil, err
	}
	res, err := s.propose(ctx, &pb.InternalRaftRequest{DeleteRange: r})
	if err != nil {
		return nil, err
	}
	who := s.member.Header()
	return encodeDelete(&who, res.Revision, res.Response.(*state.DeleteResponse)), nil
}

func (s kv) txn(ctx context.Context, r *pb.TxnRequest) (any, error) {
	if err := s.limits.Space.Admit(ctx, &pb.InternalRaftRequest{Txn: r}); err != nil {
		return nil, err
	}
	if err := checkTxn(r, s.limits.TxnOps); err != nil {
		return nil, err
	}
	for _, branch := range [][]*pb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		if _, err := checkConflicts(branch); err != nil {
			return nil, err
		}
	}
	res, err := s.runTxn(ctx, r)
	if err != nil {
		return nil, err
	}
	who := s.member.Header()
	return encodeTxn(&who, res.Revision, res.Response.(*state.TxnResponse)), nil
}

func (s kv) runTxn(ctx context.Context, r *pb.TxnRequest) (state.Result, error) {
	if !readOnly(r) {
		return s.propose(ctx, &pb.InternalRaftRequest{Txn: r})
	}
	v, err := s.read(ctx, !serializable(r))
	if err != nil {
		return state.Result{}, err
	}
	defer v.Release()
	who, err := s.identify(ctx, v.Auth)
	if err == nil {
		err = v.CheckTxn(who, r)
	}
	if err == nil {
		err = sameRevision(who, v.Auth)
	}
	if err != nil {
		return state.Result{}, err
	}
	res := v.Txn(r)
	return res, res.Err
}

func (s kv) compact(ctx context.Context, r *pb.CompactionRequest) (any, error) {
	if err := s.authorizeAdmin(ctx); err != nil {
		return nil, err
	}
	res, err := s.propose(ctx, &pb.InternalRaftRequest{Compaction: r})
	if err == nil && r.GetPhysical() {
		err = s.member.Compacted(ctx, r.GetRevision())
	}
	if err != nil {
		return nil, err
	}
	return &pb.CompactionResponse{Header: s.header(res.Revision)}, nil
}

// header returns the response header with a revision.
func (s *Services) header(revision int64) *pb.ResponseHeader {
	who := s.member.Header()
	return &pb.ResponseHeader{ClusterId: who.Cluster, MemberId: who.Member, RaftTerm: who.Term, Revision: revision}
}

// current returns the revision of the newest view.
func (s *Services) current(ctx context.Context) (int64, error) {
	v, err := s.member.Read(ctx, false)
	if err != nil {
		return 0, err
	}
	defer v.Release()
	return v.KV.Current(), nil
}
