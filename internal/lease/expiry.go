package lease

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"time"
)

// Options of Expiry. A zero field gets its default.
type Options struct {
	// RevokeRate is how many leases a second may run out after a change of leader before they are
	// spread out. Default 1000, as in etcd.
	RevokeRate int
	// RetryAfter is how long an expired lease that is still there is not reported again: the time a
	// proposal to revoke it may take. Default 7 s, the deadline of a proposal at default timeouts.
	RetryAfter time.Duration
	// CheckpointEvery is how often the time left of a lease is written down, and the time to live from
	// which on it is. Default 5 min, as in etcd.
	CheckpointEvery time.Duration
}

func (o Options) withDefaults() Options {
	o.RevokeRate = cmp.Or(o.RevokeRate, 1000)
	o.RetryAfter = cmp.Or(o.RetryAfter, 7*time.Second)
	o.CheckpointEvery = cmp.Or(o.CheckpointEvery, 5*time.Minute)
	return o
}

// forever is the expiry of leases on a member that does not lead.
const forever = time.Duration(math.MaxInt64)

// Expiry knows when leases run out. It follows the table's changes on every member, but only between
// Promote and Demote does it have times; the leader is the only one to judge them.
//
// All methods may be called from any goroutine. Each takes the time it is judged by; a clock that steps
// back only makes leases live longer. Work is O(log n) a lease touched, except Promote and All, which
// visit all leases.
type Expiry struct {
	opts Options
	base time.Time // what item times count from: it keeps the monotonic clock and halves an item's times

	mu struct {
		sync.Mutex
		primary     bool
		leases      map[int64]*item
		expire      queue
		checkpoints queue
		// waiting has a channel for every expired lease that somebody tried to renew; it is closed when
		// the lease is revoked or this member stops leading.
		waiting map[int64]chan struct{}
	}
}

// NewExpiry returns an Expiry without leases, not primary. now is any time not after the first one used.
func NewExpiry(opts Options, now time.Time) *Expiry {
	e := &Expiry{opts: opts.withDefaults(), base: now}
	e.mu.leases = make(map[int64]*item)
	e.dropQueues()
	return e
}

func (e *Expiry) dropQueues() {
	e.mu.expire = queue{kind: expiring}
	e.mu.checkpoints = queue{kind: checkpointing}
	for _, c := range e.mu.waiting {
		close(c)
	}
	e.mu.waiting = make(map[int64]chan struct{})
}

// since returns now as item times count it.
func (e *Expiry) since(now time.Time) time.Duration { return now.Sub(e.base) }

// Apply takes over the changes of a turn, in the order they were applied.
func (e *Expiry) Apply(changes []Change, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	at := e.since(now)
	for _, c := range changes {
		switch c.Kind {
		case Granted:
			e.revoked(c.Lease.ID) // a table that is loaded anew reports leases that are known here
			it := &item{Lease: c.Lease, expiry: forever}
			e.mu.leases[it.ID] = it
			if e.mu.primary {
				e.schedule(it, after(at, it.left()))
				e.scheduleCheckpoint(it, at)
			}
		case Revoked:
			e.revoked(c.Lease.ID)
		case Checkpointed:
			if it := e.mu.leases[c.Lease.ID]; it != nil {
				it.Remaining = c.Lease.Remaining
				if it.Remaining > 0 {
					it.noting = max(it.noting-1, 0)
				}
				if e.mu.primary {
					e.scheduleCheckpoint(it, at)
				}
			}
		}
	}
}

// Replace takes over a table that was loaded anew, as its first Changes tell it: leases that are not in it are gone.
func (e *Expiry) Replace(loaded []Change, now time.Time) {
	known := make(map[int64]bool, len(loaded))
	for _, c := range loaded {
		known[c.Lease.ID] = true
	}
	e.mu.Lock()
	for id := range e.mu.leases {
		if !known[id] {
			e.revoked(id)
		}
	}
	e.mu.Unlock()
	e.Apply(loaded, now)
}

