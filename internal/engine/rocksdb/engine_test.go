//go:build rocksdb

package rocksdb_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/enginetest"
	"github.com/dolmen-io/dolmen/internal/engine/rocksdb"
)

// memTableBytes makes tests flush on their own now and then. It is the least that RocksDB takes.
const memTableBytes = 64 << 10

// disk is an enginetest.Disk for this engine. Its files are in dir; an engine that is open has copies of them in a
// place that is watched.
type disk struct{ dir *enginetest.Directory }

// newDisk returns an empty disk. RocksDB syncs the directory after it has put another manifest in the place of the one
// before, and not also in between: it relies on the order of names.
func newDisk() *disk {
	d := enginetest.NewDirectory()
	d.OrderNames()
	return &disk{d}
}

func (d *disk) Open() (engine.Engine, error) {
	e, err := d.open(rocksdb.Options{})
	if err != nil {
		return nil, err
	}
	return e, nil
}

// watchedEngine is an engine in a watched place.
type watchedEngine struct {
	*rocksdb.Engine
	place *place
	path  string
}

func (d *disk) open(opts rocksdb.Options) (*watchedEngine, error) {
	path, err := d.copyOut()
	if err != nil {
		return nil, err
	}
	opts.CacheBytes = 1 << 20
	if opts.MemTableBytes == 0 {
		opts.MemTableBytes = memTableBytes
	}
	p := files.watch(path, d.dir)
	e, err := rocksdb.Open(path, opts)
	if err != nil {
		return nil, errors.Join(err, files.unwatch(path))
	}
	return &watchedEngine{e, p, path}, nil
}

// Close closes the engine. The disk has what it wrote.
func (e *watchedEngine) Close() error {
	err := e.Engine.Close()
	if errors.Is(err, engine.ErrClosed) {
		return err
	}
	return errors.Join(err, files.unwatch(e.path))
}

// copyOut makes a place with the files of the disk.
func (d *disk) copyOut() (string, error) {
	path := files.newPlace()
	names, err := d.dir.List()
	if err == nil {
		err = os.Mkdir(path, 0o700)
	}
	for _, name := range names {
		var r io.ReadCloser
		var content []byte
		if err == nil {
			r, err = d.dir.Open(name)
		}
		if err == nil {
			content, err = io.ReadAll(r)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(path, name), content, 0o600)
		}
	}
	return path, err
}

func (s *fileServer) newPlace() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.made++
	return filepath.Join(s.root, fmt.Sprint(s.mu.made))
}

func (s *fileServer) watch(path string, dir *enginetest.Directory) *place {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &place{dir: dir}
	s.mu.places[filepath.Base(path)] = p
	return p
}

// unwatch removes a place, and says whether the model could follow everything.
func (s *fileServer) unwatch(path string) error {
	s.mu.Lock()
	p := s.mu.places[filepath.Base(path)]
	delete(s.mu.places, filepath.Base(path))
	s.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.mu.strange, os.RemoveAll(path))
}

// inject makes calls fail from now on as fault decides; nil ends it.
func (p *place) inject(fault func(call rune, name string) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.fault = fault
}

// FailFrom makes what the engine writes fail from operation n from now on, until it is called with nil.
func (d *disk) FailFrom(n int, err error) { d.dir.FailFrom(n, err) }

func (d *disk) Crash(rng *rand.Rand, keep int) enginetest.Disk { return &disk{d.dir.Crash(rng, keep)} }

func (d *disk) CrashAt(op int, rng *rand.Rand, before func()) func() enginetest.Disk {
	taken := d.dir.CrashAt(op, rng, before)
	return func() enginetest.Disk {
		if image := taken(); image != nil {
			return &disk{image}
		}
		return nil
	}
}

var harness = enginetest.Harness{
	NewDisk:    func() enginetest.Disk { return newDisk() },
	LargeBatch: memTableBytes,
	Seeds:      100,
}

func TestEngine(t *testing.T) { enginetest.Run(t, harness) }

func TestFaults(t *testing.T) {
	enginetest.RunFaults(t, func() enginetest.FailingDisk { return newDisk() }, memTableBytes)
}

// TestModelNotices shows that the disk under test forgets what is not synced: an engine whose syncs do nothing
// fails.
func TestModelNotices(t *testing.T) {
	noticed := 0
	for seed := range uint64(20) {
		d := newDisk()
		d.dir.DropSyncs()
		if err := enginetest.CrashPrefix(d, memTableBytes, seed); err != nil {
			noticed++
		}
	}
	require.Greater(t, noticed, 5)
}

// TestCrashInOpen cuts the power before each operation of the first open of a disk, and of a later one.
func TestCrashInOpen(t *testing.T) {
	used := newDisk()
	e, err := used.Open()
	require.NoError(t, err)
	fill(t, e)
	require.NoError(t, e.Close())
	for name, before := range map[string]*disk{"first": newDisk(), "later": used} {
		t.Run(name, func(t *testing.T) {
			for op := range 100 {
				rng := rand.New(rand.NewPCG(uint64(op), 6))
				d := &disk{before.dir.Crash(rng, 100)}
				path, err := d.copyOut()
				require.NoError(t, err)
				files.watch(path, d.dir)
				taken := d.CrashAt(op, rng, func() {})
				e, err := rocksdb.Open(path, rocksdb.Options{})
				require.NoError(t, err)
				image := taken()
				require.NoError(t, e.Close())
				require.NoError(t, files.unwatch(path))
				if image == nil {
					require.Greater(t, op, 5, "an open takes some operations")
					return
				}
				e2, err := image.Open()
				require.NoError(t, err, "cut before operation %d", op)
				if name == "later" {
					require.Len(t, contentsOf(t, e2), 300)
				} else {
					require.Empty(t, contentsOf(t, e2))
				}
				require.NoError(t, e2.Close())
			}
			t.Fatal("an open takes more than 100 operations")
		})
	}
}

// fileDisk is a directory of the operating system, for benchmarks with the options of a member. It cannot crash.
type fileDisk struct {
	enginetest.Disk
	dir string
}

func (d fileDisk) Open() (engine.Engine, error) { return rocksdb.Open(d.dir, rocksdb.Options{}) }

func BenchmarkEngine(b *testing.B) {
	enginetest.Benchmark(b, enginetest.Harness{
		NewDisk: func() enginetest.Disk { return fileDisk{dir: filepath.Join(b.TempDir(), "engine")} },
	})
}
