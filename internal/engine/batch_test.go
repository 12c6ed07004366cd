package engine

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBatch(t *testing.T) {
	var b Batch
	b.Put([]byte("k"), []byte("value"))
	b.Delete([]byte("k"))
	b.DeleteRange([]byte("a"), []byte("z"))
	require.Equal(t, []Op{
		{OpPut, []byte("k"), []byte("value")},
		{OpDelete, []byte("k"), nil},
		{OpDeleteRange, []byte("a"), []byte("z")},
	}, b.Ops())
	require.Equal(t, 3, b.Len())
	require.Equal(t, 9+3*opOverhead, b.Bytes())
}

func TestBatchReset(t *testing.T) {
	var b Batch
	for range maxKeptOps {
		b.Delete([]byte("k"))
	}
	ops := b.Ops()
	b.Reset()
	require.Zero(t, b.Len())
	require.Zero(t, b.Bytes())
	require.Equal(t, Op{}, ops[0], "the bytes of the batch before are let go")
	for range 4 * maxKeptOps {
		b.Delete([]byte("k"))
	}
	b.Reset()
	require.Zero(t, cap(b.ops), "a peak is not kept")
}

func TestTables(t *testing.T) {
	revision := append([]byte{0x7f, 255, 255, 255, 255, 255, 255, 255}, "_12345678t"...)
	require.Negative(t, bytes.Compare(revision, RevisionsEnd), "the largest revision is below every table")
	for table := TableMeta; table <= TableAuthRole; table++ {
		lo, hi := TableRange(table)
		for _, key := range []string{"", "\x00", "key", "\xff\xff"} {
			k := TableKey(table, []byte(key))
			require.Equal(t, key, string(k[1:]))
			require.True(t, bytes.Compare(lo, k) <= 0 && bytes.Compare(k, hi) < 0)
		}
		require.LessOrEqual(t, bytes.Compare(RevisionsEnd, lo), 0)
	}
}
