package pebble

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/dolmen-io/dolmen/internal/engine/gate"
)

// OpenReadOnly opens the engine in dir to look at it: nothing is written and no lock is taken, so the caller must
// know that no other process writes to it. Commit and Flush fail. The error wraps fs.ErrNotExist if there is no
// engine in dir, and engine.ErrCorrupt if what it reads is damaged.
func OpenReadOnly(dir string, opts Options) (*Engine, error) {
	inner := opts.FS
	if inner == nil {
		inner = vfs.Default
	}
	opts.FS = readOnlyFS{inner}
	e := &Engine{name: dir, lock: noLock{}, gate: gate.New(), readOnly: true}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.events = newEvents(opts.Logger, func(error) { e.cancel() })
	switch desc, err := pebble.Peek(dir, opts.FS); {
	case err != nil:
		e.cancel()
		return nil, fmt.Errorf("pebble: look at %s: %w", dir, err)
	case !desc.Exists:
		e.cancel()
		return nil, fmt.Errorf("pebble: there is no engine in %s: %w", dir, fs.ErrNotExist)
	}
	popts := opts.pebbleOptions(e.events)
	popts.FS, popts.ReadOnly = opts.FS, true
	db, err := pebble.Open(dir, popts)
	if err != nil {
		e.cancel()
		return nil, e.wrapOpen(err)
	}
	e.db = db
	e.events.serving.Store(true)
	if err := e.events.failure(); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// Verify reads everything the engine holds, which checks each block's checksum, and that no level contradicts
// another. The error wraps engine.ErrCorrupt and names the file.
func (e *Engine) Verify() error {
	if err := e.enter("verify"); err != nil {
		return err
	}
	defer e.gate.Leave()
	return e.wrap("verify", e.db.CheckLevels(nil))
}

type noLock struct{}

func (noLock) Close() error { return nil }

// readOnlyFS refuses to change anything, whatever Pebble's own read-only mode may forget.
type readOnlyFS struct{ vfs.FS }

func refuse(operation, name string) error {
	return &os.PathError{Op: operation, Path: name, Err: os.ErrPermission}
}

func (readOnlyFS) Create(name string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	return nil, refuse("create", name)
}
func (readOnlyFS) Link(_, name string) error { return refuse("link", name) }
func (readOnlyFS) OpenReadWrite(name string, _ vfs.DiskWriteCategory, _ ...vfs.OpenOption) (vfs.File, error) {
	return nil, refuse("open for writing", name)
}
func (readOnlyFS) Remove(name string) error    { return refuse("remove", name) }
func (readOnlyFS) RemoveAll(name string) error { return refuse("remove", name) }
func (readOnlyFS) Rename(_, name string) error { return refuse("rename", name) }
func (readOnlyFS) ReuseForWrite(_, name string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	return nil, refuse("reuse", name)
}
func (readOnlyFS) MkdirAll(name string, _ os.FileMode) error { return refuse("make", name) }

// Lock takes none: a lock file would have to be made, or opened for writing.
func (readOnlyFS) Lock(string) (io.Closer, error) { return noLock{}, nil }

// Unwrap implements vfs.FS.
func (r readOnlyFS) Unwrap() vfs.FS { return r.FS }
