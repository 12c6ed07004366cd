// Package state is the replicated state machine: what every member does with a committed entry.
//
// A turn is some committed entries, applied in order: each is checked, executed against mvcc, leases,
// membership, alarms and users, and everything it changes goes into one engine batch together with the raft
// index it came from. The batch is committed, a new View is published, and only then does anybody learn
// of the turn: proposers by its outcomes, watchers by its events.
//
// Applying is deterministic. It knows no clock, no randomness and nothing that differs from member to
// member. An entry that cannot be carried out, because a lease is gone or an alarm is raised, is a
// rejection: a result like any other, the same everywhere. An error that Apply returns is a failure:
// this member's state is no longer known and it must stop.
package state

import "errors"

// Rejections. Packages below have their own.
var (
	// ErrKeyNotFound says that a put that keeps value or lease found no key.
	ErrKeyNotFound = errors.New("state: key not found")
	// ErrNoSpace says that a NOSPACE alarm is raised.
	ErrNoSpace = errors.New("state: the space quota is exceeded")
	// ErrCorrupt says that a CORRUPT alarm is raised.
	ErrCorrupt = errors.New("state: the data of a member is corrupt")
	// ErrUnknownAction says that an alarm request names no known action.
	ErrUnknownAction = errors.New("state: unknown alarm action")
)

// ErrReplaced says that what was read may be of two states: a snapshot of another member has come in between. Try again.
var ErrReplaced = errors.New("state: it was replaced by a snapshot of another member meanwhile")

// ErrUnknownRequest is a failure: the log holds a request that this version does not know. It was written
// by a newer version, or by an etcd.
var ErrUnknownRequest = errors.New("state: the log holds a request that this version does not know; start the version that wrote it, or a newer one")
