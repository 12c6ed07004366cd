package state

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/lease"
	"github.com/dolmen-io/dolmen/internal/mvcc"
)

// replaceable is an engine whose content a snapshot replaces.
type replaceable struct{ engine.Engine }

// TestReload puts another member's newer state in the place of one that is read.
func TestReload(t *testing.T) {
	eng := &replaceable{openEngine(t)}
	s := open(t, eng)
	mustApply(t, s, `lease_grant:{ID:1 TTL:60}`, `put:{key:"a" value:"old" lease:1}`)
	s.LoadedLeases()
	old := s.View()

	other := open(t, openEngine(t))
	mustApply(t, other, `lease_grant:{ID:1 TTL:60}`, `put:{key:"a" value:"old" lease:1}`, `lease_revoke:{ID:1}`,
		`lease_grant:{ID:2 TTL:90}`, `put:{key:"b" value:"new" lease:2}`, `auth_role_add:{name:"r"}`,
		`alarm:{action:ACTIVATE memberID:1 alarm:NOSPACE}`)
	eng.Engine = other.eng
	view, err := s.Reload()
	require.NoError(t, err)
	require.Equal(t, uint64(7), view.Applied.Index)
	require.Equal(t, other.published.Load().KV.Current(), view.KV.Current())
	require.Equal(t, other.Bytes(), s.Bytes())
	require.Equal(t, []string{"r"}, s.Users().Roles())
	require.True(t, s.Alarms().NoSpace)
	require.Equal(t, []string{"b"}, s.Leases().Keys(2))
	require.False(t, s.Leases().Exists(1))
	require.Equal(t, []lease.Change{{Kind: lease.Granted, Lease: lease.Lease{ID: 2, TTL: 90}}}, s.LoadedLeases())

	res, err := old.KV.Range(mvcc.RangeOptions{Key: []byte("a")})
	require.NoError(t, err)
	require.Len(t, res.KVs, 1, "who reads an older view goes on reading it")
	old.Release()
	turn := mustApply(t, s, `alarm:{action:DEACTIVATE memberID:1 alarm:NOSPACE}`, `put:{key:"c"}`)
	require.NoError(t, turn.Outcomes[1].Result.Err)
	require.NotEmpty(t, turn.Auth, "tokens of before end")

	eng.Engine = openEngine(t)
	_, err = s.Reload()
	require.ErrorContains(t, err, "older")
}
