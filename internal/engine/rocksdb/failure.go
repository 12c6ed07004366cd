//go:build rocksdb

package rocksdb

// #include "bridge.h"
import "C"

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// failure keeps the first error after which the engine must not go on.
type failure struct {
	fatal func(error)
	// serving is set once Open has succeeded. Until then an error is Open's to return.
	serving atomic.Bool
	once    sync.Once
	// failed is closed after err is set; err does not change afterwards.
	failed chan struct{}
	err    error
}

func newFailure(fatal func(error)) *failure {
	return &failure{fatal: fatal, failed: make(chan struct{})}
}

// get returns the error after which the engine stopped, or nil while it goes on.
func (f *failure) get() error {
	select {
	case <-f.failed:
		return f.err
	default:
		return nil
	}
}

// set records the first failure and reports it.
func (f *failure) set(err error) {
	f.once.Do(func() {
		f.err = err
		close(f.failed)
		if f.serving.Load() && f.fatal != nil {
			f.fatal(err)
		}
	})
}

// take returns an error's text and frees it.
func take(cerr *C.char) string {
	defer C.rocksdb_free(unsafe.Pointer(cerr))
	return C.GoString(cerr)
}

// How RocksDB's errors begin that mean something of their own here.
const corruption = "Corruption: "

// systemErrors are the errors of the operating system that callers look for, by their texts, which is all that the
// C API gives.
func systemErrors() map[string]syscall.Errno {
	return map[string]syscall.Errno{
		"Permission denied":       syscall.EACCES,
		"No space left on device": syscall.ENOSPC,
		"Input/output error":      syscall.EIO,
		"Too many open files":     syscall.EMFILE,
		"Read-only file system":   syscall.EROFS,
	}
}

// meaning gives an error of RocksDB's its place and its meaning here. Damage names the file, or at least the
// directory.
func (e *Engine) meaning(op, text string) error { return meaning(e.name, op, text) }

func meaning(dir, op, text string) error {
	if detail, damaged := strings.CutPrefix(text, corruption); damaged {
		detail = strings.Replace(detail, currentFile+" file", filepath.Join(dir, currentFile), 1)
		if !strings.Contains(op+detail, dir) {
			op += " in " + dir
		}
		return fmt.Errorf("rocksdb: %s: %w: %s", op, engine.ErrCorrupt, detail)
	}
	for suffix, errno := range systemErrors() {
		if rest, found := strings.CutSuffix(text, suffix); found {
			return fmt.Errorf("rocksdb: %s: %s%w", op, rest, errno)
		}
	}
	return fmt.Errorf("rocksdb: %s: %s", op, text)
}

// wrapRead takes the error of a call that changes nothing. Damage is a failure of the engine.
func (e *Engine) wrapRead(op string, cerr *C.char) error {
	if cerr == nil {
		return nil
	}
	text := take(cerr)
	err := e.meaning(op, text)
	if strings.HasPrefix(text, corruption) {
		e.failure.set(err)
	}
	return err
}

// wrapWrite takes the error of a commit or a flush, which is a failure of the engine in any case: RocksDB takes no
// further ones then.
func (e *Engine) wrapWrite(op string, cerr *C.char) error {
	if cerr == nil {
		return nil
	}
	err := e.meaning(op, take(cerr))
	e.failure.set(err)
	return err
}

// stopped returns the error after which RocksDB takes no more commits, and records it. It asks by a commit of
// nothing.
func (e *Engine) stopped(op string) error {
	var cerr *C.char
	C.rocksdb_write(e.db, e.test, e.nothing, &cerr)
	if cerr != nil && strings.HasPrefix(C.GoString(cerr), "Incomplete: ") {
		C.rocksdb_free(unsafe.Pointer(cerr)) // commits wait for flushes, but they would be taken
		return nil
	}
	return e.wrapWrite(op, cerr)
}

// watchEvery is how soon a failure in the background is noticed while nobody commits or flushes. The C API has no
// way to be told.
const watchEvery = time.Second

// watch looks for failures in the background, and logs when commits have to wait.
func (e *Engine) watch() {
	defer close(e.watched)
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	var seen uint64
	waiting := false
	for {
		select {
		case <-e.closing:
			return
		case <-e.failure.failed:
			return
		case <-ticker.C:
		}
		if n := e.property(propErrors); n != seen {
			seen = n
			// A compaction that fails for want of space loses nothing and is tried again. All else stops RocksDB.
			if e.stopped("background work") == nil {
				e.log.Error("a compaction failed and will be tried again; is the disk full?", zap.String("directory", e.name))
			}
		}
		if now := e.property(propStopped) != 0; now != waiting {
			waiting = now
			if waiting {
				e.log.Warn("commits wait for flushes or compactions", zap.String("directory", e.name))
			} else {
				e.log.Info("commits go on", zap.String("directory", e.name))
			}
		}
	}
}
