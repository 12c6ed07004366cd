package node

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/config"
)

// TestFiveMembers lose two and write on, lose a third and answer serializable reads only, and are well when one returns.
func TestFiveMembers(t *testing.T) {
	f := newFleet(t, config.EngineMemory, 5)
	f.put(0, "k", "five")
	f.require("k", "five")
	f.crash(f.leader())
	var left []int
	f.running(func(i int, _ *Member) { left = append(left, i) })
	f.crash(left[0])
	left = left[1:]
	f.put(left[0], "k", "three")
	f.require("k", "three")

	gone := left[0]
	f.crash(gone)
	left = left[1:]
	f.running(func(_ int, m *Member) {
		require.Eventually(t, func() bool { return m.cons.Status().Lead == 0 }, fleetPatience, 10*time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := m.Propose(ctx, put("k", "lost"))
		require.Equal(t, context.DeadlineExceeded, err)
		v, err := m.Read(t.Context(), false)
		require.NoError(t, err)
		v.Release()
	})
	f.open(gone)
	f.awaitReady(gone)
	f.put(left[0], "k", "again")
	f.require("k", "again")
	f.requireEqual()
}

// TestLeaseOutlivesItsLeader: the next leader knows it and ends it not before its time, and a leader that was deposed
// revokes nothing.
func TestLeaseOutlivesItsLeader(t *testing.T) {
	f := newFleet(t, config.EngineMemory, 3)
	old := f.leader()
	begun := time.Now()
	grant(t, f.members[old], 7, 3)
	f.requireEqual()
	target := (old + 1) % 3
	require.Eventually(t, func() bool { return f.members[old].primary.Load() }, fleetPatience, time.Millisecond)
	require.NoError(t, operator{f.members[old]}.MoveLeader(t.Context(), f.members[target].id.member))
	require.Eventually(t, func() bool { return !f.members[old].primary.Load() && f.members[target].primary.Load() }, fleetPatience, time.Millisecond)
	require.Eventually(t, func() bool {
		_, known := f.members[old].state.Leases().Get(7)
		return !known
	}, fleetPatience, 5*time.Millisecond)
	require.GreaterOrEqual(t, time.Since(begun), 3*time.Second)
	require.Empty(t, f.members[old].expiry.Expired(time.Now().Add(time.Hour), 10))
}
