package state

import (
	"bytes"
	"cmp"
	"errors"

	"github.com/dolmen-io/dolmen/internal/lease"
	"github.com/dolmen-io/dolmen/internal/mvcc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// ranger reads the key space: a view for a transaction that only reads, the store's own transaction for
// one that writes.
type ranger interface {
	Range(o mvcc.RangeOptions) (mvcc.RangeResult, error)
}

// path is the way a transaction takes: which branch, and for each operation of that branch that is
// itself a transaction, the way that one takes. All compares are decided before anything is executed,
// against the state before the transaction.
type path struct {
	succeeded bool
	ops       []*pb.RequestOp
	nested    []*path
}

func decide(r ranger, req *pb.TxnRequest) (*path, error) {
	p := &path{succeeded: true, ops: req.GetSuccess()}
	for _, c := range req.GetCompare() {
		holds, err := compare(r, c)
		if err != nil {
			return nil, err
		}
		if !holds {
			p.succeeded, p.ops = false, req.GetFailure()
			break
		}
	}
	for _, op := range p.ops {
		if t, ok := op.GetRequest().(*pb.RequestOp_RequestTxn); ok {
			n, err := decide(r, t.RequestTxn)
			if err != nil {
				return nil, err
			}
			p.nested = append(p.nested, n)
		}
	}
	return p, nil
}

// compare says whether a compare holds for every key of its range, or for the zero key-value if the
// range is empty; a value never compares with a key that is not there.
func compare(r ranger, c *pb.Compare) (bool, error) {
	res, err := r.Range(mvcc.RangeOptions{Key: c.GetKey(), End: c.GetRangeEnd()})
	if err != nil {
		return false, err
	}
	if len(res.KVs) == 0 {
		return c.GetTarget() != pb.Compare_VALUE && compareOne(c, &mvcc.KeyValue{}), nil
	}
	for _, b := range res.KVs {
		kv, err := mvcc.DecodeKeyValue(b)
		if err != nil {
			return false, err
		}
		if !compareOne(c, &kv) {
			return false, nil
		}
	}
	return true, nil
}

// compareOne compares one key-value. A target without its value compares with zero, an unknown target
// as equal, and an unknown result holds.
func compareOne(c *pb.Compare, kv *mvcc.KeyValue) bool {
	order := 0
	switch c.GetTarget() {
	case pb.Compare_VALUE:
		order = bytes.Compare(kv.Value, c.GetValue())
	case pb.Compare_CREATE:
		order = cmp.Compare(kv.Create, c.GetCreateRevision())
	case pb.Compare_MOD:
		order = cmp.Compare(kv.Mod, c.GetModRevision())
	case pb.Compare_VERSION:
		order = cmp.Compare(kv.Ver, c.GetVersion())
	case pb.Compare_LEASE:
		order = cmp.Compare(kv.LeaseID, c.GetLease())
	}
	switch c.GetResult() {
	case pb.Compare_EQUAL:
		return order == 0
	case pb.Compare_NOT_EQUAL:
		return order != 0
	case pb.Compare_GREATER:
		return order > 0
	case pb.Compare_LESS:
		return order < 0
	}
	return true
}

// limits are the revisions that a transaction's ranges may name.
type limits struct{ current, compacted int64 }

// check refuses a transaction that could not run to its end: what it checks is checked before the first
// change, against the state before the transaction.
func (p *path) check(r ranger, leases *lease.Table, l limits) error {
	nested := p.nested
	for _, op := range p.ops {
		var err error
		switch t := op.GetRequest().(type) {
		case *pb.RequestOp_RequestRange:
			err = l.check(t.RequestRange.GetRevision())
		case *pb.RequestOp_RequestPut:
			err = checkPut(r, leases, t.RequestPut)
		case *pb.RequestOp_RequestTxn:
			err = nested[0].check(r, leases, l)
			nested = nested[1:]
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (l limits) check(rev int64) error {
	switch {
	case rev == 0:
		return nil
	case rev > l.current:
		return mvcc.ErrFuture
	case rev < l.compacted:
		return mvcc.ErrCompacted
	}
	return nil
}

func checkPut(r ranger, leases *lease.Table, put *pb.PutRequest) error {
	if put.GetLease() != 0 && !leases.Exists(put.GetLease()) {
		return lease.ErrNotFound
	}
	if !put.GetIgnoreValue() && !put.GetIgnoreLease() {
		return nil
	}
	res, err := r.Range(mvcc.RangeOptions{Key: put.GetKey(), CountOnly: true})
	if err == nil && res.Count == 0 {
		err = ErrKeyNotFound
	}
	return err
}

// RangeOptions returns what a range request asks for.
func RangeOptions(r *pb.RangeRequest) mvcc.RangeOptions {
	return mvcc.RangeOptions{
		Key: r.GetKey(), End: r.GetRangeEnd(), Revision: r.GetRevision(), Limit: r.GetLimit(),
		CountOnly: r.GetCountOnly(), KeysOnly: r.GetKeysOnly(),
		KeysLease: r.GetSortTarget() == pb.RangeRequest_VALUE,
		Order:     mvcc.SortOrder(r.GetSortOrder()), Target: mvcc.SortTarget(r.GetSortTarget()),
		MinMod: r.GetMinModRevision(), MaxMod: r.GetMaxModRevision(),
		MinCreate: r.GetMinCreateRevision(), MaxCreate: r.GetMaxCreateRevision(),
	}
}

// errWriteInRead says that a transaction that was taken for one that only reads has a write in it.
var errWriteInRead = errors.New("state: a transaction that only reads has a write in it")

// Txn runs a transaction whose operations are all ranges, on the view.
func (v *View) Txn(req *pb.TxnRequest) Result {
	p, err := decide(v.KV, req)
	if err == nil {
		err = p.check(v.KV, nil, limits{v.KV.Current(), v.KV.Compacted()})
	}
	if err != nil {
		return Result{Err: err}
	}
	res := &TxnResponse{Succeeded: p.succeeded}
	for _, op := range p.ops {
		t, ok := op.GetRequest().(*pb.RequestOp_RequestRange)
		if !ok {
			return Result{Err: errWriteInRead}
		}
		r, err := v.KV.Range(RangeOptions(t.RequestRange))
		if err != nil {
			return Result{Err: err}
		}
		res.Ops = append(res.Ops, OpResponse{Revision: r.Revision, Range: &r})
	}
	return Result{Revision: v.KV.Current(), Response: res}
}
