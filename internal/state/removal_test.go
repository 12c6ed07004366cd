package state

import (
	"testing"

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
