package sim

import (
	"errors"
	"fmt"
	"time"

	"github.com/dolmen-io/dolmen/internal/mvcc"
	"github.com/dolmen-io/dolmen/internal/state"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// patience is how long a client waits for an answer. It is shorter than consensus', so that some come too late.
const patience = 2 * time.Second

// kind is what an operation does.
type kind int

const (
	opGet kind = iota
	opStale
	opPut
	opDelete
	opSwap
	opRange
)

var kindNames = [...]string{"get", "get-serializable", "put", "delete", "swap", "range"}

// operation is one request of a client on a data key, as the client saw it.
type operation struct {
	client   int
	kind     kind
	key      string
	value    string // put or swapped in
	expect   string // by a swap, "" for a key that is not there
	invoked  time.Duration
	returned time.Duration
	known    bool // the outcome is
	request  uint64
	revision int64  // of the answer's header
	found    string // by a get, "" for nothing
	mod      int64  // of what was found
	swapped  bool
	removed  bool    // by a delete
	at       int64   // revision that a range is read at
	pairs    []found // by a range
	seen     int64   // the newest revision that any client had seen when this was asked for
}

// found is a key that a range has found.
type found struct {
	key, value string
	mod        int64
}

// client is one client of the cluster. It has one request at a time.
type client struct {
	*world
	number int
	at     *member // whom it asks
	busy   bool
	serial int
	again  *operation // to be asked for once more: nobody knows what became of it
	lease  heldLease
}

func (w *world) startClients() {
	for i := range w.shape.clients {
		c := &client{world: w, number: i, at: pick(w, w.members)}
		w.clients = append(w.clients, c)
		w.after(w.between(0, time.Second), c.next)
	}
}

// next begins the client's next request.
func (c *client) next() {
	if c.settled && c.lease.id == 0 {
		return
	}
	if c.busy {
		return
	}
	c.busy = true
	switch n := c.rng.IntN(100); {
	case c.settled || n < 15:
		c.useLease()
	case n < 16:
		c.compact()
	default:
		c.useData()
	}
}

// done ends a request. The next one follows after a while.
func (c *client) done() {
	c.busy = false
	think := c.between(time.Millisecond, 60*time.Millisecond)
	if c.result.Operations > wantOperations {
		think *= 10 // the seed waits for something else
	}
	c.after(think, c.next)
}

// call lets ask run at the client's member, and calls answered once: with an answer, or with none when patience has
// ended or the member's life has, and then what was asked may have happened or happen later.
func (c *client) call(ask func(m *member, reply func(func())), lost func()) {
	if c.at.gone || !c.at.up || c.chance(3) {
		c.at = c.someMember()
	}
	open := true
	end := func(run func()) {
		if open {
			open = false
			run()
			c.done()
		}
	}
	m, life := c.at, c.at.lives
	giveUp := func() {
		end(func() {
			lost()
			c.at = c.someMember()
		})
	}
	reply := func(run func()) { c.after(c.net.delay(), func() { end(run) }) }
	c.after(c.net.delay(), func() {
		if !m.up {
			giveUp()
			return
		}
		m.in(0, func() { ask(m, reply) })
		c.watchLife(m, life, &open, giveUp)
	})
	c.after(patience, giveUp)
}

// watchLife notices now and then that a member is gone, as a broken connection.
func (c *client) watchLife(m *member, life int, open *bool, lost func()) {
	c.after(200*time.Millisecond, func() {
		switch {
		case !*open:
		case !m.up || m.lives != life:
			lost()
		default:
			c.watchLife(m, life, open, lost)
		}
	})
}

// someMember returns a member to ask, one that is there if there is one.
func (w *world) someMember() *member {
	var there []*member
	for _, m := range w.members {
		if m.up && !m.gone {
			there = append(there, m)
		}
	}
	if len(there) == 0 {
		return pick(w, w.members)
	}
	return pick(w, there)
}

func dataKey(i int) string { return fmt.Sprintf("data/%d", i) }

// draw returns an operation, one that was lost again or a new one.
func (c *client) draw() *operation {
	if lost := c.again; lost != nil {
		c.again = nil
		return &operation{client: c.number, kind: lost.kind, key: lost.key, value: lost.value, expect: lost.expect}
	}
	c.serial++
	op := &operation{client: c.number, key: dataKey(c.rng.IntN(c.shape.keys)), value: fmt.Sprintf("c%d.%d", c.number, c.serial)}
	switch n := c.rng.IntN(100); {
	case n < 30:
		op.kind = opGet
	case n < 40:
		op.kind = opStale
	case n < 45:
		op.kind = opRange
	case n < 75:
		op.kind = opPut
	case n < 82:
		op.kind = opDelete
	default:
		op.kind, op.expect = opSwap, c.data.newestSeen(c.rng, op.key)
	}
	return op
}

// useData is one operation on data keys.
func (c *client) useData() {
	op := c.draw()
	op.invoked = c.now
	c.data.invoked(op)
	c.call(func(m *member, reply func(func())) {
		switch op.kind {
		case opGet, opStale, opRange:
			c.get(m, op, reply)
			return
		case opPut, opDelete, opSwap:
		}
		op.request = m.propose(op.proposal(), func(r state.Result, err error) {
			reply(func() { c.wrote(op, r, err) })
		})
	}, func() { c.lost(op) })
}

// proposal returns what an operation that writes proposes.
func (op *operation) proposal() *pb.InternalRaftRequest {
	put := &pb.PutRequest{Key: []byte(op.key), Value: []byte(op.value)}
	switch op.kind {
	case opPut:
		return &pb.InternalRaftRequest{Put: put}
	case opDelete:
		return &pb.InternalRaftRequest{DeleteRange: &pb.DeleteRangeRequest{Key: []byte(op.key)}}
	}
	is := &pb.Compare{Key: []byte(op.key), Result: pb.Compare_EQUAL, Target: pb.Compare_VALUE,
		TargetUnion: &pb.Compare_Value{Value: []byte(op.expect)}}
	if op.expect == "" {
		is.Target, is.TargetUnion = pb.Compare_CREATE, &pb.Compare_CreateRevision{}
	}
	return &pb.InternalRaftRequest{Txn: &pb.TxnRequest{Compare: []*pb.Compare{is},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: put}}}}}
}

