package compat

import (
	"fmt"
	"math"
	"math/rand/v2"

	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// generator makes a sequence of steps from a seed. It looks at no answers, so that a sequence exists before it runs;
// keys, leases and watch ids are few, so that operations meet each other.
type generator struct {
	rng *rand.Rand
	n   int // values written so far, which makes them unique
}

var (
	someKeys  = []string{"a", "aa", "ab", "b", "ba", "c", "d", "e", "\x00", "\xff"}
	leaseIDs  = []int64{1, 2, 3, 4, 5}
	streamSet = []string{"A", "B", "C"}
)

// futureStream takes the watches that start in the future: until then no progress can be asked for on their stream.
const futureStream = "F"

// generate returns steps steps and a closing part that makes both servers show all they hold.
func generate(seed uint64, steps int, restarts bool) []Step {
	g := &generator{rng: rand.New(rand.NewPCG(seed, 0xd01e))}
	out := make([]Step, 0, steps)
	for len(out) < steps {
		out = append(out, g.step(restarts))
	}
	return append(out, closing()...)
}

// closing writes past every future start, then reads the whole store at many revisions.
func closing() []Step {
	var out []Step
	unary := func(name string, req proto.Message) { out = append(out, Step{Op: name, Req: req}) }
	for i := range 6 {
		unary("Put", &pb.PutRequest{Key: []byte("closing"), Value: fmt.Append(nil, i)})
	}
	out = append(out, Step{Op: opSettle})
	for back := range int64(30) {
		unary("Range", &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: currentBase - back*back})
	}
	unary(opRangeStream, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	unary("LeaseLeases", &pb.LeaseLeasesRequest{})
	for _, id := range leaseIDs {
		unary("LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
	}
	out = append(out, Step{Op: opWatchCreate, Stream: "Z", Req: &pb.WatchCreateRequest{
		Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: compactedBase + 1, PrevKv: true}}, Step{Op: opSettle})
	return out
}

// step draws one step; the weights are chances in a thousand.
func (g *generator) step(restarts bool) Step {
	draw := g.rng.IntN(1000)
	for _, choice := range []struct {
		weight int
		make   func() Step
	}{
		{1, func() Step {
			if restarts {
				return Step{Op: opRestart}
			}
			return Step{Op: opSettle}
		}},
		{9, func() Step { return Step{Op: opSettle} }},
		{15, func() Step { return Step{Op: "Compact", Req: g.compaction()} }},
		{20, func() Step { return Step{Op: "LeaseGrant", Req: g.grant()} }},
		{15, func() Step { return Step{Op: "LeaseRevoke", Req: &pb.LeaseRevokeRequest{ID: g.lease()}} }},
		{15, func() Step { return Step{Op: opKeepAlive, Req: &pb.LeaseKeepAliveRequest{ID: g.lease()}} }},
		{20, func() Step {
			return Step{Op: "LeaseTimeToLive", Req: &pb.LeaseTimeToLiveRequest{ID: g.lease(), Keys: g.chance(80)}}
		}},
		{10, func() Step { return Step{Op: "LeaseLeases", Req: &pb.LeaseLeasesRequest{}} }},
		{30, g.watchCreate},
		{15, func() Step {
			return Step{Op: opWatchCancel, Stream: g.stream(), Req: &pb.WatchCancelRequest{WatchId: g.rng.Int64N(12)}}
		}},
		{200, func() Step { return Step{Op: "Range", Req: g.read()} }},
		{25, func() Step { return Step{Op: opRangeStream, Req: g.streamRead()} }},
		{90, func() Step { return Step{Op: "DeleteRange", Req: g.deletion()} }},
		{255, func() Step { return Step{Op: "Put", Req: g.write()} }},
		{1000, func() Step { return Step{Op: "Txn", Req: g.txn(2)} }},
	} {
		if draw < choice.weight {
			return choice.make()
		}
		draw -= choice.weight
	}
	return Step{Op: opSettle}
}

// chance is true in percent of a hundred draws.
func (g *generator) chance(percent int) bool { return g.rng.IntN(100) < percent }

func (g *generator) key() []byte {
	if g.chance(1) {
		return nil
	}
	return []byte(someKeys[g.rng.IntN(len(someKeys))])
}

// interval returns a key and, mostly, nothing or an end; sometimes the end is before the key.
func (g *generator) interval() (key, end []byte) {
	switch key = g.key(); g.rng.IntN(10) {
	case 0:
		return key, []byte{0}
	case 1:
		return []byte{0}, []byte{0}
	case 2, 3, 4:
		end = g.key()
		if string(end) < string(key) && g.chance(80) {
			key, end = end, key
		}
		return key, end
	}
	return key, nil
}

// revision draws around the borders that matter: current, compacted, and none.
func (g *generator) revision() int64 {
	switch g.rng.IntN(8) {
	case 0:
		return currentBase - g.rng.Int64N(4)
	case 1, 2:
		return currentBase - g.rng.Int64N(40)
	case 3:
		return compactedBase + g.rng.Int64N(5) - 2
	case 4:
		return compactedBase + g.rng.Int64N(30)
	case 5:
		return currentBase + g.rng.Int64N(3)
	case 6:
		return g.rng.Int64N(20)
	}
	return -g.rng.Int64N(3)
}

func (g *generator) maybeRevision(percent int) int64 {
	if g.chance(percent) {
		return g.revision()
	}
	return 0
}

func (g *generator) lease() int64 {
	if g.chance(4) {
		return 99 // never granted
	}
	return leaseIDs[g.rng.IntN(len(leaseIDs))]
}

// grant gives every id a time to live of its own, so that their order by remaining time is defined.
func (g *generator) grant() *pb.LeaseGrantRequest {
	id := leaseIDs[g.rng.IntN(len(leaseIDs))]
	seconds := 100_000 + 10_000*id
	if g.chance(3) {
		seconds = 9_000_000_001
	}
	return &pb.LeaseGrantRequest{ID: id, TTL: seconds}
}

func (g *generator) compaction() *pb.CompactionRequest {
	revision := currentBase - g.rng.Int64N(60)
	switch g.rng.IntN(6) {
	case 0:
		revision = compactedBase + g.rng.Int64N(3) - 1
	case 1:
		revision = currentBase + g.rng.Int64N(3) - 1
	}
	return &pb.CompactionRequest{Revision: revision, Physical: g.chance(50)}
}

func (g *generator) read() *pb.RangeRequest {
	key, end := g.interval()
	r := &pb.RangeRequest{Key: key, RangeEnd: end, Revision: g.maybeRevision(35),
		Serializable: g.chance(30), KeysOnly: g.chance(20), CountOnly: g.chance(10)}
	if g.chance(40) {
		r.Limit = g.rng.Int64N(6) - 1
		if g.chance(5) {
			r.Limit = math.MaxInt64
		}
	}
	if g.chance(40) {
		r.SortOrder = pb.RangeRequest_SortOrder(g.rng.IntN(3))
		r.SortTarget = pb.RangeRequest_SortTarget(g.rng.IntN(5))
	}
	if g.chance(20) {
		r.MinModRevision, r.MaxModRevision = g.maybeRevision(50), g.maybeRevision(50)
		r.MinCreateRevision, r.MaxCreateRevision = g.maybeRevision(50), g.maybeRevision(50)
	}
	if g.chance(1) {
		r.SortOrder = 7
	}
	return r
}

// streamRead leaves out the orders that etcd's stream refuses or garbles, mostly.
func (g *generator) streamRead() *pb.RangeRequest {
	r := g.read()
	if r.SortTarget != pb.RangeRequest_KEY && r.SortOrder == pb.RangeRequest_NONE {
		r.SortTarget = pb.RangeRequest_KEY
	}
	return r
}

func (g *generator) value() []byte {
	g.n++
	if g.chance(30) {
		return fmt.Append(nil, g.rng.IntN(3)) // equal values, for compares and sorting
	}
	return fmt.Append(nil, "v", g.n)
}

func (g *generator) write() *pb.PutRequest {
	r := &pb.PutRequest{Key: g.key(), Value: g.value(), PrevKv: g.chance(30)}
	if g.chance(25) {
		r.Lease = g.lease()
	}
	if g.chance(8) {
		r.IgnoreValue = true
		if g.chance(90) {
			r.Value = nil
		}
	}
	if g.chance(8) {
		r.IgnoreLease = true
		if g.chance(90) {
			r.Lease = 0
		}
	}
	return r
}

func (g *generator) deletion() *pb.DeleteRangeRequest {
	key, end := g.interval()
	return &pb.DeleteRangeRequest{Key: key, RangeEnd: end, PrevKv: g.chance(40)}
}

func (g *generator) stream() string {
	if g.chance(20) {
		return futureStream
	}
	return streamSet[g.rng.IntN(len(streamSet))]
}

func (g *generator) watchCreate() Step {
	key, end := g.interval()
	r := &pb.WatchCreateRequest{Key: key, RangeEnd: end, PrevKv: g.chance(50), Fragment: g.chance(30), ProgressNotify: g.chance(20)}
	if g.chance(50) {
		r.WatchId = g.rng.Int64N(12)
	}
	for _, f := range []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT, pb.WatchCreateRequest_NODELETE} {
		if g.chance(12) {
			r.Filters = append(r.Filters, f)
		}
	}
	stream := g.stream()
	switch {
	case stream == futureStream:
		// The previous value is read when the event is sent; nothing says when that is on a stream without progress.
		r.StartRevision, r.PrevKv = currentBase+1+g.rng.Int64N(5), false
	case g.chance(25):
		r.StartRevision = min(g.revision(), currentBase)
		if r.StartRevision > 0 && r.StartRevision < currentBase-relativeReach {
			r.StartRevision = compactedBase - 1 // small numbers may lie in the future
		}
	case g.chance(15):
		r.StartRevision = compactedBase + g.rng.Int64N(4) - 2
	}
	return Step{Op: opWatchCreate, Stream: stream, Req: r}
}

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
