// Package enginetest holds every engine to the contract of package engine: a conformance suite, a test
// of what power cuts leave, and benchmarks, that an engine's own test runs with one call each.
package enginetest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// Disk is where an engine under test lives: a directory on a file system that a power cut can be tried
// on. Only one engine is open on it at a time.
type Disk interface {
	// Open opens the engine on the disk's present contents.
	Open() (engine.Engine, error)
	// Crash returns the disk as a power cut at this moment would leave it, keeping each piece that was
	// not synced with a probability of keep percent. The engine goes on with the old disk.
	Crash(rng *rand.Rand, keep int) Disk
	// CrashAt records what a power cut just before file system operation op from now would leave.
	// before is called right before the recording. The function returned ends the recording and returns
	// the disk, or nil if there were not so many operations. rng is used until then.
	CrashAt(op int, rng *rand.Rand, before func()) (taken func() Disk)
}

// Harness is what the suite needs to know about an engine.
type Harness struct {
	// NewDisk returns an empty disk.
	NewDisk func() Disk
	// LargeBatch is a batch size in bytes that the engine treats differently from a small one, 0 if it
	// does not.
	LargeBatch int
	// Seeds is how many random histories Run tries with power cuts.
	Seeds int
}

// Run holds the engine to the whole contract.
func Run(t *testing.T, h Harness) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Harness)
	}{
		{"Order", testOrder},
		{"Batch", testBatch},
		{"Bounds", testBounds},
		{"ScanStops", testScanStops},
		{"Snapshot", testSnapshot},
		{"Bytes", testBytes},
		{"BadBatch", testBadBatch},
		{"Durable", testDurable},
		{"Reopen", testReopen},
		{"Large", testLarge},
		{"Closed", testClosed},
		{"Concurrent", testConcurrent},
		{"Compact", testCompact},
		{"Random", testRandom},
		{"CrashPrefix", testCrashPrefix},
		{"CrashInFlush", testCrashInFlush},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, h) })
	}
}

func open(t testing.TB, d Disk) engine.Engine {
	t.Helper()
	e, err := d.Open()
	require.NoError(t, err)
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			require.ErrorIs(t, err, engine.ErrClosed, "close at the end of the test")
		}
	})
	return e
}

// commit commits one batch of "key=value" puts, "-key" deletions and "lo..hi" range deletions.
func commit(t testing.TB, e engine.Engine, ops ...string) {
	t.Helper()
	var b engine.Batch
	for _, op := range ops {
		if lo, hi, ok := bytes.Cut([]byte(op), []byte("..")); ok {
			b.DeleteRange(lo, hi)
		} else if key, value, ok := bytes.Cut([]byte(op), []byte("=")); ok {
			b.Put(key, value)
		} else {
			b.Delete([]byte(op[1:]))
		}
	}
	require.NoError(t, e.Commit(&b))
}

// scan returns what a scan of a new snapshot shows, as "key=value".
func scan(t testing.TB, e engine.Engine, lo, hi []byte, reverse bool) []string {
	t.Helper()
	s, err := e.Snapshot()
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	return scanOf(t, s, lo, hi, reverse)
}

func scanOf(t testing.TB, s engine.Snapshot, lo, hi []byte, reverse bool) []string {
	t.Helper()
	got := []string{}
	require.NoError(t, s.Scan(lo, hi, reverse, func(k, v []byte) bool {
		got = append(got, string(k)+"="+string(v))
		return true
	}))
	return got
}

func testOrder(t *testing.T, h Harness) {
	e := open(t, h.NewDisk())
	require.Empty(t, scan(t, e, nil, nil, false))
	require.Empty(t, scan(t, e, nil, nil, true))
	commit(t, e, "\xff\xff=5", "a=2", "\x80=4", "\x00=1", "ab=3")
	want := []string{"\x00=1", "a=2", "ab=3", "\x80=4", "\xff\xff=5"}
	require.Equal(t, want, scan(t, e, nil, nil, false))
	require.NoError(t, e.Flush())
	require.Equal(t, want, scan(t, e, nil, nil, false))
	slices.Reverse(want)
	require.Equal(t, want, scan(t, e, nil, nil, true))
}

