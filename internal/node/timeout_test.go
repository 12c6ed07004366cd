package node

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/etcdapi"
	"github.com/dolmen-io/dolmen/internal/membership"
)

func TestWhyTimeout(t *testing.T) {
	begun := time.Now()
	at := func(s time.Duration) time.Time { return begun.Add(s * time.Second) }
	members := []membership.Member{{ID: 1}, {ID: 2}, {ID: 3}, {ID: 4}}
	for name, tc := range map[string]struct {
		elected time.Time
		lead    uint64
		active  map[uint64]time.Time
		want    error
	}{
		"as follower, all well":                {at(-9), 2, map[uint64]time.Time{2: at(-5)}, etcdapi.ErrTimeout},
		"the leader is away":                   {at(-9), 2, map[uint64]time.Time{3: at(-5)}, etcdapi.ErrTimeoutConnectionLost},
		"the leader was away":                  {at(-9), 2, map[uint64]time.Time{2: at(1)}, etcdapi.ErrTimeoutConnectionLost},
		"the next leader was elected":          {at(1), 2, nil, etcdapi.ErrTimeoutLeaderFail},
		"and long after":                       {at(3), 2, map[uint64]time.Time{2: at(-5)}, etcdapi.ErrTimeout},
		"there is no leader":                   {at(-9), 0, nil, etcdapi.ErrTimeout},
		"there is none since":                  {at(1), 0, nil, etcdapi.ErrTimeoutLeaderFail},
		"as leader, all well":                  {at(-9), 1, map[uint64]time.Time{2: at(-5), 3: at(-5)}, etcdapi.ErrTimeout},
		"half of all are no quorum":            {at(-9), 1, map[uint64]time.Time{2: at(-5)}, etcdapi.ErrTimeoutConnectionLost},
		"neither are some that come back late": {at(-9), 1, map[uint64]time.Time{2: at(-5), 3: at(1)}, etcdapi.ErrTimeoutConnectionLost},
	} {
		t.Run(name, func(t *testing.T) {
			st := consensus.Status{ID: 1, Lead: tc.lead, Elected: tc.elected}
			got := whyTimeout(begun, &st, time.Second, members, func(id uint64) time.Time { return tc.active[id] })
			require.Equal(t, tc.want, got)
		})
	}
}

// due is a context whose deadline passes when a test says so.
type due struct {
	context.Context
	passed chan struct{}
}

// Done implements context.Context.
func (d due) Done() <-chan struct{} { return d.passed }

// Err implements context.Context.
func (d due) Err() error {
	select {
	case <-d.passed:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// proposedTo begins a write whose deadline passes when pass is called, which returns what becomes of it.
func proposedTo(t *testing.T, m *Member, key string) (begun time.Time, pass func() error) {
	ctx := due{t.Context(), make(chan struct{})}
	got := make(chan error, 1)
	before := m.pending.size()
	begun = time.Now()
	go func() {
		_, err := m.Propose(ctx, put(key, "v"))
		got <- err
	}()
	require.Eventually(t, func() bool { return m.pending.size() > before }, fleetPatience, time.Millisecond)
	return begun, func() error {
		close(ctx.passed)
		return <-got
	}
}

func TestTimeoutsOfAClusterThatHasLostItsQuorum(t *testing.T) {
	f := newFleet(t, config.EngineMemory, 3)
	f.put(0, "k", "v")
	lead := f.leader()
	m := f.members[lead]
	f.crash((lead + 1) % 3)
	f.crash((lead + 2) % 3)

	// What the leader takes before it notices is in its log, and may still happen.
	for m.leads() {
		_, pass := proposedTo(t, m, "taken")
		require.Eventually(t, func() bool { // rafthttp notices at its next message
			return m.others.ActiveSince(f.otherID(m)).IsZero()
		}, fleetPatience, time.Millisecond)
		leads := m.leads()
		err := pass()
		if leads && m.leads() {
			require.ErrorIs(t, err, etcdapi.ErrTimeoutConnectionLost)
			break
		}
	}
	_, pass := proposedTo(t, m, "taken too")
	require.Eventually(t, func() bool { return m.cons.Status().Lead == 0 }, fleetPatience, time.Millisecond)
	if err := pass(); !errors.Is(err, context.DeadlineExceeded) { // it may have come too late to be taken
		require.Equal(t, etcdapi.ErrTimeout, err)
	}

	// Without a leader nothing begins.
	_, pass = proposedTo(t, m, "not taken")
	require.Equal(t, context.DeadlineExceeded, pass())
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := m.Read(ctx, true)
	require.Equal(t, etcdapi.ErrTimeout, err)
	v, err := m.Read(t.Context(), false)
	require.NoError(t, err)
	v.Release()
}

// otherID is the ID of a member that does not run.
func (f *fleet) otherID(m *Member) uint64 {
	v := m.state.View()
	defer v.Release()
	for _, other := range v.Members.Members() {
		if other.ID != m.id.member {
			return other.ID
		}
	}
	return 0
}

// TestTimeoutOfAFollowerWhoseLeaderIsLost names the connection while the lost leader is the newest known, and its failure
// when there is the next.
func TestTimeoutOfAFollowerWhoseLeaderIsLost(t *testing.T) {
	f := newFleet(t, config.EngineMemory, 3)
	f.put(0, "k", "v")
	lead := f.leader()
	old := f.members[lead].id.member
	m := f.members[(lead+1)%3]
	f.crash(lead)
	begun, pass := proposedTo(t, m, "lost")
	_, passLate := proposedTo(t, m, "lost too")
	ended := time.Now()
	require.Eventually(t, func() bool { return m.others.ActiveSince(old).IsZero() }, fleetPatience, time.Millisecond)
	if err := pass(); m.cons.Status().Lead == old {
		require.ErrorIs(t, err, etcdapi.ErrTimeoutConnectionLost)
	}
	f.leader()
	err := passLate()
	switch elected := m.cons.Status().Elected; {
	case err == nil: // the leader was known to be lost before it was proposed, and it waited for the next
	case begun.After(elected.Add(-2*m.cfg.ElectionTimeout)) && ended.Before(elected):
		require.ErrorIs(t, err, etcdapi.ErrTimeoutLeaderFail)
	default:
		require.ErrorIs(t, err, etcdapi.ErrTimeout)
	}
}

// TestOwnDeadlineWithoutALeader: a client that waits for ever is answered all the same.
func TestOwnDeadlineWithoutALeader(t *testing.T) {
	f := newFleet(t, config.EngineMemory, 2)
	f.put(0, "k", "v")
	lead := f.leader()
	m := f.members[lead]
	f.crash(1 - lead)
	require.Eventually(t, func() bool { return m.cons.Status().Lead == 0 }, fleetPatience, time.Millisecond)
	read := make(chan error, 1)
	go func() {
		_, err := m.Read(context.Background(), true)
		read <- err
	}()
	_, err := m.Propose(t.Context(), put("k", "v"))
	require.Equal(t, context.DeadlineExceeded, err)
	require.Equal(t, etcdapi.ErrTimeout, <-read)
}
