package robustness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"

	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	writers       = 8
	keysPerWriter = 20
	leaseSeconds  = 100_000 // no lease ends by itself within a test
)

// roundJournal is what one round's writers did.
type roundJournal struct {
	mu struct {
		sync.Mutex
		writes  []write
		granted map[int64]bool // acknowledged lease ids
		acks    int
	}
	killAt int           // acknowledged writes after which enough is closed
	enough chan struct{} // the moment to kill
}

func newRoundJournal(killAt int) *roundJournal {
	j := &roundJournal{killAt: killAt, enough: make(chan struct{})}
	j.mu.granted = map[int64]bool{}
	return j
}

func (j *roundJournal) add(w write) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.mu.writes = append(j.mu.writes, w)
	if w.acknowledged() {
		if j.mu.acks++; j.mu.acks == j.killAt {
			close(j.enough)
		}
	}
}

func (j *roundJournal) grant(id int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.mu.granted[id] = true
}

// writer writes until the server goes away; an answer that did not come leaves a write that may have happened.
type writer struct {
	name    string // unique over rounds: part of every key and value
	rng     *rand.Rand
	kv      pb.KVClient
	leases  pb.LeaseClient
	lease   int64 // 0 until granted
	present map[string]bool
	n       int
}

func newWriter(conn *grpc.ClientConn, seed uint64, round, i int) *writer {
	return &writer{
		name: fmt.Sprintf("r%d-w%d", round, i), rng: rand.New(rand.NewPCG(seed, uint64(round*writers+i))),
		kv: pb.NewKVClient(conn), leases: pb.NewLeaseClient(conn), present: map[string]bool{},
	}
}

// run returns with the first error, which the kill causes.
func (w *writer) run(ctx context.Context, j *roundJournal) error {
	for {
		var err error
		switch draw := w.rng.IntN(100); {
		case w.lease == 0:
			err = w.grant(ctx, j)
		case draw < 15:
			err = w.delete(ctx, j)
		case draw < 40:
			err = w.txn(ctx, j)
		default:
			err = w.put(ctx, j)
		}
		if err != nil {
			return err
		}
	}
}

func (w *writer) key() string { return fmt.Sprintf("%s/%d", w.name, w.rng.IntN(keysPerWriter)) }

func (w *writer) value() string {
	w.n++
	return fmt.Sprintf("%s:%d", w.name, w.n)
}

func (w *writer) grant(ctx context.Context, j *roundJournal) error {
	resp, err := w.leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: leaseSeconds})
	if err != nil {
		return err
	}
	w.lease = resp.ID
	j.grant(resp.ID)
	return nil
}

func (w *writer) put(ctx context.Context, j *roundJournal) error {
	op := write{keys: []string{w.key()}, value: w.value(), lease: []int64{0, w.lease}[w.rng.IntN(2)]}
	resp, err := w.kv.Put(ctx, &pb.PutRequest{Key: []byte(op.keys[0]), Value: []byte(op.value), Lease: op.lease})
	op.revision = resp.GetHeader().GetRevision()
	j.add(op)
	w.present[op.keys[0]] = true
	return err
}

func (w *writer) txn(ctx context.Context, j *roundJournal) error {
	value := w.value()
	op := write{keys: []string{w.name + "/pair", w.name + "/twin", w.key()}, value: value}
	req := &pb.TxnRequest{}
	for _, key := range op.keys {
		req.Success = append(req.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
			RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}}})
	}
	resp, err := w.kv.Txn(ctx, req)
	op.revision = resp.GetHeader().GetRevision()
	j.add(op)
	w.present[op.keys[2]] = true
	return err
}

func (w *writer) delete(ctx context.Context, j *roundJournal) error {
	op := write{keys: []string{w.key()}}
	resp, err := w.kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(op.keys[0])})
	if err == nil && resp.Deleted == 0 {
		if w.present[op.keys[0]] {
			return fmt.Errorf("delete %s: it was acknowledged, but there is nothing to delete", op.keys[0])
		}
		return nil
	}
	op.revision = resp.GetHeader().GetRevision()
	j.add(op)
	w.present[op.keys[0]] = false
	return err
}
