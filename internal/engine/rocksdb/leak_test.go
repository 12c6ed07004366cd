//go:build rocksdb

package rocksdb_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/enginetest"
	"github.com/dolmen-io/dolmen/internal/engine/rocksdb"
)

// TestLeaks does everything many times over, each with success and with an error. The address sanitizer ("make asan")
// reports at the end what C allocated and nobody freed, and at once what is used after it was freed.
func TestLeaks(t *testing.T) {
	const rounds = 50
	dir := filepath.Join(t.TempDir(), "engine")
	for range 5 {
		e, err := rocksdb.Open(dir, rocksdb.Options{})
		require.NoError(t, err)
		for i := range rounds {
			useOnce(t, e, i)
		}
		_, err = rocksdb.Open(dir, rocksdb.Options{})
		require.Error(t, err)
		_, err = e.Snapshot() // leaked
		require.NoError(t, err)
		require.Error(t, e.Checkpoint(dir))
		require.NoError(t, e.Compact())
		require.ErrorContains(t, e.Close(), "leaked snapshots")
		ro, err := rocksdb.OpenReadOnly(dir, rocksdb.Options{})
		require.NoError(t, err)
		require.NoError(t, ro.Verify())
		require.NoError(t, ro.Close())
	}
	for range 3 {
		failOnce(t)
	}
	// The sanitizer takes what looks like a pointer for one, wherever Go has left it. So the objects that held
	// pointers are collected, and others written in their places.
	runtime.GC()
	var kept [][]byte
	for size := 8; size <= 2048; size += 8 {
		for range 500 {
			kept = append(kept, make([]byte, size))
		}
	}
	runtime.KeepAlive(kept)
}

func useOnce(t *testing.T, e *rocksdb.Engine, i int) {
	var b engine.Batch
	key := fmt.Append(nil, "key", i)
	b.Put(key, []byte(value(i)))
	if i == 7 {
		b.Put([]byte("large"), make([]byte, 3<<20))
	}
	b.DeleteRange([]byte("l"), []byte("m"))
	require.NoError(t, e.Commit(&b))
	got, err := e.Get(key)
	require.NoError(t, err)
	require.Equal(t, value(i), string(got))
	_, err = e.Get([]byte("absent"))
	require.ErrorIs(t, err, engine.ErrNotFound)
	if i%10 == 0 {
		require.NoError(t, e.Flush())
		got, err = e.Durable(key)
		require.NoError(t, err)
		require.Equal(t, value(i), string(got))
	}
	s, err := e.Snapshot()
	require.NoError(t, err)
	got, err = s.Get(key)
	require.NoError(t, err)
	require.Equal(t, value(i), string(got))
	for _, hi := range [][]byte{nil, []byte("key9"), []byte("k")} {
		for _, reverse := range []bool{false, true} {
			require.NoError(t, s.Scan([]byte("key"), hi, reverse, func(_, _ []byte) bool { return true }))
			require.NoError(t, s.Scan(nil, hi, reverse, func(_, _ []byte) bool { return false }))
		}
	}
	require.NoError(t, s.Close())
	e.Stats()
}

// failOnce has an engine meet the errors of a disk.
func failOnce(t *testing.T) {
	e, err := newDisk().open(rocksdb.Options{MemTableBytes: 1 << 20})
	require.NoError(t, err)
	fill(t, e)
	require.NoError(t, e.Engine.Close())
	e.Engine, err = rocksdb.Open(e.path, rocksdb.Options{})
	require.NoError(t, err)
	s, err := e.Snapshot()
	require.NoError(t, err)
	e.place.inject(func(call rune, _ string) error {
		if call == callRead || call == callWrite {
			return syscall.EIO
		}
		return nil
	})
	for range 20 {
		_, err := e.Get([]byte("00001"))
		require.ErrorIs(t, err, syscall.EIO)
		_, err = s.Get([]byte("00001"))
		require.ErrorIs(t, err, syscall.EIO)
		require.ErrorIs(t, s.Scan(nil, nil, true, func(_, _ []byte) bool { return true }), syscall.EIO)
		require.ErrorIs(t, e.Verify(), syscall.EIO)
	}
	require.NoError(t, s.Close())
	enginetest.Put(t, e, "a", "1")
	require.ErrorIs(t, e.Flush(), syscall.EIO)
	require.ErrorIs(t, e.Close(), syscall.EIO)
	_, err = rocksdb.Open("/dev/null/engine", rocksdb.Options{})
	require.True(t, errors.Is(err, syscall.ENOTDIR), "%v", err)
}
