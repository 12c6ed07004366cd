package memory_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/enginetest"
	"github.com/dolmen-io/dolmen/internal/engine/memory"
)

func open(t *testing.T, d *enginetest.Directory) *memory.Engine {
	t.Helper()
	e, err := memory.Open("test", memory.Options{Directory: d})
	require.NoError(t, err)
	return e
}

func value(t *testing.T, e engine.Engine, key string) string {
	t.Helper()
	v, err := e.Get([]byte(key))
	require.NoError(t, err)
	return string(v)
}

func checkpoints(t *testing.T, d *enginetest.Directory) (names []string) {
	t.Helper()
	all, err := d.List()
	require.NoError(t, err)
	return all
}

func TestFilesAreReplaced(t *testing.T) {
	d := enginetest.NewDirectory()
	e := open(t, d)
	require.Empty(t, checkpoints(t, d))
	require.NoError(t, e.Flush())
	require.Empty(t, checkpoints(t, d), "nothing to write")
	for i := range 3 {
		enginetest.Put(t, e, "a", fmt.Sprint(i))
		require.NoError(t, e.Flush())
		require.NoError(t, e.Flush())
		require.Equal(t, []string{fmt.Sprintf("checkpoint-%016x", i+1)}, checkpoints(t, d))
	}
	stats := e.Stats()
	require.Positive(t, stats.DiskBytes)
	require.Equal(t, stats.DiskBytes, stats.LiveBytes)
	require.NoError(t, e.Close())
	again := open(t, d)
	require.Equal(t, stats.DiskBytes, again.Stats().DiskBytes, "known at once after a start")
	require.NoError(t, again.Close())
}

func TestLeftoversAreRemoved(t *testing.T) {
	d := enginetest.NewDirectory()
	e := open(t, d)
	enginetest.Put(t, e, "a", "1")
	require.NoError(t, e.Close())
	for _, name := range []string{"checkpoint-0000000000000001.tmp", "checkpoint-0000000000000002.tmp", "checkpoint-x", "notes"} {
		f, err := d.Create(name)
		require.NoError(t, err)
		_, err = f.Write([]byte("half"))
		require.NoError(t, errors.Join(err, f.Close()))
	}
	e = open(t, d)
	require.Equal(t, "1", value(t, e, "a"))
	require.Equal(t, []string{"checkpoint-0000000000000001", "checkpoint-x", "notes"}, checkpoints(t, d), "strangers stay")
	require.NoError(t, e.Close())
}

func TestDamageIsRefused(t *testing.T) {
	d := enginetest.NewDirectory()
	e := open(t, d)
	enginetest.Put(t, e, "a", "1")
	require.NoError(t, e.Close())
	name := checkpoints(t, d)[0]
	require.NoError(t, d.Flip(name, 300))
	_, err := memory.Open("test", memory.Options{Directory: d})
	require.ErrorIs(t, err, engine.ErrCorrupt)
	require.ErrorContains(t, err, name)
	require.Equal(t, []string{name}, checkpoints(t, d), "nothing is removed")
}

// TestDiskFailures lets every operation of a flush fail in turn. The flush says so, the engine goes on,
// a later flush succeeds, and what is on the disk is whole at any time.
func TestDiskFailures(t *testing.T) {
	broken := errors.New("no space left")
	for n := range 100 {
		d := enginetest.NewDirectory()
		e := open(t, d)
		enginetest.Put(t, e, "a", "1")
		require.NoError(t, e.Flush())
		enginetest.Put(t, e, "a", "2")
		d.FailFrom(n, broken)
		err := e.Flush()
		d.FailFrom(0, nil)
		durable, derr := e.Durable([]byte("a"))
		require.NoError(t, derr)
		if err == nil {
			require.Equal(t, "2", string(durable))
		} else {
			require.ErrorIs(t, err, broken)
			require.ErrorContains(t, err, "checkpoint-0000000000000002")
			require.Equal(t, "1", string(durable))
		}
		failed := err != nil
		require.Equal(t, "2", value(t, e, "a"))
		enginetest.Put(t, e, "b", "3")
		require.NoError(t, e.Flush())
		require.Len(t, checkpoints(t, d), 1)
		require.NoError(t, e.Close())
		e = open(t, d)
		require.Equal(t, "2", value(t, e, "a"))
		require.Equal(t, "3", value(t, e, "b"))
		require.NoError(t, e.Close())
		if !failed && n > 10 {
			return
		}
	}
	t.Fatal("a flush takes fewer than 100 operations")
}

