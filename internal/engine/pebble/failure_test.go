package pebble_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/enginetest"
	"github.com/dolmen-io/dolmen/internal/engine/pebble"
)

func TestLocked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "some", "where")
	e, err := pebble.Open(dir, pebble.Options{Logger: zaptest.NewLogger(t)})
	require.NoError(t, err)
	_, err = pebble.Open(dir, pebble.Options{})
	require.ErrorContains(t, err, "in use by another process")
	require.ErrorContains(t, err, dir)
	enginetest.Put(t, e, "a", "1")
	require.NoError(t, e.Close())
	e, err = pebble.Open(dir, pebble.Options{})
	require.NoError(t, err)
	v, err := e.Get([]byte("a"))
	require.NoError(t, err)
	require.Equal(t, "1", string(v))
	require.NoError(t, e.Close())
}

func TestUnusableDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := pebble.Open(filepath.Join(file, "engine"), pebble.Options{})
	require.ErrorContains(t, err, file)
}

// files returns the engine's files of a kind, by the end of their names.
func files(t *testing.T, dir, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	require.NoError(t, err)
	require.NotEmpty(t, names)
	return names
}

// fill commits and flushes values that make a table of several blocks.
func fill(t *testing.T, e engine.Engine) {
	t.Helper()
	for i := range 300 {
		enginetest.Put(t, e, fmt.Sprintf("%05d", i), strings.Repeat(fmt.Sprint(i, " "), 100))
	}
	require.NoError(t, e.Flush())
}

// TestDamagedTable flips a bit in a table's first block. Reads say so and name the file, and the
// member is told once.
func TestDamagedTable(t *testing.T) {
	dir := t.TempDir()
	e, err := pebble.Open(dir, pebble.Options{})
	require.NoError(t, err)
	fill(t, e)
	require.NoError(t, e.Close())
	table := files(t, dir, "*.sst")[0]
	enginetest.Flip(t, table, 40)

	var told []error
	e, err = pebble.Open(dir, pebble.Options{Fatal: func(err error) { told = append(told, err) }})
	require.NoError(t, err)
	_, err = e.Get([]byte("00000"))
	require.ErrorIs(t, err, engine.ErrCorrupt)
	require.ErrorContains(t, err, table)
	require.Len(t, told, 1)
	require.ErrorIs(t, told[0], engine.ErrCorrupt)
	require.ErrorContains(t, told[0], table)

	_, err = e.Get([]byte("00299"))
	require.ErrorIs(t, err, engine.ErrCorrupt, "from now on every call says so")
	require.ErrorIs(t, e.Commit(&engine.Batch{}), engine.ErrCorrupt)
	require.ErrorIs(t, e.Flush(), engine.ErrCorrupt)
	require.ErrorIs(t, e.Compact(), engine.ErrCorrupt)
	_, err = e.Durable([]byte("00000"))
	require.ErrorIs(t, err, engine.ErrCorrupt)
	_, err = e.Snapshot()
	require.ErrorIs(t, err, engine.ErrCorrupt)
	require.ErrorIs(t, e.Close(), engine.ErrCorrupt)
	require.Len(t, told, 1)
}

func TestDamagedTableInScan(t *testing.T) {
	dir := t.TempDir()
	e, err := pebble.Open(dir, pebble.Options{})
	require.NoError(t, err)
	fill(t, e)
	require.NoError(t, e.Close())
	enginetest.Flip(t, files(t, dir, "*.sst")[0], 40)
	e, err = pebble.Open(dir, pebble.Options{})
	require.NoError(t, err)
	s, err := e.Snapshot()
	require.NoError(t, err)
	err = s.Scan(nil, nil, false, func(_, _ []byte) bool { return true })
	require.ErrorIs(t, err, engine.ErrCorrupt)
	require.NoError(t, s.Close())
	require.ErrorIs(t, e.Close(), engine.ErrCorrupt)
}

