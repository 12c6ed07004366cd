package memory_test

import (
	"math/rand/v2"
	"testing"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/enginetest"
	"github.com/dolmen-io/dolmen/internal/engine/memory"
)

// disk is an enginetest.Disk for this engine.
type disk struct{ *enginetest.Directory }

func (d disk) Open() (engine.Engine, error) {
	return memory.Open("test", memory.Options{Directory: d.Directory})
}

func (d disk) Crash(rng *rand.Rand, keep int) enginetest.Disk {
	return disk{d.Directory.Crash(rng, keep)}
}

func (d disk) CrashAt(op int, rng *rand.Rand, before func()) func() enginetest.Disk {
	taken := d.Directory.CrashAt(op, rng, before)
	return func() enginetest.Disk {
		if image := taken(); image != nil {
			return disk{image}
		}
		return nil
	}
}

var harness = enginetest.Harness{
	NewDisk:    func() enginetest.Disk { return disk{enginetest.NewDirectory()} },
	LargeBatch: 1 << 16,
	Seeds:      300,
}

func TestEngine(t *testing.T) { enginetest.Run(t, harness) }

func TestFaults(t *testing.T) {
	enginetest.RunFaults(t, func() enginetest.FailingDisk { return disk{enginetest.NewDirectory()} }, harness.LargeBatch)
}

func BenchmarkEngine(b *testing.B) { enginetest.Benchmark(b, harness) }
