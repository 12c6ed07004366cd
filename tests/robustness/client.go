package robustness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

const (
	// A generation of keys is used for a while, then the next: the history of a key stays short enough to be searched
	// for an order. Few keys at a time make clients meet.
	keysInGeneration = 5
	generationLength = 400 // operations of all clients

	// maxPause is the longest that a client waits between two operations. With it the load leaves the machine time for
	// the members.
	maxPause = 30 * time.Millisecond
)

func dataKey(generation, i int) string { return fmt.Sprintf("data/%06d/%d", generation, i) }

func markKey(client int) string { return fmt.Sprintf("mark/%d", client) }

// connect returns a client of some members, that sees members come and go only by its requests.
func connect(endpoints ...string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second, Logger: zap.NewNop(),
		DialKeepAliveTime: time.Second, DialKeepAliveTimeout: 2 * time.Second})
}

// client does one operation after the other, drawn from its seed, until it is told to end.
type client struct {
	number  int
	rng     *rand.Rand
	etcd    *clientv3.Client
	journal *journal
	started *atomic.Int64 // operations of all clients
	serial  int
	last    map[string]string // what it has seen last under the keys of this generation, for swaps that fit
	in      int               // the generation of last
}

func newClient(number int, seed uint64, etcd *clientv3.Client, j *journal, started *atomic.Int64) *client {
	return &client{number: number, rng: rand.New(rand.NewPCG(seed, uint64(number))), etcd: etcd, journal: j, started: started,
		last: map[string]string{}}
}

func (c *client) run(ctx context.Context) {
	for ctx.Err() == nil && !c.journal.full() {
		op := c.draw()
		// Some give up before a member would, so that answers come too late.
		patience := 500*time.Millisecond + time.Duration(c.rng.Int64N(int64(10*time.Second)))
		call, cancel := context.WithTimeout(ctx, patience)
		err := c.do(call, op)
		cancel()
		op.returned = c.journal.now()
		c.journal.add(op, err)
		c.learn(op, err)
		pause(ctx, time.Duration(c.rng.Int64N(int64(maxPause))))
	}
}

// pause waits for a while, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// draw makes the next operation.
func (c *client) draw() *operation {
	generation := int(c.started.Add(1) / generationLength)
	if generation != c.in {
		c.in = generation
		clear(c.last)
	}
	op := &operation{client: c.number, key: dataKey(generation, c.rng.IntN(keysInGeneration))}
	switch n := c.rng.IntN(100); {
	case n < 25:
		op.kind = opGet
	case n < 30:
		op.kind = opStale
	case n < 34:
		op.kind, op.key = opList, fmt.Sprintf("data/%06d/", generation)
	case n < 69:
		op.kind, op.prior = opPut, c.rng.IntN(2) == 0
	case n < 79:
		op.kind = opDelete
	default:
		op.kind = opSwap
		if c.rng.IntN(4) > 0 {
			op.expect = c.last[op.key]
		}
	}
	if op.writes() {
		c.serial++
		op.value = fmt.Sprintf("%d.%d", c.number, c.serial)
	}
	op.seen = c.journal.newest.Load()
	op.called = c.journal.now()
	return op
}

// do asks for an operation and fills in its answer.
func (c *client) do(ctx context.Context, op *operation) error {
	switch op.kind {
	case opPut:
		return op.put(ctx, c.etcd)
	case opDelete:
		return op.remove(ctx, c.etcd)
	case opSwap:
		return op.swap(ctx, c.etcd)
	}
	return op.read(ctx, c.etcd)
}

func (op *operation) read(ctx context.Context, etcd *clientv3.Client) error {
	var options []clientv3.OpOption
	switch op.kind {
	case opStale:
		options = append(options, clientv3.WithSerializable())
	case opList:
		options = append(options, clientv3.WithPrefix())
	}
	resp, err := etcd.Get(ctx, op.key, options...)
	if err != nil {
		return err
	}
	op.revision = resp.Header.Revision
	for _, kv := range resp.Kvs {
		if op.kind == opList {
			op.pairs = append(op.pairs, pair{string(kv.Key), string(kv.Value), kv.ModRevision})
		} else {
			op.found, op.mod = string(kv.Value), kv.ModRevision
		}
	}
	return nil
}

func (op *operation) put(ctx context.Context, etcd *clientv3.Client) error {
	var options []clientv3.OpOption
	if op.prior {
		options = append(options, clientv3.WithPrevKV())
	}
	if op.lease != 0 {
		options = append(options, clientv3.WithLease(clientv3.LeaseID(op.lease)))
	}
	resp, err := etcd.Put(ctx, op.key, op.value, options...)
	if err != nil {
		return err
	}
	op.revision = resp.Header.Revision
	if resp.PrevKv != nil {
		op.found, op.mod = string(resp.PrevKv.Value), resp.PrevKv.ModRevision
	}
	return nil
}

func (op *operation) remove(ctx context.Context, etcd *clientv3.Client) error {
	resp, err := etcd.Txn(ctx).Then(clientv3.OpDelete(op.key), clientv3.OpPut(markKey(op.client), op.value)).Commit()
	if err != nil {
		return err
	}
	op.revision = resp.Header.Revision
	op.removed = resp.Responses[0].GetResponseDeleteRange().Deleted > 0
	return nil
}

func (op *operation) swap(ctx context.Context, etcd *clientv3.Client) error {
	fits := clientv3.Compare(clientv3.Value(op.key), "=", op.expect)
	if op.expect == "" {
		fits = clientv3.Compare(clientv3.CreateRevision(op.key), "=", 0)
	}
	resp, err := etcd.Txn(ctx).If(fits).Then(clientv3.OpPut(op.key, op.value)).Else(clientv3.OpGet(op.key)).Commit()
	if err != nil {
		return err
	}
	op.revision, op.swapped = resp.Header.Revision, resp.Succeeded
	if !op.swapped {
		for _, kv := range resp.Responses[0].GetResponseRange().Kvs {
			op.found, op.mod = string(kv.Value), kv.ModRevision
		}
	}
	return nil
}

// learn remembers what is under a key now, for the next swap.
func (c *client) learn(op *operation, err error) {
	switch {
	case err != nil || op.kind == opList:
	case op.kind == opDelete:
		c.last[op.key] = ""
	case op.kind == opPut || op.swapped:
		c.last[op.key] = op.value
	default:
		c.last[op.key] = op.found
	}
}