func TestDamagedOrMissingFilesAtOpen(t *testing.T) {
	for _, test := range []struct {
		name   string
		damage func(t *testing.T, dir string)
	}{
		{"manifest cut", func(t *testing.T, dir string) {
			for _, f := range files(t, dir, "MANIFEST-*") {
				require.NoError(t, os.Truncate(f, 20))
			}
		}},
		{"table missing", func(t *testing.T, dir string) { require.NoError(t, os.Remove(files(t, dir, "*.sst")[0])) }},
		{"table cut", func(t *testing.T, dir string) { require.NoError(t, os.Truncate(files(t, dir, "*.sst")[0], 100)) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			e, err := pebble.Open(dir, pebble.Options{})
			require.NoError(t, err)
			fill(t, e)
			require.NoError(t, e.Close())
			test.damage(t, dir)
			e, err = pebble.Open(dir, pebble.Options{Fatal: func(error) {}})
			if err == nil {
				_, err = e.Get([]byte("00000"))
				require.Error(t, errors.Join(e.Close(), err))
			}
			t.Log(err)
			require.ErrorIs(t, err, engine.ErrCorrupt)
			require.ErrorContains(t, err, dir)
			// The lock is free again unless the engine was in service.
			_, err = pebble.Open(dir, pebble.Options{})
			require.NotContains(t, fmt.Sprint(err), "in use")
		})
	}
}

var errDisk = errors.New("disk is gone")

// failing returns a file system whose writes to some files fail while on is set.
func failing(on *atomic.Bool, match func(path string) bool) vfs.FS {
	return errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if on.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && match(op.Path) {
			return errDisk
		}
		return nil
	}))
}

// A flush that cannot write its table, or cannot enter it in the manifest, stops the engine: whoever
// waits is told, the member is told once, and Close does not hang.
func TestFlushFails(t *testing.T) {
	for _, test := range []struct{ name, file string }{
		{"table", ".sst"},
		{"manifest", "MANIFEST-"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var on atomic.Bool
			told := make(chan error, 10)
			e, err := pebble.Open("data", pebble.Options{
				FS:            failing(&on, func(path string) bool { return strings.Contains(path, test.file) }),
				MemTableBytes: memTableBytes,
				Fatal:         func(err error) { told <- err },
			})
			require.NoError(t, err)
			enginetest.Put(t, e, "a", "1")
			require.NoError(t, e.Flush())
			enginetest.Put(t, e, "a", "2")
			on.Store(true)
			err = e.Flush()
			require.ErrorContains(t, err, errDisk.Error())
			require.ErrorContains(t, <-told, errDisk.Error())
			var b engine.Batch
			b.Put([]byte("b"), []byte("3"))
			require.ErrorContains(t, e.Commit(&b), "the engine has stopped")
			_, err = e.Durable([]byte("a"))
			require.ErrorContains(t, err, "the engine has stopped")
			require.ErrorContains(t, e.Close(), errDisk.Error())
			require.Empty(t, told)
		})
	}
}

// What goes wrong while Open runs is Open's to return.
func TestOpenFails(t *testing.T) {
	var on atomic.Bool
	on.Store(true)
	fs := failing(&on, func(path string) bool { return strings.Contains(path, "MANIFEST-") })
	_, err := pebble.Open("data", pebble.Options{FS: fs, Fatal: func(error) { t.Error("Open returns its errors") }})
	require.ErrorIs(t, err, errDisk)
	on.Store(false)
	e, err := pebble.Open("data", pebble.Options{FS: fs})
	require.NoError(t, err, "the lock was given back")
	require.NoError(t, e.Close())
}

func TestLeakedSnapshot(t *testing.T) {
	e, err := pebble.Open("data", pebble.Options{FS: vfs.NewMem()})
	require.NoError(t, err)
	s, err := e.Snapshot()
	require.NoError(t, err)
	require.ErrorContains(t, e.Close(), "leaked snapshots")
	require.ErrorIs(t, s.Close(), engine.ErrClosed)
	require.ErrorIs(t, s.Scan(nil, nil, false, nil), engine.ErrClosed)
}

func TestStats(t *testing.T) {
	e, err := pebble.Open("data", pebble.Options{FS: vfs.NewMem()})
	require.NoError(t, err)
	fill(t, e)
	s := e.Stats()
	require.Greater(t, s.DiskBytes, int64(1000))
	require.Greater(t, s.MemoryBytes, int64(1000))
	require.NoError(t, e.Close())
	require.Equal(t, s, e.Stats(), "the last figures after Close")
}

func TestCloseDuringScan(t *testing.T) {
	e, err := pebble.Open("data", pebble.Options{FS: vfs.NewMem()})
	require.NoError(t, err)
	enginetest.CloseDuringScan(t, e)
}
