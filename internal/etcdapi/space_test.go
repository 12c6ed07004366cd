package etcdapi

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/dolmen-io/dolmen/internal/mvcc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// TestNoSpaceComesFirst: a request that adds data and is wrong as well is told that there is no space, and
// nothing of it is proposed. What adds nothing goes on.
func TestNoSpaceComesFirst(t *testing.T) {
	f := newFixture(t)
	f.member.full = true
	putOp := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{}}}
	delOp := &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("a")}}}
	_, err := f.kv.Put(f.ctx, &pb.PutRequest{})
	require.Equal(t, rpctypes.ErrGRPCNoSpace.Error(), fmt.Sprint(err))
	_, err = f.kv.Txn(f.ctx, &pb.TxnRequest{Failure: []*pb.RequestOp{putOp}})
	require.Equal(t, rpctypes.ErrGRPCNoSpace.Error(), fmt.Sprint(err))
	_, err = f.lease.LeaseGrant(f.ctx, &pb.LeaseGrantRequest{TTL: 1 << 50})
	require.Equal(t, rpctypes.ErrGRPCNoSpace.Error(), fmt.Sprint(err))
	require.Zero(t, f.member.proposed)
	_, err = f.kv.Txn(f.ctx, &pb.TxnRequest{Success: []*pb.RequestOp{delOp}})
	require.NoError(t, err)
	_, err = f.kv.DeleteRange(f.ctx, &pb.DeleteRangeRequest{Key: []byte("a")})
	require.NoError(t, err)
	require.Equal(t, 2, f.member.proposed)
}

// TestHashKVOfCompaction answers with what was kept of a compaction, before it looks at the range.
func TestHashKVOfCompaction(t *testing.T) {
	f := newFixture(t)
	f.member.state.KeepHash(mvcc.Hash{Sum: 55, Compacted: -1, Revision: 9})
	_, err := f.kv.Put(f.ctx, &pb.PutRequest{Key: []byte("a")})
	require.NoError(t, err)
	res, err := pb.NewMaintenanceClient(f.conn).HashKV(f.ctx, &pb.HashKVRequest{Revision: 9})
	require.NoError(t, err)
	requireEqual(t, &pb.HashKVResponse{Header: f.header(2), Hash: 55, CompactRevision: -1, HashRevision: 9}, res)
}
