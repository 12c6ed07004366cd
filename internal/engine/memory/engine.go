// Package memory is the engine that keeps all data in memory and makes it durable by whole checkpoint
// files.
//
// The data is a copy-on-write B+ tree. A commit copies the nodes that it changes and then publishes the
// new root with one atomic store, so readers take no lock, a snapshot is a root pointer, and a
// checkpoint is written from a snapshot while commits go on. What a commit replaces lives on for as
// long as a snapshot or the last checkpoint refers to it: besides the data, the engine holds in memory
// what was overwritten or deleted since the last Flush.
//
// A Flush writes everything, so it costs time and disk in proportion to the data and not to what
// changed. While it runs the disk holds two checkpoints.
package memory

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// Options configures an engine.
type Options struct {
	// Directory holds the checkpoints; nil means the operating system's directory of the name given to
	// Open, created if missing and locked against other processes.
	Directory Directory
	// Logger gets what an operator may want to know; nil means nobody does.
	Logger *zap.Logger
}

// Engine is an engine.Engine in memory.
type Engine struct {
	name    string
	dir     Directory
	log     *zap.Logger
	current atomic.Pointer[version]
	// durable is the version in the last complete checkpoint.
	durable atomic.Pointer[version]
	closed  atomic.Bool
	// readOnly refuses commits and flushes.
	readOnly bool

	// writing holds one token, and whoever took it may write a checkpoint and use the fields below.
	writing chan struct{}
	// number is that of the last checkpoint begun. An attempt that failed uses its number up: its file may
	// or may not be there after a crash, and nothing may be written over it.
	number uint64

	// liveBytes is the size of the last complete checkpoint, extraBytes that of the one being written
	// and of those not yet removed.
	liveBytes  atomic.Int64
	extraBytes atomic.Int64
}

var _ engine.Engine = (*Engine)(nil)

// Open loads the newest checkpoint in dir, or begins empty if there is none. Files that a crash left
// unfinished are removed. The error wraps engine.ErrCorrupt and names the file if a checkpoint is
// damaged.
func Open(dir string, opts Options) (*Engine, error) {
	e := &Engine{name: dir, dir: opts.Directory, log: opts.Logger, writing: make(chan struct{}, 1)}
	if e.log == nil {
		e.log = zap.NewNop()
	}
	if e.dir == nil {
		d, err := openDirectory(dir)
		if err != nil {
			return nil, fmt.Errorf("memory: open %s: %w", dir, err)
		}
		e.dir = d
	}
	v, err := e.load()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("memory: open %s: %w", dir, err), e.dir.Close())
	}
	e.current.Store(v)
	e.durable.Store(v)
	e.writing <- struct{}{}
	return e, nil
}

// A checkpoint has its final name only after its bytes are synced; until then it has the suffix too.
const (
	checkpointPrefix = "checkpoint-"
	unfinishedSuffix = ".tmp"
)

func checkpointName(number uint64) string { return fmt.Sprintf("%s%016x", checkpointPrefix, number) }

// parseName returns the number of a complete checkpoint's name.
func parseName(name string) (number uint64, ok bool) {
	digits, ok := strings.CutPrefix(name, checkpointPrefix)
	if !ok {
		return 0, false
	}
	number, err := strconv.ParseUint(digits, 16, 64)
	return number, err == nil && checkpointName(number) == name
}

// load reads the newest checkpoint and removes everything older and unfinished.
func (e *Engine) load() (*version, error) {
	v, err := e.newest()
	if err != nil {
		return nil, err
	}
	// A crash between the rename and the sync of the directory may take the name back. From here on
	// Durable promises this checkpoint and the older ones go, so the name must be there to stay.
	if err := e.dir.Sync(); err != nil {
		return nil, fmt.Errorf("sync the directory: %w", err)
	}
	return v, e.removeObsolete()
}

// newest reads the newest checkpoint, or returns an empty version if there is none.
func (e *Engine) newest() (*version, error) {
	names, err := e.dir.List()
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	for _, name := range names {
		if n, ok := parseName(name); ok {
			e.number = max(e.number, n)
		}
	}
	if e.number == 0 {
		return &version{root: &node{}}, nil
	}
	v, err := e.read(e.number)
	if err != nil {
		return nil, fmt.Errorf("checkpoint file %s: %w", checkpointName(e.number), err)
	}
	return v, nil
}

