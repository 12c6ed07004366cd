//go:build rocksdb

package rocksdb_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/enginetest"
	"github.com/dolmen-io/dolmen/internal/engine/rocksdb"
)

// fill commits and flushes values that make a table of several blocks.
func fill(t *testing.T, e engine.Engine) {
	t.Helper()
	for i := range 300 {
		enginetest.Put(t, e, fmt.Sprintf("%05d", i), value(i))
	}
	require.NoError(t, e.Flush())
}

// value does not compress to nothing.
func value(i int) string {
	rng := rand.New(rand.NewPCG(uint64(i), 1))
	var b strings.Builder
	for range 50 {
		fmt.Fprint(&b, rng.Uint64(), " ")
	}
	return b.String()
}

// built is a directory with an engine that was filled and closed.
func built(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "engine")
	e, err := rocksdb.Open(dir, rocksdb.Options{})
	require.NoError(t, err)
	fill(t, e)
	require.NoError(t, e.Close())
	return dir
}

func TestLocked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "some", "where")
	e, err := rocksdb.Open(dir, rocksdb.Options{})
	require.NoError(t, err)
	_, err = rocksdb.Open(dir, rocksdb.Options{})
	require.ErrorContains(t, err, "in use by another process")
	require.ErrorContains(t, err, dir)
	enginetest.Put(t, e, "a", "1")
	require.NoError(t, e.Close())
	e, err = rocksdb.Open(dir, rocksdb.Options{})
	require.NoError(t, err)
	v, err := e.Get([]byte("a"))
	require.NoError(t, err)
	require.Equal(t, "1", string(v))
	require.NoError(t, e.Close())
}

func TestUnusableDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for _, dir := range []string{file, filepath.Join(file, "engine")} {
		_, err := rocksdb.Open(dir, rocksdb.Options{})
		require.ErrorContains(t, err, file)
		_, err = rocksdb.OpenReadOnly(dir, rocksdb.Options{})
		require.ErrorContains(t, err, file)
	}
}

// only returns the engine's file of a kind.
func only(t *testing.T, dir, pattern string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	require.NoError(t, err)
	require.Len(t, names, 1)
	return names[0]
}

// TestDamagedTable flips a bit in a table's first block. Reads say so and name the file, and the member is told
// once.
func TestDamagedTable(t *testing.T) {
	dir := built(t)
	table := only(t, dir, "*.sst")
	enginetest.Flip(t, table, 40)

	var told []error
	e, err := rocksdb.Open(dir, rocksdb.Options{Fatal: func(err error) { told = append(told, err) }})
	require.NoError(t, err)
	s, err := e.Snapshot()
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
	require.ErrorIs(t, e.Verify(), engine.ErrCorrupt)
	require.ErrorIs(t, e.Checkpoint(dir+"-copy"), engine.ErrCorrupt)
	_, err = e.Durable([]byte("00000"))
	require.ErrorIs(t, err, engine.ErrCorrupt)
	_, err = e.Snapshot()
	require.ErrorIs(t, err, engine.ErrCorrupt)
	require.ErrorIs(t, s.Scan(nil, nil, false, nil), engine.ErrCorrupt)
	require.NoError(t, s.Close())
	require.ErrorIs(t, e.Close(), engine.ErrCorrupt)
	require.Len(t, told, 1)
}

func TestDamagedTableInScan(t *testing.T) {
	dir := built(t)
	enginetest.Flip(t, only(t, dir, "*.sst"), 40)
	for _, reverse := range []bool{false, true} {
		e, err := rocksdb.Open(dir, rocksdb.Options{})
		require.NoError(t, err)
		s, err := e.Snapshot()
		require.NoError(t, err)
		err = s.Scan(nil, nil, reverse, func(_, _ []byte) bool { return true })
		require.ErrorIs(t, err, engine.ErrCorrupt)
		require.NoError(t, s.Close())
		require.ErrorIs(t, e.Close(), engine.ErrCorrupt)
	}
}

