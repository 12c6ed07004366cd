package state

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/mvcc"
)

// TestHashKV: the checksums of the last ten compactions are kept, and found before anything else is looked at.
func TestHashKV(t *testing.T) {
	s := open(t, openEngine(t))
	for range 20 {
		mustApply(t, s, `put:{key:"a"}`)
	}
	for revision := range int64(12) {
		s.KeepHash(mvcc.Hash{Sum: uint32(100 + revision), Compacted: revision - 1, Revision: revision})
	}
	s.KeepHash(mvcc.Hash{Sum: 1, Revision: 11}) // kept already
	mustApply(t, s, `compaction:{revision:15}`)
	v := s.View()
	defer v.Release()
	require.Len(t, v.Hashes, 10)
	for revision := int64(2); revision < 12; revision++ {
		h, err := v.HashKV(revision)
		require.NoError(t, err)
		require.Equal(t, mvcc.Hash{Sum: uint32(100 + revision), Compacted: revision - 1, Revision: revision}, h)
	}
	_, err := v.HashKV(1)
	require.ErrorIs(t, err, mvcc.ErrCompacted)
	_, err = v.HashKV(99)
	require.ErrorIs(t, err, mvcc.ErrFuture)
	h, err := v.HashKV(0)
	require.NoError(t, err)
	require.Equal(t, v.KV.Current(), h.Revision)
}

// TestExpire: what is kept for reads at recent revisions goes after a minute, also without further turns.
func TestExpire(t *testing.T) {
	s := open(t, openEngine(t))
	for i := range 500 {
		mustApply(t, s, fmt.Sprintf(`put:{key:"%d"}`, i))
	}
	recent := func() (int, int64) {
		v := s.View()
		defer v.Release()
		return v.KV.Recent()
	}
	roots, bytes := recent()
	require.Greater(t, roots, 1)
	require.Positive(t, bytes)
	start := time.Unix(0, 0)
	s.Expire(start)
	s.Expire(start.Add(time.Minute))
	again, _ := recent()
	require.Equal(t, roots, again, "none is older than a minute")
	s.Expire(start.Add(time.Minute + time.Second))
	roots, bytes = recent()
	require.Equal(t, 1, roots)
	require.Zero(t, bytes)
}
