package compat

import (
	"fmt"
	"testing"

	"github.com/dolmen-io/dolmen/tests/harness"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// TestTxnCompare crosses targets, results, operands and intervals, including enumeration values nobody defined and
// operands that belong to another target.
func TestTxnCompare(t *testing.T) {
	operands := []func(*pb.Compare){
		func(c *pb.Compare) {},
		func(c *pb.Compare) { c.TargetUnion = &pb.Compare_Version{Version: 2} },
		func(c *pb.Compare) { c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: 2} },
		func(c *pb.Compare) { c.TargetUnion = &pb.Compare_ModRevision{ModRevision: 4} },
		func(c *pb.Compare) { c.TargetUnion = &pb.Compare_Value{Value: []byte("2")} },
		func(c *pb.Compare) { c.TargetUnion = &pb.Compare_Lease{Lease: 7} },
		func(c *pb.Compare) { c.TargetUnion = &pb.Compare_Version{} },
	}
	compare(t, harness.Options{}, func(r *Recorder) {
		r.Do(&pb.LeaseGrantRequest{ID: 7, TTL: 1000})
		r.DoAll(put("a", "1"), put("b", "2"), putLease("a", "2", 7), put("d", "3"))
		for target := pb.Compare_CompareTarget(-1); target <= 5; target++ {
			for result := pb.Compare_CompareResult(-1); result <= 4; result++ {
				for _, operand := range operands {
					for _, interval := range [][2]string{{"a", ""}, {"absent", ""}, {"a", "c"}, {"a", all}, {"x", "z"}, {"c", "a"}} {
						c := &pb.Compare{Key: []byte(interval[0]), RangeEnd: bytesOrNil(interval[1]), Target: target, Result: result}
						operand(c)
						r.Do(&pb.TxnRequest{Compare: []*pb.Compare{c}})
					}
				}
			}
		}
		r.Do(&pb.TxnRequest{Compare: []*pb.Compare{valueIs("a", "2"), valueIs("b", "2")}, Success: ops(get("a", ""))})
		r.Do(&pb.TxnRequest{Compare: []*pb.Compare{valueIs("a", "2"), valueIs("b", "x")}, Failure: ops(get("b", ""))})
		r.Do(&pb.TxnRequest{Compare: []*pb.Compare{{}}})
		r.Do(&pb.TxnRequest{Compare: []*pb.Compare{{RangeEnd: []byte("z")}}, Success: ops(put("", "1"))})
	})
}

// TestTxnOperations covers execution: what each operation sees, which revision each answer carries.
func TestTxnOperations(t *testing.T) {
	at := func(key string, revision int64) *pb.RangeRequest {
		return &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte("z"), Revision: revision}
	}
	delPrev := &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("c"), PrevKv: true}
	putPrev := &pb.PutRequest{Key: []byte("a"), Value: []byte("p"), PrevKv: true}
	compare(t, harness.Options{}, func(r *Recorder) {
		r.Do(&pb.LeaseGrantRequest{ID: 7, TTL: 1000})
		r.DoAll(put("a", "1"), put("b", "2"), put("c", "3"))
		for _, req := range []*pb.TxnRequest{
			txn(),
			txn(get("a", "z")),
			txn(get("a", "z"), put("a", "x"), get("a", "z"), del("b", ""), get("a", "z"), put("d", "y"), at("a", 0)),
			txn(put("k", "1"), at("a", 2), at("a", 3), at("a", -1)),
			txn(del("none", ""), get("a", "z"), del("none", "nonf")),
			txn(del("none", ""), put("q", "1"), del("none", ""), get("q", "")),
			txn(putPrev, delPrev), txn(putPrev), txn(delPrev), txn(delPrev, put("c", "4")),
			txn(putLease("l", "1", 7), putLease("m", "1", 7)),
			txn(putLease("l", "1", 0), del("m", "")),
			txn(put("ok", "1"), putLease("l", "1", 99)),
			txn(txn(put("n", "1")), txn(put("o", "1"), get("n", "z")), put("p", "1")),
			txn(txn(get("a", "z"))), txn(txn()), txn(txn(txn(txn(put("deep", "1"))))),
			txn(at("a", 1000)), txn(put("z", "1"), at("a", 1000)), txn(txn(put("z", "1"), at("a", 1000))),
			txn(&pb.PutRequest{Key: []byte("nokey"), IgnoreValue: true}),
			txn(put("new", "1"), &pb.PutRequest{Key: []byte("nokey"), IgnoreLease: true, Value: []byte("x")}),
			txn(&pb.PutRequest{Key: []byte("l"), IgnoreValue: true}, &pb.PutRequest{Key: []byte("n"), IgnoreLease: true, Value: []byte("9")}),
			txn(&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), CountOnly: true}),
			txn(&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), Limit: 2, SortOrder: pb.RangeRequest_DESCEND, KeysOnly: true}),
			txn(&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), Serializable: true}),
			ifThen(valueIs("a", "nope"), ops(put("a", "then")), ops(put("a", "else"), get("a", ""))),
			ifThen(valueIs("a", "else"), ops(put("a", "then"), txn(get("a", ""))), ops(put("a", "else"))),
			// Compares of nested transactions see the state before the whole.
			txn(put("a", "5"), ifThen(valueIs("a", "5"), ops(put("w", "new")), ops(put("w", "old")))),
		} {
			r.Do(req)
			r.Do(get(all, all))
		}
		r.Do(compact(5))
		r.DoAll(txn(at("a", 4)), txn(at("a", 5)), txn(at("a", -1)), txn(put("a", "6"), at("a", 4)), txn(put("a", "6"), at("a", -1)))
		// Only the branch taken is checked against revisions and leases.
		r.DoAll(ifThen(valueIs("a", "nope"), ops(at("a", 4), putLease("x", "1", 99)), ops(put("fine", "1"))))
		r.DoAll(get(all, all), &pb.LeaseTimeToLiveRequest{ID: 7, Keys: true})
	})
}