func TestDamagedOrMissingFilesAtOpen(t *testing.T) {
	for _, test := range []struct {
		name   string
		damage func(t *testing.T, dir string)
	}{
		{"manifest cut", func(t *testing.T, dir string) { require.NoError(t, os.Truncate(only(t, dir, "MANIFEST-*"), 20)) }},
		{"manifest flipped", func(t *testing.T, dir string) { enginetest.Flip(t, only(t, dir, "MANIFEST-*"), 20) }},
		{"manifest missing", func(t *testing.T, dir string) { require.NoError(t, os.Remove(only(t, dir, "MANIFEST-*"))) }},
		{"CURRENT empty", func(t *testing.T, dir string) { require.NoError(t, os.Truncate(only(t, dir, "CURRENT"), 0)) }},
		{"CURRENT flipped", func(t *testing.T, dir string) { enginetest.Flip(t, only(t, dir, "CURRENT"), 12) }},
		{"CURRENT missing", func(t *testing.T, dir string) { require.NoError(t, os.Remove(only(t, dir, "CURRENT"))) }},
		{"table missing", func(t *testing.T, dir string) { require.NoError(t, os.Remove(only(t, dir, "*.sst"))) }},
		{"table cut", func(t *testing.T, dir string) { require.NoError(t, os.Truncate(only(t, dir, "*.sst"), 100)) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := built(t)
			test.damage(t, dir)
			for _, open := range []func(string, rocksdb.Options) (*rocksdb.Engine, error){rocksdb.OpenReadOnly, rocksdb.Open} {
				_, err := open(dir, rocksdb.Options{Fatal: func(error) { t.Error("Open returns its errors") }})
				require.ErrorIs(t, err, engine.ErrCorrupt)
				require.ErrorContains(t, err, dir)
			}
			_, err := rocksdb.Open(dir, rocksdb.Options{})
			require.NotContains(t, err.Error(), "in use", "the lock is free again")
		})
	}
}

// TestFlippedBits flips single bits all over the files that matter: either that is found, and the file is named, or
// everything reads as before. The one exception is the length of the manifest's last record. It reads like a record
// that a power cut tore, and the engine opens at the flush before, as it does after a power cut.
func TestFlippedBits(t *testing.T) {
	dir := built(t)
	want := contents(t, dir)
	for _, file := range []struct {
		pattern  string
		step     int // in bytes, up to the last 200; what is between is of the same kind
		harmless int // how many flips may go unnoticed
		torn     int // how many flips may read as a flush that a power cut took back
	}{
		{"*.sst", 701, 40, 0}, // the footer has bytes that mean nothing
		{"MANIFEST-*", 1, 4, 4},
		{"CURRENT", 1, 0, 0},
		{"IDENTITY", 7, 40, 0}, // a name that nobody asks for
	} {
		path := only(t, dir, file.pattern)
		sound, err := os.ReadFile(path)
		require.NoError(t, err)
		flips, harmless, torn := 0, 0, 0
		for at := 0; at < len(sound); at++ {
			if at%file.step != 0 && at < len(sound)-200 {
				continue
			}
			flips++
			damaged := bytes.Clone(sound)
			damaged[at] ^= 1 << (at % 8)
			require.NoError(t, os.WriteFile(path, damaged, 0o600))
			got, err := readAll(t, dir)
			switch {
			case err != nil:
				require.ErrorIs(t, err, engine.ErrCorrupt, "%s, byte %d", path, at)
				require.ErrorContains(t, err, dir+string(filepath.Separator), "%s, byte %d", path, at)
			case slices.Equal(got, want):
				harmless++
			default:
				require.Empty(t, got, "%s, byte %d", path, at)
				torn++
			}
		}
		require.NoError(t, os.WriteFile(path, sound, 0o600))
		t.Logf("%s: of %d flips %d are without effect, %d read as torn", filepath.Base(path), flips, harmless, torn)
		require.LessOrEqual(t, harmless, file.harmless)
		require.LessOrEqual(t, torn, file.torn)
	}
}

// readAll returns what Verify and a scan find in dir.
func readAll(t *testing.T, dir string) ([]string, error) {
	t.Helper()
	e, err := rocksdb.OpenReadOnly(dir, rocksdb.Options{})
	if err != nil {
		return nil, err
	}
	defer e.Close()
	if err := e.Verify(); err != nil {
		return nil, err
	}
	return contentsOf(t, e), nil
}

