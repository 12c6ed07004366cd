package memory

import (
	"errors"
	"fmt"
	"io/fs"
)

var errReadOnly = errors.New("the engine is open for reading only")

// OpenReadOnly opens the engine in dir to look at it: nothing is written and no lock is taken, so the caller must
// know that no other process writes to it. Commit and Flush fail. The newest checkpoint is read and checked as a
// whole. The error wraps fs.ErrNotExist if there is none, and engine.ErrCorrupt if it is damaged.
func OpenReadOnly(dir string, opts Options) (*Engine, error) {
	e := &Engine{name: dir, dir: opts.Directory, log: opts.Logger, writing: make(chan struct{}, 1), readOnly: true}
	if e.dir == nil {
		e.dir = &osDirectory{path: dir}
	}
	v, err := e.newest()
	if err == nil && e.number == 0 {
		err = fmt.Errorf("there is no checkpoint in it: %w", fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("memory: open %s: %w", dir, err)
	}
	e.current.Store(v)
	e.durable.Store(v)
	e.writing <- struct{}{}
	return e, nil
}
