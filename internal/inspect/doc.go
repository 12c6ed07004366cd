// Package inspect says what the files of a member hold, and whether they are sound. It writes nothing: not to the
// files, not beside them, and not through the engine that it opens. It never starts a member.
//
// DumpLog prints a raft log record by record; Check looks at a whole data directory.
package inspect

import "errors"

var (
	// ErrInUse says that a member is running on the directory.
	ErrInUse = errors.New("a member is running on it")
	// ErrNothing says that there is nothing to inspect.
	ErrNothing = errors.New("there is no member's data")
)
