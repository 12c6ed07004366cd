package node

import (
	"context"
	"errors"
	"time"

	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/etcdapi"
	"github.com/dolmen-io/dolmen/internal/membership"
)

// ended returns the error of a request, begun at a time, whose client does not wait any more. taken is as for timeout.
func (m *Member) ended(ctx context.Context, begun time.Time, taken bool) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return etcdapi.ErrCanceled
	}
	return m.timeout(begun, taken)
}

// timeout returns the error of a request, begun at a time, that was not decided in time; taken says that raft has taken it.
// Without a leader etcd does not even begin, and lets the deadline speak for itself.
func (m *Member) timeout(begun time.Time, taken bool) error {
	st := m.cons.Status()
	if !taken && st.Lead == 0 {
		return context.DeadlineExceeded
	}
	v := m.state.View()
	defer v.Release()
	return whyTimeout(begun, &st, m.cfg.ElectionTimeout, v.Members.Members(), m.others.ActiveSince)
}

// whyTimeout names the likely cause of a timeout, by etcd's rules: a leader that was elected at the earliest moment at
// which a request to the one before could have been lost, or connections that have not held since the request began, to
// the leader or, of a leader, to a majority of all members.
func whyTimeout(begun time.Time, st *consensus.Status, election time.Duration, members []membership.Member,
	activeSince func(id uint64) time.Time,
) error {
	if begun.After(st.Elected.Add(-2*election)) && begun.Before(st.Elected) {
		return etcdapi.ErrTimeoutLeaderFail
	}
	held := func(id uint64) bool {
		since := activeSince(id)
		return !since.IsZero() && since.Before(begun)
	}
	connected := true
	switch st.Lead {
	case 0:
	case st.ID:
		n := 0
		for _, m := range members {
			if m.ID == st.ID || held(m.ID) {
				n++
			}
		}
		connected = n > len(members)/2
	default:
		connected = held(st.Lead)
	}
	if !connected {
		return etcdapi.ErrTimeoutConnectionLost
	}
	return etcdapi.ErrTimeout
}
