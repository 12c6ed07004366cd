//go:build rocksdb

package rocksdb

/*
#cgo LDFLAGS: -lrocksdb
#cgo noescape dolmen_write
#cgo nocallback dolmen_write
#cgo noescape dolmen_get
#cgo nocallback dolmen_get
#include "bridge.h"
*/
import "C"

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/gate"
)

// Built says whether the engine is part of this program.
const Built = true

// Engine is an engine.Engine on RocksDB.
type Engine struct {
	name     string
	log      *zap.Logger
	readOnly bool
	gate     *gate.Gate
	failure  *failure
	figures  gate.Figures

	// What C owns, freed by free, once nothing is under way.
	db          *C.rocksdb_t
	write, test *C.rocksdb_writeoptions_t
	read        *C.rocksdb_readoptions_t
	persisted   *C.rocksdb_readoptions_t
	flushing    *C.rocksdb_flushoptions_t
	// batch belongs to Commit, nothing is an empty one that stays so.
	batch, nothing *C.rocksdb_writebatch_t

	packed []byte // Commit's

	snapshots struct {
		sync.Mutex
		open map[*snapshot]struct{}
	}

	// closing is closed when Close begins, watched when the watching goroutine has ended.
	closing, watched chan struct{}
}

var (
	_ engine.Engine    = (*Engine)(nil)
	_ engine.Compactor = (*Engine)(nil)
)

// newEngine returns an engine around an open database.
func newEngine(dir string, db *C.rocksdb_t, opts Options) *Engine {
	e := &Engine{
		name: dir, log: opts.Logger, gate: gate.New(), failure: newFailure(opts.Fatal), db: db,
		write: C.rocksdb_writeoptions_create(), test: C.rocksdb_writeoptions_create(),
		read: C.rocksdb_readoptions_create(), persisted: C.rocksdb_readoptions_create(),
		flushing: C.rocksdb_flushoptions_create(),
		batch:    C.rocksdb_writebatch_create(), nothing: C.rocksdb_writebatch_create(),
		closing: make(chan struct{}), watched: make(chan struct{}),
	}
	if e.log == nil {
		e.log = zap.NewNop()
	}
	e.snapshots.open = map[*snapshot]struct{}{}
	C.rocksdb_writeoptions_disable_WAL(e.write, 1)
	C.rocksdb_writeoptions_disable_WAL(e.test, 1)
	C.rocksdb_writeoptions_set_no_slowdown(e.test, 1)
	C.rocksdb_readoptions_set_read_tier(e.persisted, persistedTier)
	return e
}

// persistedTier is RocksDB's kPersistedTier, for which its C API has no name: with its log off it reads tables
// only.
const persistedTier = 2

// free gives back what C owns. Nothing may be under way.
func (e *Engine) free() {
	C.rocksdb_writebatch_destroy(e.batch)
	C.rocksdb_writebatch_destroy(e.nothing)
	C.rocksdb_flushoptions_destroy(e.flushing)
	C.rocksdb_readoptions_destroy(e.persisted)
	C.rocksdb_readoptions_destroy(e.read)
	C.rocksdb_writeoptions_destroy(e.test)
	C.rocksdb_writeoptions_destroy(e.write)
	C.rocksdb_close(e.db)
}

var errReadOnly = errors.New("the engine is open for reading only")

// enter begins a call, which must leave the gate if the error is nil.
func (e *Engine) enter(op string) error {
	if !e.gate.Enter() {
		return fmt.Errorf("rocksdb: %s: %w", op, engine.ErrClosed)
	}
	if err := e.failure.get(); err != nil {
		e.gate.Leave()
		return fmt.Errorf("rocksdb: %s: the engine has stopped: %w", op, err)
	}
	return nil
}

// enterWriting is enter for a call that changes something.
func (e *Engine) enterWriting(op string) error {
	if err := e.enter(op); err != nil {
		return err
	}
	if e.readOnly {
		e.gate.Leave()
		return fmt.Errorf("rocksdb: %s: %w", op, errReadOnly)
	}
	return nil
}

const (
	// maxBatchBytes is the largest batch, in bytes. RocksDB takes up to 4 GiB; raft's limits are far below.
	maxBatchBytes = 2 << 30

	// maxKeptBytes bounds the buffers that Commit keeps for the next batch, in bytes.
	maxKeptBytes = 1 << 20
)

// Commit implements engine.Engine. It refuses a batch with an empty key, or with more than 2 GiB, as a whole. It
// waits while more than three memtables are not flushed.
func (e *Engine) Commit(b *engine.Batch) error {
	if err := e.enterWriting("commit"); err != nil {
		return err
	}
	defer e.gate.Leave()
	if b.Bytes() > maxBatchBytes {
		return fmt.Errorf("rocksdb: commit: batch of %d bytes, the limit is %d", b.Bytes(), maxBatchBytes)
	}
	packed, err := pack(e.packed[:0], b.Ops())
	if err != nil {
		return fmt.Errorf("rocksdb: commit: %w", err)
	}
	if len(packed) == 0 {
		return nil
	}
	err = e.wrapWrite("commit", C.dolmen_write(e.db, e.write, e.batch, pointer(packed), C.size_t(len(packed))))
	if e.packed = packed; len(packed) > maxKeptBytes {
		e.packed = nil
		C.rocksdb_writebatch_destroy(e.batch)
		e.batch = C.rocksdb_writebatch_create()
	}
	return err
}

