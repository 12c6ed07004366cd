package enginetest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// counterKey is where every batch of a history writes its number, the first being 1.
var counterKey = engine.TableKey(engine.TableMeta, []byte("n"))

// A history is the batches that were committed to one engine. What an engine shows after a power cut
// must be the effect of its first n batches, where n is the counter it shows.
type history struct {
	large   int
	batches [][]engine.Op
}

// next makes a random batch and adds it. It appends "revisions", overwrites a small set of keys, and
// deletes some of both, like a member does.
func (h *history) next(rng *rand.Rand) *engine.Batch {
	n := uint64(len(h.batches) + 1)
	b := &engine.Batch{}
	value := func() []byte {
		v := make([]byte, rng.IntN(40))
		for i := range v {
			v[i] = byte(rng.Uint32())
		}
		return v
	}
	table := func() []byte { return engine.TableKey(engine.TableLease, []byte{byte(rng.IntN(60))}) }
	revision := func(main, sub uint64) []byte {
		k := binary.BigEndian.AppendUint64(nil, main)
		return binary.BigEndian.AppendUint64(append(k, '_'), sub)
	}
	counter := rng.IntN(2) == 0
	if counter {
		b.Put(counterKey, binary.BigEndian.AppendUint64(nil, n))
	}
	for sub := range uint64(rng.IntN(6)) {
		switch rng.IntN(8) {
		case 0:
			b.Delete(table())
		case 1:
			b.DeleteRange(table(), table())
		case 2:
			b.DeleteRange(revision(rng.Uint64N(n), 0), revision(rng.Uint64N(n), 0))
		case 3, 4:
			b.Put(table(), value())
		default:
			b.Put(revision(n, sub), value())
		}
	}
	if h.large > 0 && rng.IntN(20) == 0 {
		for i := range uint64(8) {
			b.Put(revision(n, 100+i), bytes.Repeat([]byte{byte(n)}, h.large/8+1))
		}
	}
	if !counter {
		b.Put(counterKey, binary.BigEndian.AppendUint64(nil, n))
	}
	h.batches = append(h.batches, slices.Clone(b.Ops()))
	return b
}

// model returns the effect of the first n batches.
func (h *history) model(n int) map[string]string {
	m := map[string]string{}
	for _, ops := range h.batches[:n] {
		for _, op := range ops {
			switch op.Kind {
			case engine.OpPut:
				m[string(op.Key)] = string(op.Value)
			case engine.OpDelete:
				delete(m, string(op.Key))
			case engine.OpDeleteRange:
				maps.DeleteFunc(m, func(k, _ string) bool { return string(op.Key) <= k && k < string(op.Value) })
			}
		}
	}
	return m
}

func modelLines(m map[string]string) []string {
	lines := make([]string, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		lines = append(lines, k+"="+m[k])
	}
	return lines
}

// check says whether the engine shows the effect of the first n batches for an n of at least atLeast,
// and returns n.
func (h *history) check(e engine.Engine, atLeast int) (n int, err error) {
	if n, err = readCounter(e.Get(counterKey)); err != nil {
		return 0, fmt.Errorf("read the counter: %w", err)
	}
	if n < atLeast {
		return n, fmt.Errorf("batch %d was flushed, the engine is at %d", atLeast, n)
	}
	if n > len(h.batches) {
		return n, fmt.Errorf("%d batches were committed, the engine is at %d", len(h.batches), n)
	}
	s, err := e.Snapshot()
	if err != nil {
		return n, fmt.Errorf("snapshot: %w", err)
	}
	want := modelLines(h.model(n))
	err = errors.Join(compare(s, want, false), compare(s, want, true), s.Close())
	if err != nil {
		return n, fmt.Errorf("at batch %d of %d: %w", n, len(h.batches), err)
	}
	return n, nil
}

func compare(s engine.Snapshot, want []string, reverse bool) error {
	var got []string
	err := s.Scan(nil, nil, reverse, func(k, v []byte) bool {
		got = append(got, string(k)+"="+string(v))
		return true
	})
	if err != nil {
		return fmt.Errorf("scan: %w", err)
	}
	if reverse {
		slices.Reverse(got)
	}
	if slices.Equal(got, want) {
		return nil
	}
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			return fmt.Errorf("missing %.60q", want[i])
		case i >= len(want):
			return fmt.Errorf("unexpected %.60q", got[i])
		case got[i] != want[i]:
			return fmt.Errorf("found %.60q, want %.60q", got[i], want[i])
		}
	}
	return nil
}

// readCounter turns the answer of a Get of the counter into a number, 0 if there is none.
func readCounter(value []byte, err error) (int, error) {
	switch {
	case errors.Is(err, engine.ErrNotFound):
		return 0, nil
	case err != nil:
		return 0, err
	case len(value) != 8:
		return 0, fmt.Errorf("counter of %d bytes", len(value))
	}
	return int(binary.BigEndian.Uint64(value)), nil
}

// Lives of a disk in one CrashPrefix run, and commits in a life at most.
const (
	lives          = 3
	commitsPerLife = 30
)

