package node

import (
	"context"
	"errors"
	"time"

	"github.com/dolmen-io/dolmen/internal/etcdapi"
	"github.com/dolmen-io/dolmen/internal/membership"
)

// peers is what this member knows of the others and asks of them. It is called from many goroutines.
type peers interface {
	// ActiveSince returns since when the connection to a member has held, the zero time without one.
	ActiveSince(id uint64) time.Time
	// ServerVersion asks a member which version it runs, as "3.7.3".
	ServerVersion(ctx context.Context, m membership.Member) (string, error)
	// Promote has the leader give a learner its vote, and returns all members after that.
	Promote(ctx context.Context, leader membership.Member, id uint64) ([]membership.Member, error)
	// Renew has the leader begin a lease's time anew, and returns how long that is in seconds. Errors: lease.ErrNotFound,
	// lease.ErrNotPrimary if the member does not lead, etcdapi.ErrApplyTimeout.
	Renew(ctx context.Context, leader membership.Member, id int64) (ttl int64, err error)
	// TimeToLive asks the leader what remains of a lease. Errors: those of Renew.
	TimeToLive(ctx context.Context, leader membership.Member, id int64) (etcdapi.LeaseTime, error)
}

// errNoPeers says that this member does not talk to others.
var errNoPeers = errors.New("node: this member talks to no other")

// alone is the peers of a member that talks to nobody.
type alone struct{}

// ActiveSince implements peers.
func (alone) ActiveSince(uint64) time.Time { return time.Time{} }

// ServerVersion implements peers.
func (alone) ServerVersion(context.Context, membership.Member) (string, error) { return "", errNoPeers }

// Promote implements peers.
func (alone) Promote(context.Context, membership.Member, uint64) ([]membership.Member, error) {
	return nil, errNoPeers
}

// Renew implements peers.
func (alone) Renew(context.Context, membership.Member, int64) (int64, error) { return 0, errNoPeers }

// TimeToLive implements peers.
func (alone) TimeToLive(context.Context, membership.Member, int64) (etcdapi.LeaseTime, error) {
	return etcdapi.LeaseTime{}, errNoPeers
}
