package mvcc

import (
	"bytes"
	"math"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

func TestVersionSize(t *testing.T) {
	require.EqualValues(t, 32, unsafe.Sizeof(version{}))
	require.EqualValues(t, 8, unsafe.Sizeof(item{}))
}

// A version says the same before and after its bytes have been taken away.
func TestVersionSummary(t *testing.T) {
	for name, kv := range map[string]KeyValue{
		"small":    {Key: []byte("a"), Create: 2, Mod: 7, Ver: 3},
		"large":    {Key: bytes.Repeat([]byte("k"), 300), Value: make([]byte, 70_000), Create: 1 << 40, Mod: 7, Ver: 1 << 33, LeaseID: math.MaxInt64},
		"negative": {Key: []byte("a"), Create: 2, Mod: 7, Ver: 3, LeaseID: -1},
	} {
		stored := kv.Encode()
		v, err := newVersion(Revision{7, 5}, kindResident, stored)
		require.NoError(t, err, name)
		require.Equal(t, stored, v.kv())
		require.Equal(t, kv.Key, newItem(v).key())
		want := summary{create: kv.Create, ver: kv.Ver, lease: kv.LeaseID, size: int64(len(stored))}
		require.Equal(t, want, v.summary())
		s := v.stripped()
		require.Equal(t, want, s.summary())
		require.Nil(t, s.kv())
		require.False(t, s.tombstone())
		require.Equal(t, Revision{7, 5}, s.rev())
	}
	buried := (&KeyValue{Key: []byte("gone")}).Encode()
	v, err := newVersion(Revision{7, 5}, kindTombstone, buried)
	require.NoError(t, err)
	require.Equal(t, summary{size: int64(len(buried))}, v.summary())
	require.True(t, v.tombstone())
	require.Nil(t, v.kv())
	require.Equal(t, "gone", string(newItem(v).key()))
	moved, err := newVersion(Revision{9, 0}, kindResident, nil)
	require.NoError(t, err)
	require.Equal(t, summary{create: 9, ver: 1}, moved.summary())
	require.Equal(t, summary{create: 9, ver: 1}, moved.stripped().summary())
	require.Empty(t, newItem(moved).key())
}

func TestVersionLimits(t *testing.T) {
	_, err := newVersion(Revision{1, math.MaxUint32}, kindTombstone, nil)
	require.NoError(t, err)
	_, err = newVersion(Revision{1, math.MaxUint32 + 1}, kindTombstone, nil)
	require.ErrorIs(t, err, errTooLarge)
}
