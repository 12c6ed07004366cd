package robustness

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// kind is what an operation does.
type kind int

const (
	opGet    kind = iota
	opStale       // a serializable get
	opList        // all keys of a generation
	opPut         // of a value that is unique in the whole run
	opDelete      // in a transaction that also puts a unique value under the client's own mark
	opSwap        // a transaction: put if the key has the expected value, else get
)

var kindNames = [...]string{"get", "stale get", "list", "put", "delete", "swap"}

func (k kind) String() string { return kindNames[k] }

// operation is one request of a client, as the client saw it. Times are since the run began.
type operation struct {
	client           int
	kind             kind
	key              string // of a list, the prefix
	value            string // that it writes: what tells its event from all others
	expect           string // by a swap, "" for a key that is not there
	lease            int64
	called, returned time.Duration
	known            bool // it was answered

	// The rest is the answer.
	revision int64
	found    string // by a get or a swap that did not fit; by a put that asked for it, what was there before. "" for nothing
	mod      int64  // of what was found
	prior    bool   // a put asked what was there before
	swapped  bool
	removed  bool   // by a delete
	pairs    []pair // by a list
	seen     int64  // the newest revision that any client had seen when this was called
}

// pair is a key that a list has found.
type pair struct {
	key, value string
	mod        int64
}

// writes says whether it may change something.
func (op *operation) writes() bool { return op.kind >= opPut }

// maxOperations bounds a journal: a run that gets there has its clients wait for the end.
const maxOperations = 1_000_000

// journal is what all clients of a run did. Its methods may run at once.
type journal struct {
	began  time.Time
	newest atomic.Int64 // revision that any client has seen
	// mayBeFull says that disks were filled on purpose: writes may be refused for that.
	mayBeFull atomic.Bool

	mu struct {
		sync.Mutex
		operations   []*operation
		acknowledged int            // writes
		failed       map[string]int // how often, by the text of the error
		forbidden    []string       // errors that a client should not get, the first few
	}
}

func newJournal() *journal {
	j := &journal{began: time.Now()}
	j.mu.failed = map[string]int{}
	return j
}

// now is the time of the run.
func (j *journal) now() time.Duration { return time.Since(j.began) }

// saw notes that a client knows of a revision.
func (j *journal) saw(revision int64) {
	for {
		newest := j.newest.Load()
		if revision <= newest || j.newest.CompareAndSwap(newest, revision) {
			return
		}
	}
}

// add notes an operation that has ended, and how.
func (j *journal) add(op *operation, err error) {
	if op.known = err == nil; op.known {
		j.saw(op.revision)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		j.fail(err)
	}
	if !op.known && !op.writes() {
		return
	}
	if op.known && op.writes() {
		j.mu.acknowledged++
	}
	j.mu.operations = append(j.mu.operations, op)
}

// failed notes an error of a request that is no operation.
func (j *journal) failed(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.fail(err)
}

// fail counts an error. The caller holds the lock.
func (j *journal) fail(err error) {
	text, retryable := describe(err)
	j.mu.failed[text]++
	retryable = retryable || j.mayBeFull.Load() && errors.Is(err, rpctypes.ErrNoSpace)
	if !retryable && len(j.mu.forbidden) < 10 {
		j.mu.forbidden = append(j.mu.forbidden, text)
	}
}

// full says that there is no room for more.
func (j *journal) full() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.mu.operations) >= maxOperations
}

// counts are how many operations there were, and how many of them were acknowledged writes.
func (j *journal) counts() (all, acknowledged int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.mu.operations), j.mu.acknowledged
}
