package state

import (
	"fmt"

	"github.com/dolmen-io/dolmen/internal/engine"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// What a request costs before it is carried out, etcd's estimates in bytes.
const (
	putOverhead = 256
	grantCost   = 64
)

// Cost estimates how many bytes a request adds, 0 for one that adds none: deleting, revoking a lease and
// compacting make room and must be possible when there is none.
func Cost(req *pb.InternalRaftRequest) int64 {
	switch {
	case req.Put != nil:
		return putCost(req.Put)
	case req.Txn != nil:
		return txnCost(req.Txn)
	case req.LeaseGrant != nil:
		return grantCost
	}
	return 0
}

func putCost(r *pb.PutRequest) int64 {
	return putOverhead + int64(len(r.GetKey())) + int64(len(r.GetValue()))
}

// txnCost is that of the branch with the larger puts.
func txnCost(r *pb.TxnRequest) int64 {
	branch := func(ops []*pb.RequestOp) (sum int64) {
		for _, op := range ops {
			if put := op.GetRequestPut(); put != nil {
				sum += putCost(put)
			}
			if txn := op.GetRequestTxn(); txn != nil {
				sum += txnCost(txn)
			}
		}
		return sum
	}
	return max(branch(r.GetSuccess()), branch(r.GetFailure()))
}

// Exceeds says whether a request of that cost would take a store of so many bytes over a quota. A quota of
// 0 or less is none, and what costs nothing is always welcome.
func Exceeds(bytes, cost, quota int64) bool { return quota > 0 && cost > 0 && bytes+cost >= quota }

// bytes returns what the quota counts: keys and values of everything the engine holds of this state.
func (s *State) bytes() int64 { return s.store.Bytes() + s.leases.Bytes() + s.others.total }

// tableSizes are the sizes of the entries of all tables but that of the leases, which counts for itself:
// members, alarms, users, roles, and what belongs to the applied index. They are few.
type tableSizes struct {
	entries map[string]int
	total   int64
}

func ownTable(key []byte) bool {
	return len(key) > 0 && key[0] >= engine.TableMeta && key[0] != engine.TableLease
}

func loadTableSizes(sn engine.Snapshot) (tableSizes, error) {
	t := tableSizes{entries: map[string]int{}}
	err := sn.Scan(engine.RevisionsEnd, nil, false, func(key, value []byte) bool {
		if ownTable(key) {
			t.set(key, len(key)+len(value))
		}
		return true
	})
	if err != nil {
		return t, fmt.Errorf("read the tables: %w", err)
	}
	return t, nil
}

func (t *tableSizes) set(key []byte, size int) {
	t.total += int64(size - t.entries[string(key)])
	if size == 0 {
		delete(t.entries, string(key))
		return
	}
	t.entries[string(key)] = size
}

// note follows the changes of a batch.
func (t *tableSizes) note(ops []engine.Op) {
	for _, op := range ops {
		switch {
		case op.Kind == engine.OpDeleteRange:
			for key := range t.entries {
				if key >= string(op.Key) && key < string(op.Value) {
					t.set([]byte(key), 0)
				}
			}
		case !ownTable(op.Key):
		case op.Kind == engine.OpPut:
			t.set(op.Key, len(op.Key)+len(op.Value))
		default:
			t.set(op.Key, 0)
		}
	}
}