func testBatch(t *testing.T, h Harness) {
	for _, test := range []struct {
		name          string
		before, batch []string
		want          []string
	}{
		{"empty", []string{"a=1"}, nil, []string{"a=1"}},
		{"overwrite", []string{"a=1"}, []string{"a=2"}, []string{"a=2"}},
		{"last put wins", nil, []string{"a=1", "a=2"}, []string{"a=2"}},
		{"put then delete", []string{"a=1"}, []string{"a=2", "-a"}, []string{}},
		{"delete then put", []string{"a=1"}, []string{"-a", "a=2"}, []string{"a=2"}},
		{"delete what is not there", []string{"b=1"}, []string{"-a"}, []string{"b=1"}},
		{"delete range", []string{"a=1", "b=2", "c=3", "d=4"}, []string{"b..d"}, []string{"a=1", "d=4"}},
		{"delete range then put", []string{"a=1", "b=2"}, []string{"a..c", "b=3"}, []string{"b=3"}},
		{"put then delete range", []string{"a=1"}, []string{"b=3", "a..c", "d=5"}, []string{"d=5"}},
		{"delete an empty range", []string{"b=1"}, []string{"b..b"}, []string{"b=1"}},
		{"delete an inverted range", []string{"b=1"}, []string{"c..a"}, []string{"b=1"}},
		{"delete a range without an end", []string{"b=1"}, []string{"a.."}, []string{"b=1"}},
		{"delete from the start", []string{"a=1", "b=2"}, []string{"..b"}, []string{"b=2"}},
		{"empty value", nil, []string{"a="}, []string{"a="}},
	} {
		for _, flush := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/flushed=%v", test.name, flush), func(t *testing.T) {
				d := h.NewDisk()
				e := open(t, d)
				commit(t, e, test.before...)
				if flush {
					require.NoError(t, e.Flush())
				}
				commit(t, e, test.batch...)
				require.Equal(t, test.want, scan(t, e, nil, nil, false))
				require.NoError(t, e.Close())
				require.Equal(t, test.want, scan(t, open(t, d), nil, nil, false), "after a restart")
			})
		}
	}
}

func testBounds(t *testing.T, h Harness) {
	e := open(t, h.NewDisk())
	commit(t, e, "a=1", "b=2", "b\x00=3", "c=4", "\xff=5")
	all := []string{"a=1", "b=2", "b\x00=3", "c=4", "\xff=5"}
	for _, test := range []struct {
		lo, hi string
		want   []string
	}{
		{"", "-", all},
		{"a", "-", all},
		{"b", "c", all[1:3]},
		{"b", "b\x00", all[1:2]},
		{"b\x00", "-", all[2:]},
		{"aa", "bb", all[1:3]},
		{"c", "-", all[3:]},
		{"", "a", nil},
		{"", "", nil},
		{"b", "b", nil},
		{"c", "a", nil},
		{"\xff\x00", "-", nil},
		{"d", "e", nil},
	} {
		lo, hi := []byte(test.lo), []byte(test.hi)
		if test.hi == "-" {
			hi = nil
		}
		want := append([]string{}, test.want...)
		require.Equal(t, want, scan(t, e, lo, hi, false), "[%q, %q)", lo, hi)
		slices.Reverse(want)
		require.Equal(t, want, scan(t, e, lo, hi, true), "[%q, %q) in reverse", lo, hi)
	}
	require.Equal(t, all, scan(t, e, nil, nil, false), "nil lo")
	require.NoError(t, e.Flush())
	for _, get := range []func([]byte) ([]byte, error){e.Get, e.Durable} {
		got, err := get([]byte("b\x00"))
		require.NoError(t, err)
		require.Equal(t, "3", string(got))
		for _, key := range []string{"", "aa", "b\x00\x00", "\xff\xff"} {
			_, err := get([]byte(key))
			require.ErrorIs(t, err, engine.ErrNotFound, "%q", key)
		}
	}
}

