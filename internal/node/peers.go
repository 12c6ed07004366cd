package node

import (
	"context"
	"errors"
	"time"

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
}

// errNoPeers says that this version does not talk to other members.
var errNoPeers = errors.New("node: talking to other members is not built")

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