func (e *Engine) read(number uint64) (*version, error) {
	f, err := e.dir.Open(checkpointName(number))
	if err != nil {
		return nil, err
	}
	in := &countingReader{r: f}
	edit := (&version{root: &node{}}).edit()
	err = readCheckpoint(in, number, edit.put)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	e.liveBytes.Store(in.n)
	return edit.publish(), nil
}

// removeObsolete removes every checkpoint but the last begun, and unfinished ones.
func (e *Engine) removeObsolete() error {
	names, err := e.dir.List()
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	for _, name := range names {
		_, ok := parseName(strings.TrimSuffix(name, unfinishedSuffix))
		if !ok || name == checkpointName(e.number) {
			continue
		}
		if err := e.dir.Remove(name); err != nil {
			return fmt.Errorf("remove %s: %w", name, err)
		}
	}
	return nil
}

// Commit implements engine.Engine. It refuses a batch with an empty key or with an entry too large for
// a checkpoint, as a whole.
func (e *Engine) Commit(b *engine.Batch) error {
	if e.closed.Load() {
		return fmt.Errorf("memory: commit: %w", engine.ErrClosed)
	}
	if e.readOnly {
		return fmt.Errorf("memory: commit: %w", errReadOnly)
	}
	for _, op := range b.Ops() {
		switch {
		case op.Kind > engine.OpDeleteRange:
			return fmt.Errorf("memory: commit: unknown operation kind %d", op.Kind)
		case op.Kind == engine.OpPut && len(op.Key) == 0:
			return errors.New("memory: commit: put under an empty key")
		case op.Kind == engine.OpPut && len(op.Key)+len(op.Value) > maxEntrySize:
			return fmt.Errorf("memory: commit: entry of %d bytes, the limit is %d", len(op.Key)+len(op.Value), maxEntrySize)
		}
	}
	edit := e.current.Load().edit()
	for _, op := range b.Ops() {
		switch op.Kind {
		case engine.OpPut:
			edit.put(op.Key, op.Value)
		case engine.OpDelete:
			edit.delete(op.Key)
		case engine.OpDeleteRange:
			edit.deleteRange(op.Key, op.Value)
		}
	}
	e.current.Store(edit.publish())
	return nil
}

// Get implements engine.Engine.
func (e *Engine) Get(key []byte) ([]byte, error) { return e.get(&e.current, key) }

// Durable implements engine.Engine. It answers from the tree that was written to the last checkpoint.
func (e *Engine) Durable(key []byte) ([]byte, error) { return e.get(&e.durable, key) }

func (e *Engine) get(v *atomic.Pointer[version], key []byte) ([]byte, error) {
	if e.closed.Load() {
		return nil, fmt.Errorf("memory: get: %w", engine.ErrClosed)
	}
	value, found := v.Load().root.get(key)
	if !found {
		return nil, engine.ErrNotFound
	}
	return value, nil
}

// Stats implements engine.Engine. MemoryBytes is the data of the last commit with its place in the
// tree, without what only snapshots and the last checkpoint refer to.
func (e *Engine) Stats() engine.Stats {
	live := e.liveBytes.Load()
	return engine.Stats{DiskBytes: live + e.extraBytes.Load(), LiveBytes: live, MemoryBytes: e.current.Load().size}
}

// Flush implements engine.Engine. It writes a checkpoint in the caller's goroutine. Callers that wait
// for one another share: a checkpoint begun after a call serves that call. A failed Flush may be
// repeated; nothing is lost by it.
func (e *Engine) Flush() error {
	want := e.current.Load().seq
	<-e.writing
	defer func() { e.writing <- struct{}{} }()
	if e.closed.Load() {
		return fmt.Errorf("memory: flush: %w", engine.ErrClosed)
	}
	if e.readOnly {
		return fmt.Errorf("memory: flush: %w", errReadOnly)
	}
	return e.flush(want)
}

