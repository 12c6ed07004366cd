package compat

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// txn draws a transaction with at most depth levels below it that changes no key twice. etcd's check for duplicates
// misses a delete without end, and a put in a nested transaction before a delete in a later one; both servers accept
// these, but etcd itself then ends with "range failed to find revision pair" once the revision is compacted. Scenarios
// cover them.
func (g *generator) txn(depth int) *pb.TxnRequest {
	r := &pb.TxnRequest{}
	nested := wantPuts
	if g.chance(30) {
		nested = wantDeletes
	}
	g.fillTxn(r, depth, wantBoth, nested)
	eachOp(r, func(o *pb.RequestOp) {
		if d := o.GetRequestDeleteRange(); d != nil && len(d.RangeEnd) == 1 && d.RangeEnd[0] == 0 {
			d.RangeEnd = []byte("\xff\xff")
		}
	})
	return r
}

// wanted says which changes a level of a transaction may make.
type wanted int

const (
	wantBoth wanted = iota
	wantPuts
	wantDeletes
)

// fillTxn draws compares and operations with the changes wanted at this level and on those below.
func (g *generator) fillTxn(r *pb.TxnRequest, depth int, here, below wanted) {
	for range g.rng.IntN(3) {
		r.Compare = append(r.Compare, g.compare())
	}
	for _, branch := range []*[]*pb.RequestOp{&r.Success, &r.Failure} {
		for range g.rng.IntN(4) {
			*branch = append(*branch, g.operation(depth, here, below))
		}
	}
}

func (g *generator) operation(depth int, here, below wanted) *pb.RequestOp {
	switch n := g.rng.IntN(100); {
	case n < 40 && here != wantDeletes:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: g.write()}}
	case n < 65:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: g.read()}}
	case n < 85 && here != wantPuts:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: g.deletion()}}
	case n < 86:
		return &pb.RequestOp{}
	case depth == 0:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: g.read()}}
	}
	nested := &pb.TxnRequest{}
	g.fillTxn(nested, depth-1, below, below)
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: nested}}
}

func (g *generator) compare() *pb.Compare {
	key, end := g.interval()
	c := &pb.Compare{Key: key, RangeEnd: end, Result: pb.Compare_CompareResult(g.rng.IntN(4)), Target: pb.Compare_CompareTarget(g.rng.IntN(5))}
	switch c.Target {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: g.rng.Int64N(4)}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: g.maybeRevision(70)}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: g.maybeRevision(70)}
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: g.value()}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: g.rng.Int64N(4)}
	}
	if g.chance(3) {
		c.TargetUnion = nil
	}
	return c
}

// eachOp calls f for every operation of r at any depth.
func eachOp(r *pb.TxnRequest, f func(*pb.RequestOp)) {
	for _, branch := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, o := range branch {
			f(o)
			if nested := o.GetRequestTxn(); nested != nil {
				eachOp(nested, f)
			}
		}
	}
}