// TestTxnDuplicates covers which puts and deletes of one transaction collide, including what etcd does not detect.
func TestTxnDuplicates(t *testing.T) {
	cases := []*pb.TxnRequest{
		txn(put("a", "1"), put("a", "2")),
		txn(put("a", "1"), del("a", "")), txn(del("a", ""), put("a", "1")),
		txn(put("b", "1"), del("a", "c")), txn(put("c", "1"), del("a", "c")),
		txn(del("a", "c"), del("b", "d")), txn(del("a", ""), del("a", "")),
		txn(get("a", ""), get("a", ""), put("a", "1")),
		txn(del("a", all), put("b", "1")), txn(put("b", "2"), del("a", all)), txn(del(all, all), put("b", "3")),
		txn(del("c", "a"), put("b", "1")), txn(del("b", "b"), put("b", "1")),
		txn(txn(put("a", "1")), put("a", "2")), txn(put("a", "1"), txn(put("a", "2"))),
		txn(txn(put("a", "1")), txn(put("a", "2"))),
		ifThen(valueIs("a", "1"), ops(put("a", "t")), ops(put("a", "e"))),
		txn(ifThen(valueIs("a", "1"), ops(put("a", "t")), ops(put("a", "e")))),
		txn(ifThen(valueIs("a", "1"), ops(put("a", "t")), ops(put("a", "e"))), put("a", "x")),
		txn(ifThen(valueIs("a", "1"), ops(del("a", "")), ops(put("a", "e")))),
		txn(txn(put("a", "1")), txn(del("a", "b"))), txn(txn(del("a", "b")), txn(put("a", "1"))),
		txn(txn(put("a", "1")), del("a", "b")), txn(del("a", "b"), txn(put("a", "1"))),
		txn(txn(del("a", "b")), put("a", "1")), txn(put("a", "1"), txn(del("a", "b"))),
		txn(txn(txn(put("a", "1"))), put("a", "2")), txn(txn(txn(del("a", ""))), txn(txn(put("a", "2")))),
		ifThen(valueIs("a", "zz"), ops(put("q", "1")), ops(put("a", "1"), put("a", "2"))),
		ifThen(valueIs("a", "zz"), ops(put("a", "1"), put("a", "2")), ops(put("q", "1"))),
	}
	compare(t, harness.Options{}, func(r *Recorder) {
		for _, req := range cases {
			r.DoAll(put("a", "0"), put("b", "0"), req, get(all, all))
		}
	})
}

// TestTxnBadInput covers the shape checks and their order.
func TestTxnBadInput(t *testing.T) {
	many := func(n int) []proto.Message {
		reqs := make([]proto.Message, n)
		for i := range reqs {
			reqs[i] = put(fmt.Sprintf("many%03d", i), "1")
		}
		return reqs
	}
	compares := func(n int) []*pb.Compare {
		out := make([]*pb.Compare, n)
		for i := range out {
			out[i] = &pb.Compare{Key: []byte("a")}
		}
		return out
	}
	compare(t, harness.Options{}, func(r *Recorder) {
		r.DoAll(
			txn(many(128)...), txn(many(129)...), txn(txn(many(127)...)), txn(txn(many(128)...)),
			txn(txn(txn(many(126)...))), txn(txn(txn(many(127)...))),
			&pb.TxnRequest{Compare: compares(128)}, &pb.TxnRequest{Compare: compares(129)},
			&pb.TxnRequest{Failure: ops(many(129)...)},
			&pb.TxnRequest{Compare: compares(10), Success: ops(txn(many(118)...))},
			&pb.TxnRequest{Compare: compares(10), Success: ops(txn(many(119)...))},
			&pb.TxnRequest{Compare: compares(129), Success: ops(put("", ""))},
		)
		for _, bad := range []proto.Message{
			nil, put("", "1"), get("", ""), del("", ""),
			&pb.PutRequest{Key: []byte("a"), Value: []byte("1"), IgnoreValue: true},
			&pb.PutRequest{Key: []byte("a"), Lease: 1, IgnoreLease: true},
			putLease("a", "1", 99),
			&pb.RangeRequest{Key: []byte("a"), SortOrder: 9}, &pb.RangeRequest{Key: []byte("a"), SortTarget: 9},
			&pb.TxnRequest{Compare: []*pb.Compare{{}}},
		} {
			r.DoAll(txn(bad), txn(put("fine", "1"), bad), txn(txn(bad)), txn(put("a", "1"), put("a", "1"), bad),
				&pb.TxnRequest{Failure: ops(bad)}, &pb.TxnRequest{Compare: []*pb.Compare{{}}, Success: ops(bad)})
		}
		r.Do(get(all, all))
	})
}
