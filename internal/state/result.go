package state

import (
	"go.etcd.io/raft/v3/raftpb"

	"github.com/dolmen-io/dolmen/internal/alarm"
	"github.com/dolmen-io/dolmen/internal/auth"
	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/lease"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/mvcc"
	"github.com/dolmen-io/dolmen/internal/watch"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Entry is a committed log entry to apply.
type Entry struct {
	Index, Term uint64
	// Data is an encoded InternalRaftRequest; empty for the entry with which a leader begins its term.
	Data []byte
	// Request is Data decoded, when the proposer is this member and still has it, otherwise nil.
	Request *pb.InternalRaftRequest
	// Conf is set for a membership change instead of the two above.
	Conf *raftpb.ConfChange
}

// Turn is what became of some entries.
type Turn struct {
	// Outcomes are the results of the entries that carried a request ID, in order.
	Outcomes []Outcome
	// Events are the changes of keys in revision order.
	Events []watch.Event
	// Leases are the changes of leases in order.
	Leases []lease.Change
	// Auth is what tokens and cached passwords must follow, in order and before the outcomes are handed out.
	Auth []auth.Change
	// Confs are the membership changes, in order.
	Confs []consensus.ConfChange
	// OverQuota is the index of the last write that was applied although the space quota had no room for it, 0 for
	// none: whoever runs the member proposes the alarm that refuses the next ones on all members.
	OverQuota uint64
	// View is the state after the turn, already published.
	View *View
}

// Outcome is the result of the request with the given ID.
type Outcome struct {
	ID     uint64
	Result Result
}

// Result is what a request led to. The concrete type of Response belongs to the kind of request; it is
// nil when Err is set or the kind has nothing to say.
type Result struct {
	// Err is a rejection.
	Err error
	// Revision is the store's for the response header.
	Revision int64
	Response any
}

// PutResponse answers a put.
type PutResponse struct {
	// Prev is the encoded key-value that was replaced, nil if none or not asked for.
	Prev []byte
}

// DeleteResponse answers a delete of a range.
type DeleteResponse struct {
	Deleted int64
	// Prev are the encoded key-values that were deleted, if asked for.
	Prev [][]byte
}

// TxnResponse answers a transaction.
type TxnResponse struct {
	Succeeded bool
	Ops       []OpResponse
}

// OpResponse answers one operation inside a transaction. Exactly one field is set, none for an operation
// without content.
type OpResponse struct {
	Revision int64
	Range    *mvcc.RangeResult
	Put      *PutResponse
	Delete   *DeleteResponse
	Txn      *TxnResponse
}

// LeaseResponse answers a grant.
type LeaseResponse struct{ ID, TTL int64 }

// AlarmResponse answers an alarm request.
type AlarmResponse struct{ Alarms []alarm.Alarm }

// AuthStatusResponse answers whether authentication is on. Logging in is answered by an auth.Login.
type AuthStatusResponse struct {
	Enabled  bool
	Revision uint64
}

// NamesResponse answers with names in ascending order: users, roles, or the roles of a user.
type NamesResponse struct{ Names []string }

// PermissionsResponse answers with the permissions of a role by ascending key.
type PermissionsResponse struct{ Permissions []auth.Permission }

// MembersResponse answers a membership change with all members after it.
type MembersResponse struct{ Members []membership.Member }
