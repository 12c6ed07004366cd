package compat

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/tests/harness"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Short forms of the requests that scenarios are made of.

func put(key, value string) *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(key), Value: []byte(value)}
}

func putLease(key, value string, lease int64) *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(key), Value: []byte(value), Lease: lease}
}

func get(key, end string) *pb.RangeRequest {
	return &pb.RangeRequest{Key: []byte(key), RangeEnd: bytesOrNil(end)}
}

func del(key, end string) *pb.DeleteRangeRequest {
	return &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: bytesOrNil(end)}
}

func compact(revision int64) *pb.CompactionRequest { return &pb.CompactionRequest{Revision: revision} }

func bytesOrNil(s string) []byte {
	if s == "" {
		return nil
	}
	return []byte(s)
}

// all is the whole keyspace as key and range end.
const all = "\x00"

// op wraps a request as an operation of a transaction; nil is an operation without a request.
func op(req proto.Message) *pb.RequestOp {
	switch req := req.(type) {
	case *pb.RangeRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: req}}
	case *pb.PutRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: req}}
	case *pb.DeleteRangeRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: req}}
	case *pb.TxnRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: req}}
	}
	return &pb.RequestOp{}
}

func ops(reqs ...proto.Message) []*pb.RequestOp {
	out := make([]*pb.RequestOp, len(reqs))
	for i, req := range reqs {
		out[i] = op(req)
	}
	return out
}

// txn is a transaction without compares: its operations always run.
func txn(reqs ...proto.Message) *pb.TxnRequest { return &pb.TxnRequest{Success: ops(reqs...)} }

// ifThen is a transaction with one compare.
func ifThen(c *pb.Compare, success, failure []*pb.RequestOp) *pb.TxnRequest {
	return &pb.TxnRequest{Compare: []*pb.Compare{c}, Success: success, Failure: failure}
}

func valueIs(key, value string) *pb.Compare {
	return &pb.Compare{Key: []byte(key), Target: pb.Compare_VALUE, Result: pb.Compare_EQUAL,
		TargetUnion: &pb.Compare_Value{Value: []byte(value)}}
}

// scenario is a named body for compare.
type scenario struct {
	name string
	opts harness.Options
	body func(*Recorder)
}

func runScenarios(t *testing.T, list []scenario) {
	for _, s := range list {
		t.Run(s.name, func(t *testing.T) { compare(t, s.opts, s.body) })
	}
}