// TestKillThenPowerCut ends the process within a flush, starts the engine on what the operating system
// still shows, and cuts the power then. What the start called durable must be there.
func TestKillThenPowerCut(t *testing.T) {
	killed := errors.New("process killed")
	seen := map[string]bool{}
	for n := range 20 {
		d := enginetest.NewDirectory()
		e := open(t, d)
		enginetest.Put(t, e, "a", "1")
		require.NoError(t, e.Flush())
		enginetest.Put(t, e, "a", "2")
		d.FailFrom(n, killed)
		_ = e.Flush() // What it returns nobody lives to see.
		d.FailFrom(0, nil)
		e = open(t, d)
		durable, err := e.Durable([]byte("a"))
		require.NoError(t, err)
		seen[string(durable)] = true
		e = open(t, d.Crash(rand.New(rand.NewPCG(uint64(n), 1)), 0))
		require.Equal(t, string(durable), value(t, e, "a"), "killed at operation %d", n)
		require.NoError(t, e.Close())
	}
	require.Len(t, seen, 2, "both sides of the rename were tried")
}

func TestOpenFailures(t *testing.T) {
	broken := errors.New("disk is gone")
	for n := range 6 {
		d := enginetest.NewDirectory()
		e := open(t, d)
		enginetest.Put(t, e, "a", "1")
		require.NoError(t, e.Close())
		d.FailFrom(n, broken)
		_, err := memory.Open("test", memory.Options{Directory: d})
		if n < 4 {
			require.ErrorIs(t, err, broken, "operation %d", n)
		} else {
			require.NoError(t, err)
		}
	}
}

func TestCloseThatCannotFlush(t *testing.T) {
	broken := errors.New("disk is gone")
	d := enginetest.NewDirectory()
	e := open(t, d)
	enginetest.Put(t, e, "a", "1")
	d.FailFrom(0, broken)
	require.ErrorIs(t, e.Close(), broken)
	require.ErrorIs(t, e.Close(), engine.ErrClosed)
}

// unremovable is a directory in which nothing can be removed.
type unremovable struct{ *enginetest.Directory }

func (unremovable) Remove(string) error { return errors.New("not permitted") }

func TestOldCheckpointThatStays(t *testing.T) {
	core, logs := observer.New(zapcore.WarnLevel)
	d := enginetest.NewDirectory()
	e, err := memory.Open("test", memory.Options{Directory: unremovable{d}, Logger: zap.New(core)})
	require.NoError(t, err)
	for i := range 2 {
		enginetest.Put(t, e, "a", fmt.Sprint(i))
		require.NoError(t, e.Flush(), "the data is safe")
	}
	require.Equal(t, 1, logs.FilterMessage("cannot remove old checkpoints").Len())
	stats := e.Stats()
	require.Greater(t, stats.DiskBytes, stats.LiveBytes)
	require.NoError(t, e.Close())
	e = open(t, d)
	require.Equal(t, "1", value(t, e, "a"))
	require.Len(t, checkpoints(t, d), 1)
	require.NoError(t, e.Close())
}

// counting counts the checkpoints that are begun, and holds the first up until it is released.
type counting struct {
	*enginetest.Directory
	begun, release chan struct{}
}

func (c counting) Create(name string) (memory.File, error) {
	c.begun <- struct{}{}
	<-c.release
	return c.Directory.Create(name)
}

func TestFlushesShare(t *testing.T) {
	d := counting{enginetest.NewDirectory(), make(chan struct{}, 20), make(chan struct{})}
	e, err := memory.Open("test", memory.Options{Directory: d})
	require.NoError(t, err)
	var wg sync.WaitGroup
	errs := make(chan error, 20)
	flush := func() { wg.Go(func() { errs <- e.Flush() }) }
	enginetest.Put(t, e, "a", "1")
	flush()
	<-d.begun
	// The first has begun without this. Whoever comes now needs a second one, and one is enough.
	enginetest.Put(t, e, "a", "2")
	for range 10 {
		flush()
	}
	require.Equal(t, "2", value(t, e, "a"), "reads and commits go on")
	close(d.release)
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.LessOrEqual(t, len(d.begun), 1)
	durable, err := e.Durable([]byte("a"))
	require.NoError(t, err)
	require.Equal(t, "2", string(durable))
	require.NoError(t, e.Close())
}

func TestOnDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "some", "where")
	e, err := memory.Open(dir, memory.Options{})
	require.NoError(t, err)
	_, err = memory.Open(dir, memory.Options{})
	require.ErrorContains(t, err, "in use by another process")
	require.ErrorContains(t, err, dir)
	for i := range 100 {
		enginetest.Put(t, e, fmt.Sprint(i), strings.Repeat("v", i))
		if i%30 == 0 {
			require.NoError(t, e.Flush())
		}
	}
	require.NoError(t, e.Close())
	e, err = memory.Open(dir, memory.Options{})
	require.NoError(t, err)
	require.Equal(t, strings.Repeat("v", 99), value(t, e, "99"))
	require.NoError(t, e.Close())
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 2, "a checkpoint and the lock")
}

func TestOnDiskUnusable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := memory.Open(file, memory.Options{})
	require.ErrorContains(t, err, file)
}