// pointer is where b begins, for C to read during a call. It is nil if b is empty.
func pointer(b []byte) *C.char {
	if len(b) == 0 {
		return nil
	}
	return (*C.char)(unsafe.Pointer(unsafe.SliceData(b)))
}

// view is C's bytes without a copy. They are valid as long as C says.
func view(p *C.char, n C.size_t) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(p)), int(n)) }

// Get implements engine.Engine.
func (e *Engine) Get(key []byte) ([]byte, error) {
	if err := e.enter("get"); err != nil {
		return nil, err
	}
	defer e.gate.Leave()
	return e.get("get", e.read, key)
}

// Durable implements engine.Engine. It reads tables only, whose entries in the manifest are synced.
func (e *Engine) Durable(key []byte) ([]byte, error) {
	if err := e.enter("durable"); err != nil {
		return nil, err
	}
	defer e.gate.Leave()
	return e.get("durable", e.persisted, key)
}

// get reads a value. The contract has it outlive the engine, so it is copied once, from where RocksDB keeps it:
// the value is pinned there, and not copied by RocksDB first.
func (e *Engine) get(op string, options *C.rocksdb_readoptions_t, key []byte) ([]byte, error) {
	if len(key) == 0 {
		return nil, engine.ErrNotFound
	}
	found := C.dolmen_get(e.db, options, pointer(key), C.size_t(len(key)))
	if found.err != nil {
		return nil, e.wrapRead(op, found.err)
	}
	if found.slice == nil {
		return nil, engine.ErrNotFound
	}
	value := bytes.Clone(view(found.data, found.length))
	C.rocksdb_pinnableslice_destroy(found.slice)
	return value, nil
}

// Flush implements engine.Engine.
func (e *Engine) Flush() error {
	if err := e.enterWriting("flush"); err != nil {
		return err
	}
	defer e.gate.Leave()
	return e.flush("flush")
}

// flush returns when all memtables are tables, those that were being flushed already included.
func (e *Engine) flush(op string) error {
	var cerr *C.char
	C.rocksdb_flush(e.db, e.flushing, &cerr)
	return e.wrapWrite(op, cerr)
}

// Compact implements engine.Compactor. Close ends it.
func (e *Engine) Compact() error {
	if err := e.enterWriting("compact"); err != nil {
		return err
	}
	defer e.gate.Leave()
	options := C.rocksdb_compactoptions_create()
	defer C.rocksdb_compactoptions_destroy(options)
	// The compactions that flushes call for go on meanwhile, so that commits need not wait.
	C.rocksdb_compactoptions_set_exclusive_manual_compaction(options, 0)
	C.rocksdb_compact_range_opt(e.db, options, nil, 0, nil, 0)
	select {
	case <-e.closing:
		return fmt.Errorf("rocksdb: compact: %w", engine.ErrClosed)
	default:
	}
	// The C API does not return this call's own error.
	return e.stopped("compact")
}

// Close implements engine.Engine. It ends compactions, and waits for all other calls that are under way. After a
// failure it does not flush, and returns the failure.
func (e *Engine) Close() error {
	if !e.gate.Close() {
		return fmt.Errorf("rocksdb: close: %w", engine.ErrClosed)
	}
	close(e.closing)
	C.rocksdb_disable_manual_compaction(e.db)
	<-e.gate.Empty()
	<-e.watched
	err := e.releaseSnapshots()
	if e.failure.get() == nil && !e.readOnly {
		err = errors.Join(err, e.flush("close"))
	} else if failure := e.failure.get(); failure != nil {
		err = errors.Join(err, fmt.Errorf("rocksdb: close: the engine has stopped: %w", failure))
	}
	e.free()
	return err
}

// Checkpoint writes a copy of everything committed before the call to dir, which must not be there; Open opens it.
// Tables are linked and not copied if dir is on the same file system. The copy is durable when it returns.
func (e *Engine) Checkpoint(dir string) error {
	if err := e.enterWriting("checkpoint"); err != nil {
		return err
	}
	defer e.gate.Leave()
	op := "checkpoint to " + dir
	var cerr *C.char
	checkpoint := C.rocksdb_checkpoint_object_create(e.db, &cerr)
	if cerr != nil {
		return e.wrapRead(op, cerr)
	}
	defer C.rocksdb_checkpoint_object_destroy(checkpoint)
	name := C.CString(dir)
	defer C.free(unsafe.Pointer(name))
	// 0: what is in memtables is flushed first, since no log has it.
	C.rocksdb_checkpoint_create(checkpoint, name, 0, &cerr)
	return e.wrapRead(op, cerr)
}

// Verify reads everything the engine holds, deleted ranges included, which checks each block's checksum. The error
// wraps engine.ErrCorrupt and names the file.
func (e *Engine) Verify() error {
	if err := e.enter("verify"); err != nil {
		return err
	}
	defer e.gate.Leave()
	options := C.rocksdb_readoptions_create()
	C.rocksdb_readoptions_set_fill_cache(options, 0)
	C.rocksdb_readoptions_set_ignore_range_deletions(options, 1)
	return e.scan("verify", options, nil, nil, false, func(_, _ []byte) bool { return true })
}
