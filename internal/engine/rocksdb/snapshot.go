//go:build rocksdb

package rocksdb

/*
#cgo noescape dolmen_scan_new
#cgo nocallback dolmen_scan_new
#cgo nocallback dolmen_scan_first
#cgo nocallback dolmen_scan_next
#include "bridge.h"
*/
import "C"

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// Snapshot implements engine.Engine.
func (e *Engine) Snapshot() (engine.Snapshot, error) {
	if err := e.enter("snapshot"); err != nil {
		return nil, err
	}
	defer e.gate.Leave()
	s := &snapshot{engine: e, snap: C.rocksdb_create_snapshot(e.db), read: C.rocksdb_readoptions_create()}
	s.users.Store(1)
	C.rocksdb_readoptions_set_snapshot(s.read, s.snap)
	e.snapshots.Lock()
	defer e.snapshots.Unlock()
	e.snapshots.open[s] = struct{}{}
	return s, nil
}

// releaseSnapshots releases the snapshots that were not closed, and says that there were some. Nothing may be
// under way.
func (e *Engine) releaseSnapshots() error {
	e.snapshots.Lock()
	leaked := e.snapshots.open
	e.snapshots.open = map[*snapshot]struct{}{}
	e.snapshots.Unlock()
	for s := range leaked {
		if !s.closed.Swap(true) {
			s.release()
		}
	}
	if len(leaked) > 0 {
		return fmt.Errorf("rocksdb: close: leaked snapshots: %d", len(leaked))
	}
	return nil
}

// snapshot is an engine.Snapshot.
type snapshot struct {
	engine *Engine
	closed atomic.Bool
	// users counts the calls under way, and one more while the snapshot is not closed. Whoever ends last frees
	// snap and read: a function that a Scan calls may close the snapshot that is scanned.
	users atomic.Int64
	snap  *C.rocksdb_snapshot_t
	read  *C.rocksdb_readoptions_t
}

// enter begins a call, which must leave if the error is nil.
func (s *snapshot) enter(op string) error {
	if err := s.engine.enter(op); err != nil {
		return err
	}
	for n := s.users.Load(); n > 0 && !s.closed.Load(); n = s.users.Load() {
		if s.users.CompareAndSwap(n, n+1) {
			return nil
		}
	}
	s.engine.gate.Leave()
	return fmt.Errorf("rocksdb: %s: %w", op, engine.ErrClosed)
}

func (s *snapshot) leave() {
	s.release()
	s.engine.gate.Leave()
}

func (s *snapshot) release() {
	if s.users.Add(-1) == 0 {
		C.rocksdb_readoptions_destroy(s.read)
		C.rocksdb_release_snapshot(s.engine.db, s.snap)
	}
}

func (s *snapshot) Get(key []byte) ([]byte, error) {
	if err := s.enter("snapshot get"); err != nil {
		return nil, err
	}
	defer s.leave()
	return s.engine.get("snapshot get", s.read, key)
}

func (s *snapshot) Scan(lo, hi []byte, reverse bool, fn func(key, value []byte) bool) error {
	if err := s.enter("scan"); err != nil {
		return err
	}
	defer s.leave()
	if hi != nil && bytes.Compare(lo, hi) >= 0 {
		return nil
	}
	options := C.rocksdb_readoptions_create()
	C.rocksdb_readoptions_set_snapshot(options, s.snap)
	return s.engine.scan("scan", options, lo, hi, reverse, fn)
}

// scan calls fn for the keys in [lo, hi), with the bytes where RocksDB keeps them. The options become the scan's.
func (e *Engine) scan(op string, options *C.rocksdb_readoptions_t, lo, hi []byte, reverse bool,
	fn func(key, value []byte) bool,
) error {
	scan := C.dolmen_scan_new(e.db, options, pointer(lo), C.size_t(len(lo)), pointer(hi), C.size_t(len(hi)))
	if scan == nil {
		return errors.New("rocksdb: " + op + ": out of memory")
	}
	defer C.dolmen_scan_free(scan)
	backward := C.int(0)
	if reverse {
		backward = 1
	}
	for at := C.dolmen_scan_first(scan, backward); at.found != 0; at = C.dolmen_scan_next(scan, backward) {
		if !fn(view(at.key, at.key_length), view(at.value, at.value_length)) {
			return nil
		}
	}
	return e.wrapRead(op, C.dolmen_scan_error(scan))
}

func (s *snapshot) Close() error {
	if !s.engine.gate.Enter() {
		return fmt.Errorf("rocksdb: close snapshot: %w", engine.ErrClosed)
	}
	defer s.engine.gate.Leave()
	if s.closed.Swap(true) {
		return fmt.Errorf("rocksdb: close snapshot: %w", engine.ErrClosed)
	}
	s.engine.snapshots.Lock()
	delete(s.engine.snapshots.open, s)
	s.engine.snapshots.Unlock()
	s.release()
	return nil
}