func testScanStops(t *testing.T, h Harness) {
	e := open(t, h.NewDisk())
	var b engine.Batch
	for i := range 300 {
		b.Put(fmt.Appendf(nil, "%04d", i), []byte("v"))
	}
	require.NoError(t, e.Commit(&b))
	s, err := e.Snapshot()
	require.NoError(t, err)
	for _, reverse := range []bool{false, true} {
		for _, limit := range []int{1, 2, 100, 299, 300} {
			calls := 0
			require.NoError(t, s.Scan(nil, nil, reverse, func(_, _ []byte) bool {
				calls++
				return calls < limit
			}))
			require.Equal(t, limit, calls)
		}
	}
	require.NoError(t, s.Close())
}

func testSnapshot(t *testing.T, h Harness) {
	e := open(t, h.NewDisk())
	commit(t, e, "a=1", "b=2", "c=3")
	s, err := e.Snapshot()
	require.NoError(t, err)
	commit(t, e, "a=9", "-b", "d=4")
	require.NoError(t, e.Flush())
	commit(t, e, "a..z")
	require.NoError(t, e.Flush())
	if c, ok := e.(engine.Compactor); ok {
		require.NoError(t, c.Compact())
	}
	require.Equal(t, []string{"a=1", "b=2", "c=3"}, scanOf(t, s, nil, nil, false))
	require.Equal(t, []string{"c=3", "b=2", "a=1"}, scanOf(t, s, nil, nil, true))
	v, err := s.Get([]byte("b"))
	require.NoError(t, err)
	require.Equal(t, "2", string(v))
	_, err = s.Get([]byte("d"))
	require.ErrorIs(t, err, engine.ErrNotFound)
	require.Empty(t, scan(t, e, nil, nil, false))

	// A read within a scan, and a scan that ends late, must not wait for one another.
	require.NoError(t, s.Scan(nil, nil, false, func(k, want []byte) bool {
		got, err := s.Get(k)
		require.NoError(t, err)
		require.Equal(t, want, got)
		_, err = e.Get(k)
		require.ErrorIs(t, err, engine.ErrNotFound)
		return true
	}))
	require.NoError(t, s.Close())
	_, err = s.Get([]byte("a"))
	require.ErrorIs(t, err, engine.ErrClosed)
	require.ErrorIs(t, s.Scan(nil, nil, false, func(_, _ []byte) bool { return true }), engine.ErrClosed)
	require.ErrorIs(t, s.Close(), engine.ErrClosed)
}

// testBytes checks who owns what: a batch can be reused, and what Get returned stays.
func testBytes(t *testing.T, h Harness) {
	e := open(t, h.NewDisk())
	var b engine.Batch
	b.Put([]byte("a"), []byte("first"))
	require.NoError(t, e.Commit(&b))
	b.Reset()
	got, err := e.Get([]byte("a"))
	require.NoError(t, err)
	require.NoError(t, e.Flush())
	durable, err := e.Durable([]byte("a"))
	require.NoError(t, err)
	b.Put([]byte("a"), []byte("other"))
	require.NoError(t, e.Commit(&b))
	require.NoError(t, e.Flush())
	if c, ok := e.(engine.Compactor); ok {
		require.NoError(t, c.Compact())
	}
	again, err := e.Get([]byte("a"))
	require.NoError(t, err)
	require.NoError(t, e.Close())
	require.Equal(t, "first", string(got))
	require.Equal(t, "first", string(durable))
	require.Equal(t, "other", string(again))
}

