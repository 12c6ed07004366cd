// Package lease keeps leases: which exist, which keys hang on them, and when they run out.
//
// It is two passive parts. Table is the replicated one: the applier owns it, it changes only by applied
// entries, it is the same on every member and it knows no time. Expiry is the leader's: it knows when a
// lease runs out, hears of the table's changes as values, and says which leases are due. Neither has a
// goroutine or a clock; whoever runs a member asks and proposes.
//
//	applied entry -> Table -> []Change -> Expiry -> Expired, Checkpoints -> proposals -> applied entry
package lease

import (
	"errors"
	"time"
)

// MaxTTL is the largest time to live that can be granted, in seconds. Clients of etcd know this limit.
const MaxTTL = 9_000_000_000

var (
	// ErrNotFound says that no lease has the ID.
	ErrNotFound = errors.New("lease: not found")
	// ErrExists says that a lease with the ID is there already.
	ErrExists = errors.New("lease: already exists")
	// ErrTTLTooLarge says that more than MaxTTL was asked for.
	ErrTTLTooLarge = errors.New("lease: time to live is too large")
	// ErrNotPrimary says that this member does not lead, so it does not know when leases run out.
	ErrNotPrimary = errors.New("lease: this member is not the leader and keeps no expiry times")
	// ErrExpired says that the lease ran out and its revocation is on the way.
	ErrExpired = errors.New("lease: expired, revocation is pending")
	// ErrCorrupt says that a stored lease cannot be read. It is a failure: the member must stop.
	ErrCorrupt = errors.New("lease: stored lease is corrupt")
)

// Lease is what is replicated of a lease, its keys aside. Times are in seconds.
type Lease struct {
	ID  int64
	TTL int64
	// Remaining is the time that was left at the last checkpoint; 0 means none was made, and then TTL counts.
	Remaining int64
}

// left returns the time to live that a new leader starts from.
func (l Lease) left() time.Duration {
	if l.Remaining > 0 {
		return seconds(l.Remaining)
	}
	return seconds(l.TTL)
}

// seconds converts without overflow: MaxTTL fits a Duration, a stored value might not.
func seconds(s int64) time.Duration {
	return time.Duration(min(s, MaxTTL)) * time.Second
}

// ChangeKind says what happened to a lease.
type ChangeKind uint8

// The kinds of changes.
const (
	Granted ChangeKind = iota
	Revoked
	Checkpointed
)

// Change is one applied change of the table. For Revoked only the ID is set.
type Change struct {
	Kind  ChangeKind
	Lease Lease
}