// CrashPrefix runs a random history from a seed over several power cuts: after each of them the engine
// must open with the effect of a prefix of the batches that reaches at least to the last Flush. It
// returns nil if it does. LargeBatch is as in Harness.
func CrashPrefix(d Disk, largeBatch int, seed uint64) error {
	rng := rand.New(rand.NewPCG(seed, 3))
	hist := &history{large: largeBatch}
	atLeast := 0
	for life := range lives {
		e, err := d.Open()
		if err != nil {
			return fmt.Errorf("seed %d life %d: open: %w", seed, life, err)
		}
		n, err := hist.check(e, atLeast)
		if err == nil {
			err = checkDurable(e, n)
		}
		if err == nil {
			// What the cut took never was.
			hist.batches = hist.batches[:n]
			d, atLeast, err = liveAndCrash(d, e, hist, n, rng)
		}
		// The old disk keeps its engine until here, as a machine keeps its until the lights go out.
		if err = errors.Join(err, e.Close()); err != nil {
			return fmt.Errorf("seed %d life %d: %w", seed, life, err)
		}
	}
	return nil
}

// checkDurable checks an engine just opened: all that it shows came from the disk.
func checkDurable(e engine.Engine, n int) error {
	durable, err := readCounter(e.Durable(counterKey))
	if err != nil {
		return fmt.Errorf("read the durable counter: %w", err)
	}
	if durable != n {
		return fmt.Errorf("opened at batch %d, but batch %d is said to be durable", n, durable)
	}
	return nil
}

// liveAndCrash commits and flushes at random, with a power cut somewhere, and returns what the cut left
// and the batch up to which that must reach. flushed is the batch up to which the disk is now.
func liveAndCrash(d Disk, e engine.Engine, hist *history, flushed int, rng *rand.Rand) (Disk, int, error) {
	// guaranteed is read when the cut is recorded, from a goroutine of the engine's choosing.
	var guaranteed, atCut atomic.Int64
	guaranteed.Store(int64(flushed))
	taken := func() Disk { return nil }
	if rng.IntN(2) == 0 {
		crng := rand.New(rand.NewPCG(rng.Uint64(), 4))
		taken = d.CrashAt(rng.IntN(60), crng, func() { atCut.Store(guaranteed.Load()) })
	}
	flush := func(upTo int) error {
		if err := e.Flush(); err != nil {
			return fmt.Errorf("flush: %w", err)
		}
		guaranteed.Store(max(guaranteed.Load(), int64(upTo)))
		return nil
	}
	var background chan error
	for range rng.IntN(commitsPerLife) {
		if err := e.Commit(hist.next(rng)); err != nil {
			return nil, 0, fmt.Errorf("commit: %w", err)
		}
		upTo := len(hist.batches)
		switch rng.IntN(10) {
		case 0:
			if err := errors.Join(wait(background), flush(upTo)); err != nil {
				return nil, 0, err
			}
			background = nil
		case 1:
			if background == nil {
				background = make(chan error, 1)
				go func(done chan<- error) { done <- flush(upTo) }(background)
			}
		}
		durable, err := readCounter(e.Durable(counterKey))
		if err != nil || durable > len(hist.batches) {
			return nil, 0, fmt.Errorf("batch %d durable of %d: %w", durable, len(hist.batches), err)
		}
	}
	// Half of the cuts fall into the flush still running.
	var err error
	if rng.IntN(2) == 0 {
		err, background = wait(background), nil
	}
	durable, derr := readCounter(e.Durable(counterKey))
	reaches := max(int(guaranteed.Load()), durable)
	after := d.Crash(rng, []int{0, 50, 100}[rng.IntN(3)])
	err = errors.Join(err, derr, wait(background))
	if image := taken(); image != nil {
		return image, int(atCut.Load()), err
	}
	return after, reaches, err
}

// wait waits for a flush in the background, if there is one.
func wait(background <-chan error) error {
	if background == nil {
		return nil
	}
	return <-background
}

func testCrashPrefix(t *testing.T, h Harness) {
	for seed := range uint64(h.Seeds) {
		require.NoError(t, CrashPrefix(h.NewDisk(), h.LargeBatch, seed))
	}
}

// maxFlushOps bounds testCrashInFlush, in file system operations that one flush takes.
const maxFlushOps = 500

// testCrashInFlush cuts the power before each file system operation of a flush in turn.
func testCrashInFlush(t *testing.T, h Harness) {
	for op := range maxFlushOps {
		rng := rand.New(rand.NewPCG(uint64(op), 5))
		hist := &history{large: h.LargeBatch}
		d := h.NewDisk()
		e := open(t, d)
		commitSome := func() {
			for range 5 {
				require.NoError(t, e.Commit(hist.next(rng)))
			}
		}
		commitSome()
		require.NoError(t, e.Flush())
		before := len(hist.batches)
		commitSome()
		taken := d.CrashAt(op, rng, func() {})
		require.NoError(t, e.Flush())
		image := taken()
		require.NoError(t, e.Close())
		if image == nil {
			require.Greater(t, op, 3, "a flush takes some operations")
			return
		}
		e = open(t, image)
		_, err := hist.check(e, before)
		require.NoError(t, err, "cut before operation %d", op)
		require.NoError(t, e.Close())
	}
	t.Fatalf("a flush of ten batches took more than %d file system operations", maxFlushOps)
}