// flush writes a checkpoint unless the last one has commit number want. The caller has the token.
func (e *Engine) flush(want uint64) error {
	if e.durable.Load().seq >= want {
		return nil
	}
	v := e.current.Load()
	e.number++
	size, err := e.write(v)
	if err != nil {
		return fmt.Errorf("memory: flush %s to %s: %w", e.name, checkpointName(e.number), err)
	}
	e.durable.Store(v)
	old := e.liveBytes.Swap(size)
	e.extraBytes.Store(old)
	if err := e.removeObsolete(); err != nil {
		// The data is safe. The next flush tries again, and the space shows in Stats until then.
		e.log.Warn("cannot remove old checkpoints", zap.String("directory", e.name), zap.Error(err))
		return nil
	}
	e.extraBytes.Store(0)
	return nil
}

// syncEvery is how many bytes of a checkpoint are written between two syncs. The raft log shares the
// disk, and its small syncs would wait behind one of a gigabyte.
const syncEvery = 16 << 20

// write puts v into the checkpoint file of the current number and returns the file's size in bytes.
func (e *Engine) write(v *version) (size int64, err error) {
	name := checkpointName(e.number)
	f, err := e.dir.Create(name + unfinishedSuffix)
	if err != nil {
		return 0, fmt.Errorf("create: %w", err)
	}
	out := &meteredFile{f: f, meter: &e.extraBytes}
	defer out.discount()
	if err = errors.Join(encode(out, e.number, v), f.Close()); err != nil {
		return 0, errors.Join(err, e.dir.Remove(name+unfinishedSuffix))
	}
	if err := e.dir.Rename(name+unfinishedSuffix, name); err != nil {
		return 0, fmt.Errorf("rename: %w", err)
	}
	if err := e.dir.Sync(); err != nil {
		return 0, fmt.Errorf("sync the directory: %w", err)
	}
	return out.n, nil
}

// encode writes v as checkpoint number to out and syncs it.
func encode(out *meteredFile, number uint64, v *version) error {
	c, err := newCheckpointWriter(out, number)
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	v.root.ascend(nil, nil, func(key, value []byte) bool {
		err = c.add(key, value)
		return err == nil
	})
	if err == nil {
		err = c.finish()
	}
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := out.f.Sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}

// Close implements engine.Engine. If the flush fails the directory is given up all the same, and a
// later Open finds the checkpoint before.
func (e *Engine) Close() error {
	<-e.writing
	defer func() { e.writing <- struct{}{} }()
	if e.closed.Swap(true) {
		return fmt.Errorf("memory: close: %w", engine.ErrClosed)
	}
	err := e.flush(e.current.Load().seq)
	if cerr := e.dir.Close(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("memory: close %s: %w", e.name, cerr))
	}
	return err
}

// Snapshot implements engine.Engine. It costs a few words, and what commits replace while it is open.
func (e *Engine) Snapshot() (engine.Snapshot, error) {
	if e.closed.Load() {
		return nil, fmt.Errorf("memory: snapshot: %w", engine.ErrClosed)
	}
	s := &snapshot{engine: e}
	s.version.Store(e.current.Load())
	return s, nil
}

// snapshot is an engine.Snapshot. Close drops the version, so that a forgotten snapshot value does not
// keep a tree alive.
type snapshot struct {
	engine  *Engine
	version atomic.Pointer[version]
}

func (s *snapshot) load() (*version, error) {
	v := s.version.Load()
	if v == nil || s.engine.closed.Load() {
		return nil, fmt.Errorf("memory: snapshot: %w", engine.ErrClosed)
	}
	return v, nil
}

func (s *snapshot) Get(key []byte) ([]byte, error) {
	v, err := s.load()
	if err != nil {
		return nil, err
	}
	value, found := v.root.get(key)
	if !found {
		return nil, engine.ErrNotFound
	}
	return value, nil
}

func (s *snapshot) Scan(lo, hi []byte, reverse bool, fn func(key, value []byte) bool) error {
	v, err := s.load()
	if err != nil {
		return err
	}
	if hi != nil && bytes.Compare(lo, hi) >= 0 {
		return nil
	}
	if reverse {
		v.root.descend(lo, hi, fn)
	} else {
		v.root.ascend(lo, hi, fn)
	}
	return nil
}

func (s *snapshot) Close() error {
	if s.version.Swap(nil) == nil {
		return fmt.Errorf("memory: close snapshot: %w", engine.ErrClosed)
	}
	return nil
}