// wrote notes the answer to a write. An error says that the request certainly was not carried out.
func (c *client) wrote(op *operation, r state.Result, err error) {
	if err == nil {
		err = r.Err
	}
	if err != nil {
		c.note("client %d: %s %s: %v", c.number, kindNames[op.kind], op.key, err)
		return
	}
	switch resp := r.Response.(type) {
	case *state.DeleteResponse:
		op.removed = resp.Deleted > 0
	case *state.TxnResponse:
		op.swapped = resp.Succeeded
	}
	op.revision = r.Revision
	c.answered(op)
}

// get reads a key, or all of them at a revision that is not long ago.
func (c *client) get(m *member, op *operation, reply func(func())) {
	m.read(op.kind != opStale && !c.options.breaks.staleReads, func(err error) {
		if err != nil {
			reply(func() {})
			return
		}
		v := m.state.View()
		defer v.Release()
		what := mvcc.RangeOptions{Key: []byte(op.key)}
		if op.kind == opRange {
			op.at = max(1, v.KV.Current()-c.rng.Int64N(40))
			what = mvcc.RangeOptions{Key: []byte("data/"), End: []byte("data0"), Revision: op.at}
		}
		res, err := v.KV.Range(what)
		switch {
		case errors.Is(err, mvcc.ErrCompacted):
			reply(func() {})
			return
		case err != nil:
			c.violated("failure", "%s cannot read %s: %v", m.name, op.key, err)
			return
		}
		op.revision = res.Revision
		for _, encoded := range res.KVs {
			kv, err := mvcc.DecodeKeyValue(encoded)
			if err != nil {
				c.violated("failure", "%s has read what is no key-value: %v", m.name, err)
			}
			op.pairs = append(op.pairs, found{string(kv.Key), string(kv.Value), kv.Mod})
		}
		if len(op.pairs) > 0 && op.kind != opRange {
			op.found, op.mod = op.pairs[0].value, op.pairs[0].mod
		}
		reply(func() { c.answered(op) })
	})
}

func (c *client) answered(op *operation) {
	op.known, op.returned = true, c.now
	c.result.Operations++
	c.note("client %d: %s %s %q at %d: %q %v", c.number, kindNames[op.kind], op.key, op.value, op.revision, op.found, op.swapped)
	c.data.answered(op)
}

func (c *client) lost(op *operation) {
	c.result.Unknown++
	c.note("client %d: %s %s %q: no answer", c.number, kindNames[op.kind], op.key, op.value)
	c.data.lost(op)
	if c.chance(50) {
		c.again = op
	}
}

// compact asks for a compaction a bit behind the newest revision.
func (c *client) compact() {
	c.call(func(m *member, reply func(func())) {
		current, compacted := m.state.Revisions()
		at := current - c.rng.Int64N(100)
		if at <= max(compacted, 1) {
			reply(func() {})
			return
		}
		m.propose(&pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{Revision: at}},
			func(state.Result, error) { reply(func() { c.result.Operations++ }) })
	}, func() { c.result.Unknown++ })
}