func contents(t *testing.T, dir string) []string {
	t.Helper()
	e, err := rocksdb.OpenReadOnly(dir, rocksdb.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	return contentsOf(t, e)
}

func contentsOf(t *testing.T, e engine.Engine) (all []string) {
	t.Helper()
	s, err := e.Snapshot()
	require.NoError(t, err)
	require.NoError(t, s.Scan(nil, nil, false, func(k, v []byte) bool {
		all = append(all, string(k)+"="+string(v))
		return true
	}))
	require.NoError(t, s.Close())
	return all
}

// failOn makes calls on files whose name contains part fail.
func failOn(part string, errno syscall.Errno, calls ...rune) func(rune, string) error {
	return func(call rune, name string) error {
		for _, c := range calls {
			if c == call && strings.Contains(name, part) {
				return errno
			}
		}
		return nil
	}
}

// A flush that cannot write its table, or cannot enter it in the manifest, stops the engine: whoever waits is told,
// the member is told once, and Close does not hang.
func TestFlushFails(t *testing.T) {
	for _, test := range []struct {
		name, file string
		call       rune
		errno      syscall.Errno
	}{
		{"create the table", ".sst", callCreate, syscall.EIO},
		{"write the table", ".sst", callWrite, syscall.EIO},
		{"sync the table", ".sst", callSync, syscall.EIO},
		{"no room for the table", ".sst", callWrite, syscall.ENOSPC},
		{"write the manifest", "MANIFEST-", callWrite, syscall.EIO},
		{"sync the manifest", "MANIFEST-", callSync, syscall.EIO},
		{"no room for the manifest", "MANIFEST-", callWrite, syscall.ENOSPC},
	} {
		t.Run(test.name, func(t *testing.T) {
			told := make(chan error, 10)
			d := newDisk()
			e, err := d.open(rocksdb.Options{Fatal: func(err error) { told <- err }})
			require.NoError(t, err)
			enginetest.Put(t, e, "a", "1")
			require.NoError(t, e.Flush())
			enginetest.Put(t, e, "a", "2")
			e.place.inject(failOn(test.file, test.errno, test.call))
			require.ErrorIs(t, e.Flush(), test.errno)
			require.ErrorIs(t, <-told, test.errno)
			var b engine.Batch
			b.Put([]byte("b"), []byte("3"))
			require.ErrorContains(t, e.Commit(&b), "the engine has stopped")
			_, err = e.Durable([]byte("a"))
			require.ErrorContains(t, err, "the engine has stopped")
			require.ErrorIs(t, e.Close(), test.errno)
			require.Empty(t, told)

			e, err = d.open(rocksdb.Options{})
			require.NoError(t, err)
			v, err := e.Durable([]byte("a"))
			require.NoError(t, err)
			require.Contains(t, []string{"1", "2"}, string(v))
			require.NoError(t, e.Close())
		})
	}
}

// What fails in the background is found out without a call that meets it.
func TestBackgroundFailure(t *testing.T) {
	told := make(chan error, 10)
	e, err := newDisk().open(rocksdb.Options{Fatal: func(err error) { told <- err }})
	require.NoError(t, err)
	e.place.inject(failOn(".sst", syscall.EIO, callWrite))
	var b engine.Batch
	b.Put([]byte("a"), make([]byte, 2*memTableBytes))
	require.NoError(t, e.Commit(&b))
	b.Reset()
	b.Put([]byte("b"), []byte("the memtable before is full"))
	if err := e.Commit(&b); err != nil {
		require.ErrorIs(t, err, syscall.EIO, "the flush may have failed before the commit")
	}
	require.ErrorIs(t, <-told, syscall.EIO)
	require.ErrorIs(t, e.Close(), syscall.EIO)
}

// A compaction that finds no room is tried again, and nothing stops.
func TestCompactionWithoutRoom(t *testing.T) {
	core, logged := observer.New(zap.ErrorLevel)
	arrived := make(chan struct{}, 1)
	log := zap.New(core, zap.Hooks(func(zapcore.Entry) error {
		select {
		case arrived <- struct{}{}:
		default:
		}
		return nil
	}))
	e, err := newDisk().open(rocksdb.Options{Logger: log, Fatal: func(err error) { t.Error(err) }})
	require.NoError(t, err)
	for i := range 3 {
		enginetest.Put(t, e, "a", fmt.Sprint(i))
		enginetest.Put(t, e, "z", fmt.Sprint(i))
		require.NoError(t, e.Flush())
	}
	e.place.inject(failOn(".sst", syscall.ENOSPC, callWrite))
	require.NoError(t, e.Compact())
	<-arrived
	require.Contains(t, logged.All()[0].Message, "tried again")
	e.place.inject(nil)
	enginetest.Put(t, e, "b", "there is room again")
	require.NoError(t, e.Flush())
	require.NoError(t, e.Compact())
	require.Equal(t, []string{"a=2", "b=there is room again", "z=2"}, contentsOf(t, e))
	require.NoError(t, e.Close())
}

// A read that fails says so; what it would have read is there when the disk is.
func TestReadFails(t *testing.T) {
	d := newDisk()
	// One table, so that no compaction meets the error.
	e, err := d.open(rocksdb.Options{MemTableBytes: 1 << 20})
	require.NoError(t, err)
	fill(t, e)
	require.NoError(t, e.Close())
	e, err = d.open(rocksdb.Options{Fatal: func(err error) { t.Error(err) }})
	require.NoError(t, err)
	s, err := e.Snapshot()
	require.NoError(t, err)
	e.place.inject(failOn(".sst", syscall.EIO, callRead))
	_, err = e.Get([]byte("00150"))
	require.ErrorIs(t, err, syscall.EIO)
	require.NotErrorIs(t, err, engine.ErrCorrupt)
	_, err = e.Durable([]byte("00150"))
	require.ErrorIs(t, err, syscall.EIO)
	require.ErrorIs(t, s.Scan(nil, nil, false, func(_, _ []byte) bool { return true }), syscall.EIO)
	e.place.inject(nil)
	v, err := e.Get([]byte("00150"))
	require.NoError(t, err)
	require.Equal(t, value(150), string(v))
	require.NoError(t, s.Close())
	require.NoError(t, e.Close())
}

// Every read while Open runs fails in turn. Open returns the error and nothing is lost, the lock included.
func TestOpenCannotRead(t *testing.T) {
	d := newDisk()
	e, err := d.open(rocksdb.Options{})
	require.NoError(t, err)
	fill(t, e)
	require.NoError(t, e.Close())
	path, err := d.copyOut()
	require.NoError(t, err)
	p := files.watch(path, d.dir)
	defer func() { require.NoError(t, files.unwatch(path)) }()
	failed := 0
	for n := range 100 {
		left := n
		hit := false
		p.inject(func(call rune, name string) error {
			if call != callRead && call != callOpen || !modelled(name) {
				return nil
			}
			if left--; left >= 0 {
				return nil
			}
			hit = true
			return syscall.EIO
		})
		e, err := rocksdb.Open(path, rocksdb.Options{Fatal: func(err error) { t.Error("Open returns its errors") }})
		p.inject(nil)
		if err == nil {
			require.NoError(t, e.Close())
		} else {
			failed++
			require.NotContains(t, err.Error(), "in use")
		}
		if !hit {
			require.Greater(t, failed, 3, "an open reads some files")
			return
		}
	}
	t.Fatal("an open read more than 100 times")
}

func TestLeakedSnapshot(t *testing.T) {
	e, err := newDisk().open(rocksdb.Options{})
	require.NoError(t, err)
	s, err := e.Snapshot()
	require.NoError(t, err)
	require.ErrorContains(t, e.Close(), "leaked snapshots: 1")
	require.ErrorIs(t, s.Close(), engine.ErrClosed)
	require.ErrorIs(t, s.Scan(nil, nil, false, nil), engine.ErrClosed)
}

// A function that a scan calls may close the snapshot that is scanned; the scan goes on.
func TestCloseSnapshotInItsScan(t *testing.T) {
	e, err := newDisk().open(rocksdb.Options{})
	require.NoError(t, err)
	enginetest.Put(t, e, "a", "1")
	enginetest.Put(t, e, "b", "2")
	s, err := e.Snapshot()
	require.NoError(t, err)
	var seen []string
	require.NoError(t, s.Scan(nil, nil, false, func(key, _ []byte) bool {
		if seen = append(seen, string(key)); len(seen) == 1 {
			require.NoError(t, s.Close())
			_, err := s.Get([]byte("a"))
			require.ErrorIs(t, err, engine.ErrClosed)
			require.NoError(t, e.Flush())
			require.NoError(t, e.Compact())
		}
		return true
	}))
	require.Equal(t, []string{"a", "b"}, seen)
	require.NoError(t, e.Close())
}

// Close ends a compaction instead of waiting for it.
func TestCloseDuringCompact(t *testing.T) {
	e, err := newDisk().open(rocksdb.Options{})
	require.NoError(t, err)
	for range 3 {
		fill(t, e)
	}
	compacting, goOn := make(chan struct{}), make(chan struct{})
	var once bool
	e.place.inject(func(call rune, name string) error {
		if call == callCreate && strings.HasSuffix(name, ".sst") && !once {
			once = true
			close(compacting)
			<-goOn
		}
		return nil
	})
	result := make(chan error, 1)
	go func() { result <- e.Compact() }()
	<-compacting
	closed := make(chan error, 1)
	go func() { closed <- e.Close() }()
	for {
		if _, err := e.Snapshot(); err != nil {
			require.ErrorIs(t, err, engine.ErrClosed)
			break
		}
	}
	close(goOn)
	require.ErrorIs(t, <-result, engine.ErrClosed)
	if err := <-closed; err != nil {
		require.ErrorContains(t, err, "leaked snapshots")
	}
}

func TestStats(t *testing.T) {
	e, err := newDisk().open(rocksdb.Options{})
	require.NoError(t, err)
	fill(t, e)
	s := e.Stats()
	require.Greater(t, s.DiskBytes, int64(100_000))
	require.Greater(t, s.LiveBytes, int64(100_000))
	require.Greater(t, s.MemoryBytes, int64(1000))
	require.NoError(t, e.Close())
	require.Equal(t, s, e.Stats(), "the last figures after Close")
}

// Compact gives back the room of what was deleted.
func TestCompactReclaims(t *testing.T) {
	dir := built(t)
	e, err := rocksdb.Open(dir, rocksdb.Options{})
	require.NoError(t, err)
	before, err := os.Stat(only(t, dir, "*.sst"))
	require.NoError(t, err)
	var b engine.Batch
	b.DeleteRange([]byte("00000"), []byte("00290"))
	require.NoError(t, e.Commit(&b))
	require.NoError(t, e.Compact())
	require.NoError(t, e.Close())
	after, err := os.Stat(only(t, dir, "*.sst"))
	require.NoError(t, err)
	require.Less(t, after.Size(), before.Size()/5)
}

func TestCheckpoint(t *testing.T) {
	dir := built(t)
	e, err := rocksdb.Open(dir, rocksdb.Options{})
	require.NoError(t, err)
	enginetest.Put(t, e, "not flushed", "1")
	want := contentsOf(t, e)
	copied := dir + "-copy"
	require.NoError(t, e.Checkpoint(copied))
	require.ErrorContains(t, e.Checkpoint(copied), copied, "it is there already")
	enginetest.Put(t, e, "later", "1")
	require.NoError(t, e.Close())
	require.Equal(t, want, contents(t, copied))
	c, err := rocksdb.Open(copied, rocksdb.Options{})
	require.NoError(t, err)
	enginetest.Put(t, c, "its own", "1")
	require.NoError(t, c.Close())
	require.ErrorIs(t, e.Checkpoint(copied), engine.ErrClosed)
}

func TestRefusedBatches(t *testing.T) {
	e, err := newDisk().open(rocksdb.Options{})
	require.NoError(t, err)
	// 2 GiB and one, as often the same memory.
	part := make([]byte, 1<<20)
	var b engine.Batch
	for i := range 2049 {
		b.Put(fmt.Append(nil, i), part)
	}
	require.ErrorContains(t, e.Commit(&b), "the limit is 2147483648")
	require.Empty(t, contentsOf(t, e))
	require.NoError(t, e.Close())
}

// A directory that may not be written is an error that says so to errors.Is.
func TestErrorsOfTheSystem(t *testing.T) {
	d := newDisk()
	path, err := d.copyOut()
	require.NoError(t, err)
	p := files.watch(path, d.dir)
	p.inject(func(call rune, name string) error {
		if call == callCreate && name != "LOCK" && modelled(name) {
			return syscall.EACCES
		}
		return nil
	})
	_, err = rocksdb.Open(path, rocksdb.Options{})
	require.True(t, errors.Is(err, fs.ErrPermission), "%v", err)
	require.NoError(t, files.unwatch(path))
}

// RocksDB's own log must not be what stops a member whose disk is full.
func TestNoRoomForItsOwnLog(t *testing.T) {
	full := failOn("LOG", syscall.ENOSPC, callWrite, callAllocate)
	d := newDisk()
	e, err := d.open(rocksdb.Options{Fatal: func(err error) { t.Error(err) }})
	require.NoError(t, err)
	e.place.inject(full)
	fill(t, e)
	require.NoError(t, e.Compact())
	require.NoError(t, e.Close())

	path, err := d.copyOut()
	require.NoError(t, err)
	files.watch(path, d.dir).inject(full)
	again, err := rocksdb.Open(path, rocksdb.Options{})
	require.NoError(t, err)
	require.Len(t, contentsOf(t, again), 300)
	require.NoError(t, again.Close())
	require.NoError(t, files.unwatch(path))
}

func TestCloseDuringScan(t *testing.T) {
	e, err := newDisk().open(rocksdb.Options{})
	require.NoError(t, err)
	enginetest.CloseDuringScan(t, e)
}