func (e *Expiry) revoked(id int64) {
	it := e.mu.leases[id]
	if it == nil {
		return
	}
	delete(e.mu.leases, id)
	e.mu.expire.remove(it)
	e.mu.checkpoints.remove(it)
	if c := e.mu.waiting[id]; c != nil {
		close(c)
		delete(e.mu.waiting, id)
	}
}

func (e *Expiry) schedule(it *item, expiry time.Duration) {
	it.expiry = expiry
	e.mu.expire.set(it, expiry)
}

// scheduleCheckpoint queues the next checkpoint of a lease that is worth one: what is left when a
// shorter one would be written down is less than the checkpoint's own period.
func (e *Expiry) scheduleCheckpoint(it *item, at time.Duration) {
	if it.left() > e.opts.CheckpointEvery {
		e.mu.checkpoints.set(it, after(at, e.opts.CheckpointEvery))
		return
	}
	e.mu.checkpoints.remove(it)
}

// after adds without overflow: MaxTTL is 97 % of what a Duration holds.
func after(at, d time.Duration) time.Duration {
	if at > forever-1-d {
		return forever - 1
	}
	return at + d
}

// Promote starts the clock of all leases: each gets the time that was left at its last checkpoint, or
// its whole time to live, plus extend, so that no lease suffers from the time without a leader. Where
// more leases than the revoke rate would run out in one second, the later ones get more time.
func (e *Expiry) Promote(now time.Time, extend time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dropQueues()
	e.mu.primary = true
	at := e.since(now)
	items := make([]*item, 0, len(e.mu.leases))
	for _, it := range e.mu.leases {
		it.expiry = after(after(at, it.left()), extend)
		it.noting = 0 // what was proposed before this term is applied by now, or lost
		items = append(items, it)
	}
	slices.SortFunc(items, byExpiry)
	if len(items) >= e.opts.RevokeRate {
		e.spread(items)
	}
	for _, it := range items {
		e.schedule(it, it.expiry) // ascending, so each stays where it is appended
		e.scheduleCheckpoint(it, at)
	}
}

// spread moves expiries apart, the idea of etcd's lessor: in a window of at least a second no more run
// out than three quarters of the revoke rate, which leaves room for those that expire in their own time.
// items are sorted by expiry and remain so; no lease loses time.
func (e *Expiry) spread(items []*item) {
	rate := max(1, 3*e.opts.RevokeRate/4)
	base := items[0].expiry
	end := after(base, time.Second)
	n := 0
	for _, it := range items {
		if it.expiry > end {
			base, end, n = it.expiry, after(it.expiry, time.Second), 1
			continue
		}
		n++
		if n > rate {
			it.expiry = max(it.expiry, after(base, time.Duration(float64(time.Second)*float64(n)/float64(rate))))
			end = max(end, it.expiry)
		}
	}
}

// Demote forgets all times and lets those go who wait for a revocation.
func (e *Expiry) Demote() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.primary = false
	e.dropQueues()
}

// Renewal is the answer to a keep-alive.
type Renewal struct {
	// TTL is the time to live that starts over, in seconds.
	TTL int64
	// ClearCheckpoint says that an older checkpoint is stored, or on its way through the log. The caller
	// proposes a checkpoint of 0 seconds, waits for it, and calls Renew again, until this is not set, before
	// it answers the client: the next leader would start from the older, shorter time otherwise. (etcd does
	// not look at those on their way.)
	ClearCheckpoint bool
	// Settled is set with ErrExpired only. It is closed when the lease is revoked or this member stops
	// leading; then Renew says which.
	Settled <-chan struct{}
}

// Renew starts a lease's time to live over.
//
// Errors: ErrNotPrimary; ErrNotFound; ErrExpired for a lease that ran out but is not revoked yet: it
// cannot be saved any more, and the caller waits for Settled and calls again.
func (e *Expiry) Renew(id int64, now time.Time) (Renewal, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.mu.primary {
		return Renewal{}, ErrNotPrimary
	}
	it := e.mu.leases[id]
	if it == nil {
		return Renewal{}, ErrNotFound
	}
	at := e.since(now)
	if it.expiry <= at {
		c := e.mu.waiting[id]
		if c == nil {
			c = make(chan struct{})
			e.mu.waiting[id] = c
		}
		return Renewal{Settled: c}, ErrExpired
	}
	e.schedule(it, after(at, seconds(it.TTL)))
	return Renewal{TTL: it.TTL, ClearCheckpoint: it.Remaining > 0 || it.noting > 0}, nil
}

