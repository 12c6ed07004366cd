package etcdapi

import (
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/pkg/v3/adt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func checkRange(r *pb.RangeRequest) error {
	if len(r.GetKey()) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	_, order := pb.RangeRequest_SortOrder_name[int32(r.GetSortOrder())]
	_, target := pb.RangeRequest_SortTarget_name[int32(r.GetSortTarget())]
	if !order || !target {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	return nil
}

func checkPut(r *pb.PutRequest) error {
	switch {
	case len(r.GetKey()) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.GetIgnoreValue() && len(r.GetValue()) != 0:
		return rpctypes.ErrGRPCValueProvided
	case r.GetIgnoreLease() && r.GetLease() != 0:
		return rpctypes.ErrGRPCLeaseProvided
	}
	return nil
}

func checkDelete(r *pb.DeleteRangeRequest) error {
	if len(r.GetKey()) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	return nil
}

// checkTxn checks shape and size: each level of nesting takes its longest list off the budget of
// operations that is left for the level below.
func checkTxn(r *pb.TxnRequest, budget int) error {
	ops := max(len(r.GetCompare()), len(r.GetSuccess()), len(r.GetFailure()))
	if ops > budget {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, c := range r.GetCompare() {
		if len(c.GetKey()) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	}
	for _, branch := range [][]*pb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		for _, op := range branch {
			if err := checkOp(op, budget-ops); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *pb.RequestOp, budget int) error {
	switch t := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		return checkRange(t.RequestRange)
	case *pb.RequestOp_RequestPut:
		return checkPut(t.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		return checkDelete(t.RequestDeleteRange)
	case *pb.RequestOp_RequestTxn:
		return checkTxn(t.RequestTxn, budget)
	}
	return rpctypes.ErrGRPCKeyNotFound // what etcd says of an operation without content
}

// written is what the operations of one branch write: the keys put and the ranges deleted.
type written struct {
	puts    map[string]struct{}
	deletes adt.IntervalTree
}

func (w *written) conflicts(key string) bool {
	return w.deletes.Intersects(adt.NewStringAffinePoint(key))
}

// put notes a put, unless the key is written already. mayRepeat holds keys that the other branch of the
// same nested transaction puts: only one of the two branches will run.
func (w *written) put(key string, mayRepeat map[string]struct{}) error {
	_, twice := w.puts[key]
	_, safe := mayRepeat[key]
	if twice && !safe || w.conflicts(key) {
		return rpctypes.ErrGRPCDuplicateKey
	}
	w.puts[key] = struct{}{}
	return nil
}

// checkConflicts refuses a branch that would write a key twice. What it sees and what it does not see
// (a delete to the end of the key space, for one) is etcd's, as is the interval tree that decides it.
func checkConflicts(ops []*pb.RequestOp) (*written, error) {
	w := &written{puts: map[string]struct{}{}, deletes: adt.NewIntervalTree()}
	for _, op := range ops {
		d := op.GetRequestDeleteRange()
		if d == nil {
			continue
		}
		interval := adt.NewStringAffinePoint(string(d.GetKey()))
		if len(d.GetRangeEnd()) != 0 {
			interval = adt.NewStringAffineInterval(string(d.GetKey()), string(d.GetRangeEnd()))
		}
		w.deletes.Insert(interval, struct{}{})
	}
	for _, op := range ops {
		if t := op.GetRequestTxn(); t != nil {
			if err := w.nest(t); err != nil {
				return nil, err
			}
		}
	}
	for _, op := range ops {
		if p := op.GetRequestPut(); p != nil {
			if err := w.put(string(p.GetKey()), nil); err != nil {
				return nil, err
			}
		}
	}
	return w, nil
}

func (w *written) nest(t *pb.TxnRequest) error {
	then, err := checkConflicts(t.GetSuccess())
	if err != nil {
		return err
	}
	otherwise, err := checkConflicts(t.GetFailure())
	if err != nil {
		return err
	}
	for key := range then.puts {
		if err := w.put(key, nil); err != nil {
			return err
		}
	}
	for key := range otherwise.puts {
		if err := w.put(key, then.puts); err != nil {
			return err
		}
	}
	everything := adt.NewStringAffineInterval("\x00", "")
	w.deletes.Union(then.deletes, everything)
	w.deletes.Union(otherwise.deletes, everything)
	return nil
}

// readOnly says whether all operations are ranges: then the transaction needs no log entry. A nested
// transaction counts as a write, whatever is in it.
func readOnly(r *pb.TxnRequest) bool {
	return allRanges(r, func(*pb.RangeRequest) bool { return true })
}

// serializable says whether no operation of a read-only transaction asks for a linearizable read.
func serializable(r *pb.TxnRequest) bool {
	return allRanges(r, func(r *pb.RangeRequest) bool { return r.GetSerializable() })
}

func allRanges(t *pb.TxnRequest, ok func(*pb.RangeRequest) bool) bool {
	for _, branch := range [][]*pb.RequestOp{t.GetSuccess(), t.GetFailure()} {
		for _, op := range branch {
			if r := op.GetRequestRange(); r == nil || !ok(r) {
				return false
			}
		}
	}
	return true
}