// testBadBatch checks that a batch an engine cannot take changes nothing.
func testBadBatch(t *testing.T, h Harness) {
	e := open(t, h.NewDisk())
	commit(t, e, "a=1")
	var b engine.Batch
	b.Put([]byte("a"), []byte("2"))
	b.Put(nil, []byte("3"))
	require.Error(t, e.Commit(&b))
	require.Equal(t, []string{"a=1"}, scan(t, e, nil, nil, false))
	commit(t, e, "b=2")
	require.Equal(t, []string{"a=1", "b=2"}, scan(t, e, nil, nil, false))
}

func testDurable(t *testing.T, h Harness) {
	d := h.NewDisk()
	e := open(t, d)
	key := []byte("a")
	want := func(value string) {
		t.Helper()
		got, err := e.Durable(key)
		if value == "" {
			require.ErrorIs(t, err, engine.ErrNotFound)
			return
		}
		require.NoError(t, err)
		require.Equal(t, value, string(got))
	}
	want("")
	commit(t, e, "a=1")
	want("")
	require.NoError(t, e.Flush())
	want("1")
	commit(t, e, "a=2")
	want("1")
	got, err := e.Get(key)
	require.NoError(t, err)
	require.Equal(t, "2", string(got))
	require.NoError(t, e.Flush())
	require.NoError(t, e.Flush(), "nothing to flush")
	want("2")
	commit(t, e, "-a")
	want("2")
	require.NoError(t, e.Close())
	e = open(t, d)
	want("")
	stats := e.Stats()
	require.Positive(t, stats.DiskBytes)
	require.LessOrEqual(t, stats.LiveBytes, stats.DiskBytes)
	require.GreaterOrEqual(t, stats.MemoryBytes, int64(0))
}

func testReopen(t *testing.T, h Harness) {
	d := h.NewDisk()
	model := map[string]string{}
	for round := range 5 {
		e := open(t, d)
		for i := range 200 {
			k, v := fmt.Sprintf("%03d", (i*7+round*50)%400), fmt.Sprint(round, "/", i)
			model[k] = v
			commit(t, e, k+"="+v)
		}
		if round%2 == 0 {
			require.NoError(t, e.Flush())
		}
		require.NoError(t, e.Close())
	}
	require.Equal(t, modelLines(model), scan(t, open(t, d), nil, nil, false))
}

// testLarge commits values and batches beyond every buffer.
func testLarge(t *testing.T, h Harness) {
	d := h.NewDisk()
	e := open(t, d)
	var b engine.Batch
	value := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	b.Put([]byte("huge"), value)
	for i := range 2000 {
		b.Put(fmt.Appendf(nil, "k%05d", i), value[:500])
	}
	b.DeleteRange([]byte("k00100"), []byte("k01900"))
	require.NoError(t, e.Commit(&b))
	commit(t, e, "k00000=after")
	check := func() {
		t.Helper()
		got, err := e.Get([]byte("huge"))
		require.NoError(t, err)
		require.True(t, bytes.Equal(value, got))
		lines := scan(t, e, []byte("k"), []byte("l"), false)
		require.Len(t, lines, 200)
		require.Equal(t, "k00000=after", lines[0])
	}
	check()
	require.NoError(t, e.Flush())
	check()
	require.NoError(t, e.Close())
	e = open(t, d)
	check()
}

func testClosed(t *testing.T, h Harness) {
	e := open(t, h.NewDisk())
	commit(t, e, "a=1")
	require.NoError(t, e.Close())
	require.ErrorIs(t, e.Close(), engine.ErrClosed)
	require.ErrorIs(t, e.Flush(), engine.ErrClosed)
	require.ErrorIs(t, e.Commit(&engine.Batch{}), engine.ErrClosed)
	_, err := e.Get([]byte("a"))
	require.ErrorIs(t, err, engine.ErrClosed)
	_, err = e.Durable([]byte("a"))
	require.ErrorIs(t, err, engine.ErrClosed)
	_, err = e.Snapshot()
	require.ErrorIs(t, err, engine.ErrClosed)
	if c, ok := e.(engine.Compactor); ok {
		require.ErrorIs(t, c.Compact(), engine.ErrClosed)
	}
	e.Stats()
}