// Remaining returns the time a lease has left, negative when it ran out and is not revoked yet, and its
// granted time to live in seconds. Errors: ErrNotPrimary, ErrNotFound.
func (e *Expiry) Remaining(id int64, now time.Time) (left time.Duration, granted int64, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.mu.primary {
		return 0, 0, ErrNotPrimary
	}
	it := e.mu.leases[id]
	if it == nil {
		return 0, 0, ErrNotFound
	}
	return it.expiry - e.since(now), it.TTL, nil
}

// Expired returns up to limit leases that ran out, the longest overdue first. Each is returned again
// only after Options.RetryAfter. It returns none while this member does not lead.
func (e *Expiry) Expired(now time.Time, limit int) []int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	at := e.since(now)
	var ids []int64
	q := &e.mu.expire
	for len(ids) < limit && len(q.items) > 0 && q.items[0].at[expiring] <= at {
		it := q.items[0]
		ids = append(ids, it.ID)
		q.set(it, after(at, max(e.opts.RetryAfter, 1)))
	}
	return ids
}

// Checkpoint is the time a lease has left, in whole seconds rounded up.
type Checkpoint struct {
	ID        int64
	Remaining int64
}

// Checkpoints returns up to limit checkpoints that are due. A checkpoint that is then not applied is
// due again after Options.CheckpointEvery. It returns none while this member does not lead.
func (e *Expiry) Checkpoints(now time.Time, limit int) []Checkpoint {
	e.mu.Lock()
	defer e.mu.Unlock()
	at := e.since(now)
	var due []Checkpoint
	q := &e.mu.checkpoints
	for len(due) < limit && len(q.items) > 0 && q.items[0].at[checkpointing] <= at {
		it := q.items[0]
		left := it.expiry - at
		if left <= 0 {
			q.remove(it)
			continue
		}
		q.set(it, after(at, max(e.opts.CheckpointEvery, 1)))
		// Just renewed, or extended past its time to live by Promote: there is nothing to note.
		if r := 1 + int64((left-1)/time.Second); r < it.TTL {
			due = append(due, Checkpoint{ID: it.ID, Remaining: r})
			it.noting++
		}
	}
	return due
}

// Dropped takes back checkpoints that Checkpoints has returned and that certainly never come into the log. What a
// leader that loses its office does not know of, Promote makes good.
func (e *Expiry) Dropped(checkpoints []Checkpoint) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range checkpoints {
		if it := e.mu.leases[c.ID]; it != nil {
			it.noting = max(it.noting-1, 0)
		}
	}
}

// All returns the IDs of all leases, the one with the least time left first, those with equal time by
// ID. On a member that does not lead they are ordered by ID.
func (e *Expiry) All() []int64 {
	e.mu.Lock()
	type due struct {
		id     int64
		expiry time.Duration
	}
	all := make([]due, 0, len(e.mu.leases))
	for _, it := range e.mu.leases {
		d := due{it.ID, it.expiry}
		if !e.mu.primary {
			d.expiry = forever
		}
		all = append(all, d)
	}
	e.mu.Unlock()
	slices.SortFunc(all, func(a, b due) int {
		return cmp.Or(cmp.Compare(a.expiry, b.expiry), cmp.Compare(a.id, b.id))
	})
	ids := make([]int64, len(all))
	for i, d := range all {
		ids[i] = d.id
	}
	return ids
}

// Len returns the number of leases.
func (e *Expiry) Len() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.mu.leases)
}

// byExpiry spells cmp.Or out: with a million leases a promotion is mostly this function.
func byExpiry(a, b *item) int {
	switch {
	case a.expiry < b.expiry:
		return -1
	case a.expiry > b.expiry:
		return 1
	}
	return cmp.Compare(a.ID, b.ID)
}
