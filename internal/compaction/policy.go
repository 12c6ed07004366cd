// Package compaction says when to compact and up to which revision, as etcd's automatic compaction does.
// It is policy only: whoever runs a member asks at regular times, proposes, and reports what came of it.
package compaction

import "time"

// Policy is one way to decide. It belongs to one goroutine.
type Policy interface {
	// Every is the time between two calls of Due.
	Every() time.Duration
	// Due is told the time and the current revision, and returns the revision to compact to now. may says
	// whether this member is to compact, which is the leader's work; the others only keep watching.
	Due(now time.Time, current int64, may bool) (revision int64, due bool)
	// Done says that the store is compacted up to revision. When a compaction has failed it is not called,
	// and the next Due tries again.
	Done(now time.Time, revision int64)
}

const (
	// samples is how many times a window is divided, so how often a revision is noted; etcd's figure.
	samples = 10
	// longestWindow is the longest time between two compactions, whatever is kept; etcd's figure.
	longestWindow = time.Hour
	// shortestEvery keeps a retention of nanoseconds from keeping a processor busy.
	shortestEvery = time.Millisecond
	// revisionEvery is how often compacting by revision looks, etcd's figure.
	revisionEvery = 5 * time.Minute
)

// Periodic keeps what was current within a period: it notes the revision ten times a window, which is the
// period but at most an hour, and once a window compacts to the one noted a period ago. The first compaction
// comes after one whole period, since nothing is known of the time before the start.
type Periodic struct {
	period, every time.Duration
	keep          int // of the notes
	notes         []int64
	wait          time.Duration
	last          time.Time
	done          int64
}

// NewPeriodic returns the policy for a period above 0, begun at a time when the store was at current.
func NewPeriodic(period time.Duration, now time.Time, current int64) *Periodic {
	every := max(min(period, longestWindow)/samples, shortestEvery)
	return &Periodic{
		period: period, every: every, keep: int(period/every) + 1,
		notes: []int64{current}, wait: period, last: now,
	}
}

// Every implements Policy.
func (p *Periodic) Every() time.Duration { return p.every }

// Due implements Policy.
func (p *Periodic) Due(now time.Time, current int64, may bool) (revision int64, due bool) {
	revision = p.notes[0]
	due = may && now.Sub(p.last) >= p.wait && revision != p.done
	p.notes = append(p.notes, current)
	if len(p.notes) > p.keep {
		p.notes = p.notes[1:]
	}
	if due {
		p.wait = min(p.period, longestWindow)
	}
	return revision, due
}

// Done implements Policy.
func (p *Periodic) Done(now time.Time, revision int64) { p.last, p.done = now, revision }

// Revisions keeps a number of revisions.
type Revisions struct {
	retention, done int64
}

// NewRevisions returns the policy for a retention above 0.
func NewRevisions(retention int64) *Revisions { return &Revisions{retention: retention} }

// Every implements Policy.
func (*Revisions) Every() time.Duration { return revisionEvery }

// Due implements Policy.
func (r *Revisions) Due(_ time.Time, current int64, may bool) (revision int64, due bool) {
	revision = current - r.retention
	return revision, may && revision > 0 && revision != r.done
}

// Done implements Policy.
func (r *Revisions) Done(_ time.Time, revision int64) { r.done = revision }
