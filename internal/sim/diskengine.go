package sim

import (
	"errors"
	"io"
	"io/fs"
	prng "math/rand/v2"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/memory"
	"github.com/dolmen-io/dolmen/internal/state"
)

// diskEngine is an engine in memory on a simulated disk. A crash takes it back to any of its committed batches that
// is not before the last flush.
type diskEngine struct {
	*memory.Engine
	commits []commit // the last flushed one, and all after it
	sum     contentSum

	forgetful bool // break: nothing is made durable, and nobody told
}

// commit is the content after a batch.
type commit struct {
	content engine.Snapshot
	sum     contentSum
}

// openEngine returns an engine with content, nil for an empty one, which is durable.
func openEngine(content engine.Snapshot) (*diskEngine, error) {
	inner, err := memory.Open("", memory.Options{Directory: nowhere{}})
	if err != nil {
		return nil, err
	}
	e := &diskEngine{Engine: inner}
	if content != nil {
		var all engine.Batch
		if err := content.Scan(nil, nil, false, func(key, value []byte) bool {
			all.Put(append([]byte(nil), key...), append([]byte(nil), value...))
			return true
		}); err != nil {
			return nil, err
		}
		if err := e.Commit(&all); err != nil {
			return nil, err
		}
	}
	return e, e.Flush()
}

// Commit implements engine.Engine.
func (e *diskEngine) Commit(b *engine.Batch) error {
	if err := e.sum.add(e.Engine, b); err != nil {
		return err
	}
	if err := e.Engine.Commit(b); err != nil {
		return err
	}
	return e.note()
}

func (e *diskEngine) note() error {
	sn, err := e.Snapshot()
	if err != nil {
		return err
	}
	e.commits = append(e.commits, commit{content: sn, sum: e.sum})
	return nil
}

// Flush implements engine.Engine.
func (e *diskEngine) Flush() error {
	if len(e.commits) == 0 {
		if err := e.note(); err != nil {
			return err
		}
	}
	return e.beginFlush()()
}

// beginFlush begins a flush, which is durable when the function returned is called: a crash can come between.
func (e *diskEngine) beginFlush() (finish func() error) {
	newest := e.commits[len(e.commits)-1].content
	return func() error {
		if e.forgetful {
			return nil
		}
		for i, c := range e.commits {
			if c.content == newest {
				e.commits = append([]commit(nil), e.commits[i:]...)
			}
		}
		return nil
	}
}

// Durable implements engine.Engine.
func (e *diskEngine) Durable(key []byte) ([]byte, error) { return e.commits[0].content.Get(key) }

// Close implements engine.Engine: the content stays, as on a disk.
func (e *diskEngine) Close() error { return e.Flush() }

// replace makes content all that there is, in one durable step.
func (e *diskEngine) replace(content engine.Snapshot) error {
	next, err := openEngine(content)
	if err != nil {
		return err
	}
	e.Engine, e.commits, e.sum = next.Engine, next.commits, next.sum
	return nil
}

// crash returns the engine as it would be opened after a crash.
func (e *diskEngine) crash(rng *prng.Rand) (*diskEngine, error) {
	return openEngine(e.commits[rng.IntN(len(e.commits))].content)
}

// crashForgetful returns the engine at its newest batch that is not above index: what a disk that lies about syncs leaves
// that fits to what it has left of the log.
func (e *diskEngine) crashForgetful(index uint64) (*diskEngine, error) {
	for i := len(e.commits) - 1; ; i-- {
		was, err := openEngine(e.commits[i].content)
		if err != nil {
			return nil, err
		}
		at, err := state.Durable(was)
		if err != nil || at.Index <= index || i == 0 {
			was.forgetful = true
			return was, err
		}
	}
}

// nowhere is a directory for an engine that is never flushed to one.
type nowhere struct{}

var errNowhere = errors.New("sim: the engine has no files")

func (nowhere) Create(string) (memory.File, error) { return nil, errNowhere }
func (nowhere) Open(string) (io.ReadCloser, error) { return nil, fs.ErrNotExist }
func (nowhere) Rename(string, string) error        { return errNowhere }
func (nowhere) Remove(string) error                { return errNowhere }
func (nowhere) List() ([]string, error)            { return nil, nil }
func (nowhere) Sync() error                        { return nil }
func (nowhere) Close() error                       { return nil }
