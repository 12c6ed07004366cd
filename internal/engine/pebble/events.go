package pebble

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// events takes what Pebble reports from its own goroutines: it logs it, and keeps the first error after
// which the engine must not go on. It is Pebble's Logger too.
type events struct {
	log   *zap.Logger
	fatal func(error)
	// serving is set once Open has succeeded. Until then an error is Open's to return.
	serving atomic.Bool
	// stuck is set when a goroutine of Pebble's was ended in the middle: closing would wait for it.
	stuck atomic.Bool

	once sync.Once
	// failed is closed after err is set; err does not change afterwards.
	failed chan struct{}
	err    error

	// lastFlush is what the last flush ended with.
	lastFlush atomic.Pointer[error]
}

func newEvents(log *zap.Logger, fatal func(error)) *events {
	if log == nil {
		log = zap.NewNop()
	}
	return &events{log: log, fatal: fatal, failed: make(chan struct{})}
}

// failure returns the error after which the engine stopped, or nil while it goes on.
func (v *events) failure() error {
	select {
	case <-v.failed:
		return v.err
	default:
		return nil
	}
}

// fail records the first failure and reports it.
func (v *events) fail(err error) {
	v.once.Do(func() {
		v.err = err
		close(v.failed)
		if v.serving.Load() && v.fatal != nil {
			v.fatal(err)
		}
	})
}

// listener returns the functions that Pebble calls, most of them with its locks held.
func (v *events) listener() pebble.EventListener {
	return pebble.EventListener{
		BackgroundError: v.backgroundError,
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			v.fail(fmt.Errorf("pebble: %w: file %s: %w", engine.ErrCorrupt, info.Path, info.Details))
		},
		FlushEnd: func(info pebble.FlushInfo) {
			v.lastFlush.Store(&info.Err)
			v.log.Debug("flushed", zap.Stringer("flush", info))
		},
		CompactionEnd: func(info pebble.CompactionInfo) { v.log.Debug("compacted", zap.Stringer("compaction", info)) },
		DiskSlow:      func(info pebble.DiskSlowInfo) { v.log.Warn("the disk is slow", zap.Stringer("operation", info)) },
		LowDiskSpace:  func(info pebble.LowDiskSpaceInfo) { v.log.Warn("the disk fills up", zap.Stringer("space", info)) },
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
			v.log.Warn("commits wait for flushes or compactions", zap.String("reason", info.Reason))
		},
		WriteStallEnd: func() { v.log.Info("commits go on") },
		PossibleAPIMisuse: func(info pebble.PossibleAPIMisuseInfo) {
			v.log.Warn("possible misuse of pebble", zap.Stringer("what", info))
		},
	}
}

// backgroundError sorts what goes wrong in the background. A compaction that fails loses nothing and is
// tried again. A flush that fails means that the disk does not take what it must, and Pebble would try
// again without a pause for as long as the process lives.
func (v *events) backgroundError(err error) {
	if last := v.lastFlush.Load(); last != nil && errors.Is(err, *last) && *last != nil {
		v.fail(fmt.Errorf("pebble: flush: %w", err))
		return
	}
	if v.failure() == nil {
		v.log.Error("background work failed and will be tried again", zap.Error(err))
	}
}

// Infof implements pebble.Logger.
func (v *events) Infof(format string, args ...any) {
	if v.log.Core().Enabled(zap.DebugLevel) {
		v.log.Debug(fmt.Sprintf(format, args...))
	}
}

// Errorf implements pebble.Logger.
func (v *events) Errorf(format string, args ...any) { v.log.Error(fmt.Sprintf(format, args...)) }

// Fatalf implements pebble.Logger. Pebble calls it where it cannot go on, as when the manifest could not
// be written, and relies on it not to return; so it ends the goroutine that called. While Open runs that
// goroutine is Open's caller, and Open returns the error by itself.
func (v *events) Fatalf(format string, args ...any) {
	err := fmt.Errorf("pebble: "+format, args...)
	if !v.serving.Load() {
		v.log.Error(err.Error())
		return
	}
	v.stuck.Store(true)
	v.fail(err)
	runtime.Goexit()
}
