package robustness

import (
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/dolmen-io/dolmen/tests/harness"
)

var (
	lasts   = flag.Duration("time", 10*time.Second, "how long random faults strike a cluster under load")
	members = flag.Int("members", 3, "members of the cluster that random faults strike")
)

// TestRandomFaults: whatever happens to members, their disks and the wires between them, no client is told anything that a
// single store would not have told it, no acknowledged write is lost, and all members end with the same data.
func TestRandomFaults(t *testing.T) {
	withOwnDisks(t, func(size int64) {
		w := newWorld(t, worldOptions{kind: harness.Subject(), members: *members, seed: *seed, diskSize: size})
		t.Logf("seed %d", *seed)
		defer w.report()()
		w.begin()
		rng := rand.New(rand.NewPCG(*seed, 0))
		for w.journal.now() < *lasts {
			w.take(draw(rng, *members), rng)
		}
		if acknowledged := w.settle(); acknowledged == 0 {
			t.Error("no write was acknowledged")
		}
	})
}
