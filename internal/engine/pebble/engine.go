// Package pebble is the engine that keeps data on disk in a log-structured merge tree, by Pebble.
//
// Pebble's own log is off: the raft log is the log. A commit goes to the memtable, and memtables become
// tables in the order in which they were filled, each with one synced entry in the manifest. A memtable
// holds whole batches, and a batch too large for one becomes a table of its own in the same queue. So
// what a crash leaves is a prefix of the batches.
//
// Nothing here may use Pebble's Ingest on an engine in service: it overtakes the memtables.
package pebble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/gate"
)

// Engine is an engine.Engine on Pebble.
type Engine struct {
	name   string
	db     *pebble.DB
	lock   io.Closer
	events *events
	gate   *gate.Gate
	// ctx ends when the engine is closed or has failed.
	ctx     context.Context
	cancel  context.CancelFunc
	figures gate.Figures
	// readOnly says that there is nothing to flush and that nothing may be.
	readOnly bool
}

var (
	_ engine.Engine    = (*Engine)(nil)
	_ engine.Compactor = (*Engine)(nil)
)

const dirMode = 0o700

// Open opens the engine in dir, which it creates if need be and locks against other processes. The error
// wraps engine.ErrCorrupt if what it reads is damaged.
func Open(dir string, opts Options) (*Engine, error) {
	fs := opts.FS
	if fs == nil {
		fs = vfs.Default
	}
	if err := makeDirectory(fs, dir); err != nil {
		return nil, fmt.Errorf("pebble: create %s: %w", dir, err)
	}
	lock, err := pebble.LockDirectory(dir, fs)
	if err != nil {
		return nil, fmt.Errorf("pebble: lock %s: it is in use by another process, stop it first: %w", dir, err)
	}
	e := &Engine{name: dir, lock: lock, gate: gate.New()}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	fatal := opts.Fatal
	e.events = newEvents(opts.Logger, func(err error) {
		e.cancel()
		if fatal != nil {
			fatal(err)
		}
	})
	popts := opts.pebbleOptions(e.events)
	popts.FS, popts.Lock = fs, lock
	if e.db, err = pebble.Open(dir, popts); err != nil {
		e.cancel()
		return nil, errors.Join(e.wrapOpen(err), lock.Close())
	}
	e.events.serving.Store(true)
	if err := e.events.failure(); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// makeDirectory makes dir and those above it, and makes their names survive a power cut.
func makeDirectory(fs vfs.FS, dir string) error {
	if _, err := fs.Stat(dir); err == nil {
		return nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	parent := fs.PathDir(dir)
	if parent != dir && parent != "." {
		if err := makeDirectory(fs, parent); err != nil {
			return err
		}
	}
	if err := fs.MkdirAll(dir, dirMode); err != nil {
		return err
	}
	d, err := fs.OpenDir(parent)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// wrap gives an error of Pebble's its place and its meaning here.
func (e *Engine) wrap(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pebble.ErrClosed):
		return fmt.Errorf("pebble: %s: %w", op, engine.ErrClosed)
	case pebble.IsCorruptionError(err):
		// The event names the file, the error often does not.
		if failure := e.events.failure(); errors.Is(failure, engine.ErrCorrupt) {
			return fmt.Errorf("pebble: %s: %w", op, failure)
		}
		return fmt.Errorf("pebble: %s in %s: %w: %w", op, e.name, engine.ErrCorrupt, err)
	default:
		return fmt.Errorf("pebble: %s: %w", op, err)
	}
}

// wrapOpen is wrap for the error of pebble.Open, which marks damaged bytes as such but not a file that the
// manifest names and that is missing or shorter than it says. The directory itself is there and locked,
// so nothing else can be missing; for the length there is only the text, which a test holds on to.
func (e *Engine) wrapOpen(err error) error {
	damaged := errors.Is(err, os.ErrNotExist) || strings.Contains(err.Error(), "object size mismatch")
	if damaged && !pebble.IsCorruptionError(err) {
		return fmt.Errorf("pebble: open %s: %w: %w", e.name, engine.ErrCorrupt, err)
	}
	return e.wrap("open "+e.name, err)
}

// enter begins a call, which must leave the gate if the error is nil.
func (e *Engine) enter(op string) error {
	if !e.gate.Enter() {
		return fmt.Errorf("pebble: %s: %w", op, engine.ErrClosed)
	}
	if err := e.events.failure(); err != nil {
		e.gate.Leave()
		return fmt.Errorf("pebble: %s: the engine has stopped: %w", op, err)
	}
	return nil
}

// maxBatchBytes is the largest batch, in bytes. Pebble panics beyond 4 GiB of its own encoding; raft's
// limits are far below.
const maxBatchBytes = 2 << 30

// Commit implements engine.Engine. It refuses a batch with an empty key, or with more than 2 GiB, as a
// whole. It waits while more than three memtables are not flushed.
func (e *Engine) Commit(b *engine.Batch) error {
	if err := e.enter("commit"); err != nil {
		return err
	}
	defer e.gate.Leave()
	if b.Bytes() > maxBatchBytes {
		return fmt.Errorf("pebble: commit: batch of %d bytes, the limit is %d", b.Bytes(), maxBatchBytes)
	}
	batch := e.db.NewBatchWithSize(b.Bytes())
	err := fill(batch, b.Ops())
	if err == nil && !batch.Empty() {
		err = batch.Commit(pebble.NoSync)
	}
	return e.wrap("commit", errors.Join(err, batch.Close()))
}

func fill(batch *pebble.Batch, ops []engine.Op) error {
	for _, op := range ops {
		var err error
		switch op.Kind {
		case engine.OpPut:
			if len(op.Key) == 0 {
				return errors.New("put under an empty key")
			}
			err = batch.Set(op.Key, op.Value, nil)
		case engine.OpDelete:
			err = batch.Delete(op.Key, nil)
		case engine.OpDeleteRange:
			if bytes.Compare(op.Key, op.Value) < 0 {
				err = batch.DeleteRange(orFirst(op.Key), op.Value, nil)
			}
		default:
			return fmt.Errorf("unknown operation kind %d", op.Kind)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// orFirst returns the least key there can be in place of an empty one, which is below all keys. Pebble
// built for tests indexes the first byte of a key it seeks.
func orFirst(lo []byte) []byte {
	if len(lo) == 0 {
		return []byte{0}
	}
	return lo
}

// Get implements engine.Engine.
func (e *Engine) Get(key []byte) ([]byte, error) {
	if err := e.enter("get"); err != nil {
		return nil, err
	}
	defer e.gate.Leave()
	return e.get(e.db, key)
}

// get reads a copy of a value: Pebble's bytes are its cache's.
func (e *Engine) get(r pebble.Reader, key []byte) ([]byte, error) {
	if len(key) == 0 {
		return nil, engine.ErrNotFound
	}
	value, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, engine.ErrNotFound
	}
	if err != nil {
		return nil, e.wrap("get", err)
	}
	value = bytes.Clone(value)
	return value, e.wrap("get", closer.Close())
}

// Durable implements engine.Engine. It reads tables only, whose entries in the manifest are synced.
func (e *Engine) Durable(key []byte) ([]byte, error) {
	if err := e.enter("durable"); err != nil {
		return nil, err
	}
	defer e.gate.Leave()
	if len(key) == 0 {
		return nil, engine.ErrNotFound
	}
	it, err := e.db.NewIter(&pebble.IterOptions{
		OnlyReadGuaranteedDurable: true,
		LowerBound:                key,
		UpperBound:                append(bytes.Clone(key), 0),
	})
	if err != nil {
		return nil, e.wrap("durable", err)
	}
	if !it.First() {
		if err := it.Close(); err != nil {
			return nil, e.wrap("durable", err)
		}
		return nil, engine.ErrNotFound
	}
	value, err := it.ValueAndErr()
	value = bytes.Clone(value)
	return value, e.wrap("durable", errors.Join(err, it.Close()))
}

// Flush implements engine.Engine.
func (e *Engine) Flush() error {
	if err := e.enter("flush"); err != nil {
		return err
	}
	defer e.gate.Leave()
	return e.flush()
}

func (e *Engine) flush() error {
	flushed, err := e.db.AsyncFlush()
	if err != nil {
		return e.wrap("flush", err)
	}
	select {
	case <-flushed:
		return nil
	case <-e.events.failed:
		return fmt.Errorf("pebble: flush: the engine has stopped: %w", e.events.failure())
	}
}

// Compact implements engine.Compactor.
func (e *Engine) Compact() error {
	if err := e.enter("compact"); err != nil {
		return err
	}
	defer e.gate.Leave()
	// Above every key: they begin with a table's byte or are client data below one.
	end := bytes.Repeat([]byte{0xff}, 64)
	err := e.db.Compact(e.ctx, orFirst(nil), end, false)
	if errors.Is(err, context.Canceled) {
		if failure := e.events.failure(); failure != nil {
			err = failure
		} else {
			err = pebble.ErrClosed
		}
	}
	return e.wrap("compact", err)
}

// Stats implements engine.Engine, by gate.Figures.
func (e *Engine) Stats() engine.Stats { return e.figures.Stats(e.gate, e.enter, e.measure) }

func (e *Engine) measure() engine.Stats {
	m := e.db.Metrics()
	disk := int64(m.DiskSpaceUsage())
	garbage := m.Table.Local.ObsoleteSize + m.Table.Local.ZombieSize +
		m.Table.Garbage.PointDeletionsBytesEstimate + m.Table.Garbage.RangeDeletionsBytesEstimate
	return engine.Stats{
		DiskBytes:   disk,
		LiveBytes:   max(0, disk-int64(garbage)),
		MemoryBytes: int64(m.MemTable.Size+m.MemTable.ZombieSize) + m.BlockCache.Size,
	}
}

// Close implements engine.Engine. It waits for calls that are under way. After a failure it does what
// can be done without waiting, since the process is about to end, and returns the failure.
func (e *Engine) Close() error {
	if !e.gate.Close() {
		return fmt.Errorf("pebble: close: %w", engine.ErrClosed)
	}
	e.cancel()
	select {
	case <-e.gate.Empty():
	case <-e.events.failed:
	}
	var err error
	if e.events.failure() == nil && !e.readOnly {
		err = e.flush()
	}
	if failure := e.events.failure(); failure != nil {
		err = fmt.Errorf("pebble: close: the engine has stopped: %w", failure)
		select {
		case <-e.gate.Empty():
		default:
			return err
		}
		if e.events.stuck.Load() {
			return err
		}
	}
	return errors.Join(err, e.wrap("close", e.db.Close()), e.lock.Close())
}

// Snapshot implements engine.Engine.
func (e *Engine) Snapshot() (engine.Snapshot, error) {
	if err := e.enter("snapshot"); err != nil {
		return nil, err
	}
	defer e.gate.Leave()
	s := &snapshot{engine: e}
	s.mu.snap = e.db.NewSnapshot()
	return s, nil
}

// snapshot is an engine.Snapshot.
type snapshot struct {
	engine *Engine
	// mu keeps Close from pulling the snapshot away from under a Get or a Scan that begins. A Scan under
	// way does not need it: an iterator holds what it reads.
	mu struct {
		sync.RWMutex
		snap *pebble.Snapshot // nil when closed
	}
}

func (s *snapshot) Get(key []byte) ([]byte, error) {
	if err := s.engine.enter("snapshot get"); err != nil {
		return nil, err
	}
	defer s.engine.gate.Leave()
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.mu.snap == nil {
		return nil, fmt.Errorf("pebble: snapshot get: %w", engine.ErrClosed)
	}
	return s.engine.get(s.mu.snap, key)
}

func (s *snapshot) iterator(lo, hi []byte) (*pebble.Iterator, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.mu.snap == nil {
		return nil, pebble.ErrClosed
	}
	return s.mu.snap.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
}

func (s *snapshot) Scan(lo, hi []byte, reverse bool, fn func(key, value []byte) bool) error {
	if err := s.engine.enter("scan"); err != nil {
		return err
	}
	defer s.engine.gate.Leave()
	lo = orFirst(lo)
	if hi != nil && bytes.Compare(lo, hi) >= 0 {
		// Still an error on a closed snapshot, so not before it is looked at.
		hi = lo
	}
	it, err := s.iterator(lo, hi)
	if err != nil {
		return s.engine.wrap("scan", err)
	}
	first, next := it.First, it.Next
	if reverse {
		first, next = it.Last, it.Prev
	}
	for ok := first(); ok; ok = next() {
		value, verr := it.ValueAndErr()
		if verr != nil {
			err = verr
			break
		}
		if !fn(it.Key(), value) {
			break
		}
	}
	return s.engine.wrap("scan", errors.Join(err, it.Close()))
}

func (s *snapshot) Close() error {
	if !s.engine.gate.Enter() {
		return fmt.Errorf("pebble: close snapshot: %w", engine.ErrClosed)
	}
	defer s.engine.gate.Leave()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.snap == nil {
		return fmt.Errorf("pebble: close snapshot: %w", engine.ErrClosed)
	}
	snap := s.mu.snap
	s.mu.snap = nil
	return s.engine.wrap("close snapshot", snap.Close())
}
