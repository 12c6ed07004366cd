package pebble_test

import (
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/enginetest"
	"github.com/dolmen-io/dolmen/internal/engine/pebble"
)

// memTableBytes makes tests flush on their own now and then.
const memTableBytes = 64 << 10

// disk is an enginetest.Disk for this engine.
type disk struct {
	fs *vfs.MemFS
	mu struct {
		sync.Mutex
		ops, at int
		record  func()
	}
}

func newDisk(fs *vfs.MemFS) *disk { return &disk{fs: fs} }

func (d *disk) Open() (engine.Engine, error) {
	return pebble.Open("data/engine", pebble.Options{
		FS:            errorfs.Wrap(d.fs, errorfs.InjectorFunc(d.step)),
		MemTableBytes: memTableBytes,
		CacheBytes:    1 << 20,
	})
}

// step is called before every operation on the file system.
func (d *disk) step(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() == errorfs.OpIsRead {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.record != nil && d.mu.ops >= d.mu.at {
		d.mu.record()
		d.mu.record = nil
	}
	d.mu.ops++
	return nil
}

func (d *disk) Crash(rng *rand.Rand, keep int) enginetest.Disk {
	return newDisk(d.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: keep, RNG: rng}))
}

func (d *disk) CrashAt(op int, rng *rand.Rand, before func()) func() enginetest.Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	var image enginetest.Disk
	d.mu.at = d.mu.ops + op
	d.mu.record = func() {
		before()
		image = d.Crash(rng, []int{0, 50, 100}[rng.IntN(3)])
	}
	return func() enginetest.Disk {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.mu.record = nil
		return image
	}
}

var harness = enginetest.Harness{
	NewDisk:    func() enginetest.Disk { return newDisk(vfs.NewCrashableMem()) },
	LargeBatch: memTableBytes,
	Seeds:      100,
}

func TestEngine(t *testing.T) { enginetest.Run(t, harness) }

// fileDisk is a directory of the operating system, for benchmarks with the options of a member. It
// cannot crash.
type fileDisk struct {
	enginetest.Disk
	dir string
}

func (d fileDisk) Open() (engine.Engine, error) { return pebble.Open(d.dir, pebble.Options{}) }

func BenchmarkEngine(b *testing.B) {
	enginetest.Benchmark(b, enginetest.Harness{
		NewDisk: func() enginetest.Disk { return fileDisk{dir: filepath.Join(b.TempDir(), "engine")} },
	})
}
