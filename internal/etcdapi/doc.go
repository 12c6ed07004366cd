// Package etcdapi is the etcd v3 gRPC services: each method validates its request, calls down and turns
// what comes back, errors included, into what etcd's clients expect. It holds no state.
//
// The hot answers are not built as protobuf messages. Key-values are kept encoded, so an answer is a
// header and some lengths around shared bytes; see wire.go.
package etcdapi

import (
	"context"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/dolmen-io/dolmen/internal/auth"
	"github.com/dolmen-io/dolmen/internal/state"
	"github.com/dolmen-io/dolmen/internal/watch"
)

// Member is the running member as the services need it.
type Member interface {
	// Header returns who answers and in which term of raft.
	Header() Header

	// Read returns the newest view, which the caller releases. A linearizable read sees every write that
	// was acknowledged anywhere before the call. Errors: ErrTimeout, consensus.ErrLeaderChanged,
	// consensus.ErrStopped or the context's.
	Read(ctx context.Context, linearizable bool) (*state.View, error)

	// Propose hands a request to the log and returns what applying it led to. Its header says in whose name
	// and gets an ID here. The request must not be changed afterwards. Besides the result's own Err, which says that the request was rejected, an
	// error says that the outcome is not known or that there was none: ErrTooLarge, consensus.ErrBusy,
	// ErrTimeout and its kinds, ErrCanceled, consensus.ErrStopped, or context.DeadlineExceeded without a leader.
	Propose(ctx context.Context, req *etcdserverpb.InternalRaftRequest) (state.Result, error)

	// Compacted returns when the removal that compacting to the revision calls for is complete.
	Compacted(ctx context.Context, revision int64) error

	// Await returns when the entry at an index is applied on this member. Errors: ErrTimeout,
	// consensus.ErrStopped or the context's.
	Await(ctx context.Context, index uint64) error

	// Users returns the newest users and roles.
	Users() *auth.View

	// Status returns figures about the member.
	Status() Status
}

// Leases answers what does not go through the log.
type Leases interface {
	// Renew begins a lease's time anew and returns how long that is in seconds, 0 for a lease that is not
	// there.
	Renew(ctx context.Context, id int64) (ttl int64, err error)
	// TimeToLive returns what remains of a lease, ErrLeaseGone for one that is not there.
	TimeToLive(ctx context.Context, id int64) (LeaseTime, error)
	// IDs returns all leases, the one that ends first first.
	IDs() []int64
	// CheckKeys decides whether somebody may access every key that hangs on a lease now. Errors: those of
	// auth.View.Check.
	CheckKeys(users *auth.View, who auth.Identity, id int64, kind auth.Access) error
}

// LeaseTime is how long a lease has to live.
type LeaseTime struct {
	Remaining time.Duration
	// Granted is in seconds.
	Granted int64
	Keys    []string
}

// Header identifies the answering member.
type Header struct{ Cluster, Member, Term uint64 }

// Status is what Maintenance.Status reports.
type Status struct {
	Version, StorageVersion string
	DiskBytes, LiveBytes    int64
	QuotaBytes              int64
	Leader                  uint64
	RaftIndex, RaftApplied  uint64
	IsLearner               bool
	DowngradeEnabled        bool
	DowngradeTarget         string
}

// Space is the room that a member has for data.
type Space interface {
	// Admit says whether there is room for what a request adds, ErrNoSpace of package state if not. Then
	// this member's alarm has been raised, if it is the space quota that leaves no room.
	Admit(ctx context.Context, req *etcdserverpb.InternalRaftRequest) error
}

// Limits bound what one request may ask for.
type Limits struct {
	// RequestBytes is the size a request may have in the log; messages may be slightly larger.
	RequestBytes int
	// TxnOps is how many operations a transaction may have on one level.
	TxnOps int
	// Space is asked before anything that adds data.
	Space Space
	// StrictReconfig refuses membership changes that put the quorum at risk.
	StrictReconfig bool
}

// Services are the gRPC services of one member.
type Services struct {
	member      Member
	leases      Leases
	operator    Operator
	backup      Backup
	hub         *watch.Hub
	limits      Limits
	credentials Credentials
}

// New returns the services over a member.
func New(m Member, l Leases, o Operator, b Backup, hub *watch.Hub, limits Limits, credentials Credentials) *Services {
	return &Services{member: m, leases: l, operator: o, backup: b, hub: hub, limits: limits, credentials: credentials}
}
