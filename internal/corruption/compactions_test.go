package corruption

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/mvcc"
)

func hash(sum uint32, compacted, revision int64) mvcc.Hash {
	return mvcc.Hash{Sum: sum, Compacted: compacted, Revision: revision}
}

// TestCompactionsNeedsTwoFindings: who is suspected, and only after the second check.
func TestCompactionsNeedsTwoFindings(t *testing.T) {
	at := func(sum uint32) Answer { return answer(sum, 3, 10) }
	for name, tc := range map[string]struct {
		peers   []Peer
		suspect []uint64
	}{
		"equal":                       {peers: []Peer{peer(2, at(7)), peer(3, at(7))}},
		"one other":                   {peers: []Peer{peer(2, at(7)), peer(3, at(8))}, suspect: []uint64{3}},
		"this one":                    {peers: []Peer{peer(2, at(8)), peer(3, at(8))}, suspect: []uint64{1}},
		"two of five":                 {peers: []Peer{peer(5, at(9)), peer(4, at(8)), peer(2, at(7)), peer(3, at(7))}, suspect: []uint64{4, 5}},
		"no majority":                 {peers: []Peer{peer(2, at(8)), peer(3, at(9))}, suspect: []uint64{0}},
		"two members":                 {peers: []Peer{peer(2, at(8))}, suspect: []uint64{0}},
		"silent members are no votes": {peers: []Peer{peer(2, at(8)), {ID: 3, Err: mvcc.ErrFuture}}, suspect: []uint64{0}},
		"not compacted there":         {peers: []Peer{peer(2, answer(8, 10, 10)), peer(3, at(7))}},
		"no answers":                  {peers: []Peer{{ID: 2, Err: mvcc.ErrCompacted}}},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{hashes: []mvcc.Hash{hash(7, 3, 10)}, peers: always(tc.peers...)}
			c := New(zap.NewNop(), f)
			require.NoError(t, c.Compactions(t.Context()))
			require.Empty(t, f.suspect, "one finding is not enough")
			require.NoError(t, c.Compactions(t.Context()))
			require.Equal(t, tc.suspect, f.suspect)
		})
	}
	require.NoError(t, New(zap.NewNop(), &fake{hashes: []mvcc.Hash{hash(7, 3, 10)}}).Compactions(t.Context()), "alone")
}

// TestCompactionsChangingFinding: two findings that are not equal are none.
func TestCompactionsChangingFinding(t *testing.T) {
	sum := uint32(8)
	f := &fake{hashes: []mvcc.Hash{hash(7, 3, 10)}, peers: func(int, int64) []Peer {
		return []Peer{peer(2, answer(sum, 3, 10)), peer(3, answer(7, 3, 10))}
	}}
	c := New(zap.NewNop(), f)
	for range 4 {
		require.NoError(t, c.Compactions(t.Context()))
		sum++
	}
	require.Empty(t, f.suspect)
	sum--
	require.NoError(t, c.Compactions(t.Context()))
	require.Equal(t, []uint64{2}, f.suspect)
}

// TestCompactionsGoOn compacts between the checks: a finding is confirmed at its own compaction, and what
// was found equal is not asked for again.
func TestCompactionsGoOn(t *testing.T) {
	f := &fake{hashes: []mvcc.Hash{hash(1, -1, 10), hash(2, 10, 20)}}
	bad := map[int64]bool{20: true}
	f.peers = func(_ int, revision int64) []Peer {
		if revision == 0 {
			return make([]Peer, 1) // for the count
		}
		a := answer(uint32(revision/10), revision-10, revision)
		if revision == 10 {
			a.Compacted = -1
		}
		if bad[revision] {
			a.Sum = 99
		}
		return []Peer{peer(2, a)}
	}
	c := New(zap.NewNop(), f)
	check := func(asked ...int64) {
		t.Helper()
		f.asked = nil
		require.NoError(t, c.Compactions(t.Context()))
		require.Equal(t, asked, f.asked)
	}
	check(20, 10) // 20 looks bad; 10 is equal
	f.hashes = append(f.hashes, hash(3, 20, 30))
	bad[30] = true
	check(30, 20)
	require.Equal(t, []uint64{0}, f.suspect, "20 was found bad twice")

	f.hashes = []mvcc.Hash{hash(4, 30, 40)}
	check(40)
	require.Empty(t, c.found, "findings at compactions that are forgotten are forgotten")
	check()
	require.Len(t, f.suspect, 1)
}

func TestCompactionsReportsFailure(t *testing.T) {
	broken := errors.New("no leader")
	f := &fake{hashes: []mvcc.Hash{hash(7, 3, 10)}, peers: always(peer(2, answer(8, 3, 10))), refuse: broken}
	c := New(zap.NewNop(), f)
	require.NoError(t, c.Compactions(t.Context()))
	require.ErrorIs(t, c.Compactions(t.Context()), broken)
}
