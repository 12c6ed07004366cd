package state

import (
	"errors"
	"fmt"

	"github.com/dolmen-io/dolmen/internal/lease"
	"github.com/dolmen-io/dolmen/internal/mvcc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// failed wraps an error that is no rejection. Apply stops at it.
type failed struct{ error }

func (f failed) Unwrap() error { return f.error }

// rejection gives back the rejections that reading can end in, and marks everything else as a failure.
func rejection(err error) error {
	if err == nil || errors.Is(err, mvcc.ErrCompacted) || errors.Is(err, mvcc.ErrFuture) ||
		errors.Is(err, ErrKeyNotFound) || errors.Is(err, lease.ErrNotFound) {
		return err
	}
	return failed{err}
}

func (s *State) put(req *pb.PutRequest) (Result, error) {
	txn := s.store.Txn()
	if err := rejection(checkPut(txn, s.leases, req)); err != nil {
		return Result{}, err
	}
	res, err := s.putIn(txn, req)
	if err != nil {
		return Result{}, failed{err}
	}
	return Result{Revision: txn.End(), Response: res}, nil
}

// putIn executes a put that has been checked.
func (s *State) putIn(txn *mvcc.Txn, req *pb.PutRequest) (*PutResponse, error) {
	value, id := req.GetValue(), req.GetLease()
	if req.GetIgnoreValue() || req.GetIgnoreLease() {
		// The key existed before the transaction. If an earlier operation of it has deleted the key,
		// which only an open-ended delete can, there is nothing to keep.
		old, _, err := txn.Lookup(req.GetKey())
		if err != nil {
			return nil, err
		}
		kv, err := mvcc.DecodeKeyValue(old.KV)
		if err != nil {
			return nil, err
		}
		if req.GetIgnoreValue() {
			value = kv.Value
		}
		if req.GetIgnoreLease() {
			id = kv.LeaseID
		}
	}
	prev, err := txn.Put(req.GetKey(), value, id)
	if err != nil {
		return nil, err
	}
	if prev.Lease != id {
		if err := s.move(string(req.GetKey()), prev.Lease, id); err != nil {
			return nil, err
		}
	}
	res := &PutResponse{}
	if req.GetPrevKv() {
		res.Prev = prev.KV
	}
	return res, nil
}

// move attaches key to another lease; 0 stands for none. A lease that the key names but that does not
// exist is no failure: data taken over from elsewhere can have such keys.
func (s *State) move(key string, from, to int64) error {
	if from != 0 {
		if err := s.leases.Detach(from, key); err != nil && !errors.Is(err, lease.ErrNotFound) {
			return fmt.Errorf("detach %q from lease %x: %w", key, from, err)
		}
	}
	if to != 0 {
		if err := s.leases.Attach(to, key); err != nil && !errors.Is(err, lease.ErrNotFound) {
			return fmt.Errorf("attach %q to lease %x: %w", key, to, err)
		}
	}
	return nil
}

func (s *State) deleteRange(req *pb.DeleteRangeRequest) (Result, error) {
	txn := s.store.Txn()
	res, err := s.deleteIn(txn, req)
	if err != nil {
		return Result{}, failed{err}
	}
	return Result{Revision: txn.End(), Response: res}, nil
}

func (s *State) deleteIn(txn *mvcc.Txn, req *pb.DeleteRangeRequest) (*DeleteResponse, error) {
	deleted, err := txn.DeleteRange(req.GetKey(), req.GetRangeEnd())
	if err != nil {
		return nil, err
	}
	res := &DeleteResponse{Deleted: int64(len(deleted))}
	for _, d := range deleted {
		if d.Lease != 0 {
			if err := s.move(string(d.Key), d.Lease, 0); err != nil {
				return nil, err
			}
		}
		if req.GetPrevKv() {
			res.Prev = append(res.Prev, d.KV)
		}
	}
	return res, nil
}

func (s *State) txn(req *pb.TxnRequest) (Result, error) {
	txn := s.store.Txn()
	p, err := decide(txn, req)
	if err != nil {
		return Result{}, failed{err}
	}
	err = p.check(txn, s.leases, limits{s.store.Current(), s.store.Compacted()})
	if err = rejection(err); err != nil {
		return Result{}, err
	}
	res, err := s.execute(txn, p)
	if err != nil {
		// Some of it may have been executed. There is no way back from here.
		return Result{}, failed{err}
	}
	return Result{Revision: txn.End(), Response: res}, nil
}

func (s *State) execute(txn *mvcc.Txn, p *path) (*TxnResponse, error) {
	res := &TxnResponse{Succeeded: p.succeeded, Ops: make([]OpResponse, len(p.ops))}
	nested := p.nested
	for i, op := range p.ops {
		out := &res.Ops[i]
		var err error
		switch t := op.GetRequest().(type) {
		case *pb.RequestOp_RequestRange:
			var r mvcc.RangeResult
			r, err = txn.Range(RangeOptions(t.RequestRange))
			out.Range = &r
		case *pb.RequestOp_RequestPut:
			out.Put, err = s.putIn(txn, t.RequestPut)
		case *pb.RequestOp_RequestDeleteRange:
			out.Delete, err = s.deleteIn(txn, t.RequestDeleteRange)
		case *pb.RequestOp_RequestTxn:
			out.Txn, err = s.execute(txn, nested[0])
			nested = nested[1:]
		}
		if err != nil {
			return nil, err
		}
		out.Revision = txn.Revision()
	}
	return res, nil
}

func (s *State) compact(req *pb.CompactionRequest) (Result, error) {
	if err := s.store.Compact(req.GetRevision()); err != nil {
		return Result{}, err
	}
	return Result{Revision: s.store.Current()}, nil
}
