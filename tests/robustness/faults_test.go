package robustness

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/tests/harness"
)

var (
	lasts   = flag.Duration("time", 10*time.Second, "how long random faults strike a cluster under load")
	members = flag.Int("members", 3, "members of the cluster that random faults strike")
)

// TestDraw: a seed draws the same steps again, and every fault and every choice of victims comes up.
func TestDraw(t *testing.T) {
	steps := func() (all []string) {
		for seed := range uint64(30) {
			rng := rand.New(rand.NewPCG(seed, 0))
			for range 10 {
				s := draw(rng, 5)
				for _, hit := range s.strikes {
					all = append(all, fmt.Sprint(hit.fault.name, " ", hit.whom, " ", hit.victims, s.lasts, s.rest, s.compact))
				}
			}
		}
		return all
	}
	all := steps()
	require.Equal(t, all, steps())
	text := strings.Join(all, "\n")
	for _, f := range faults() {
		for _, whom := range []string{theLeader, "one", "many"} {
			require.Contains(t, text, f.name+" "+whom)
		}
	}
}

// TestFaultsMeet has every fault meet one that is drawn, on the same member, in a cluster without load.
func TestFaultsMeet(t *testing.T) {
	t.Parallel()
	w := newWorld(t, worldOptions{kind: harness.Subject(), members: 3, seed: *seed})
	rng := rand.New(rand.NewPCG(*seed, 0))
	all := faults()
	for i, first := range all {
		second := all[rng.IntN(len(all))]
		victims := []int{i % 3}
		first.strike(w, victims, rng)
		second.strike(w, victims, rng)
		for _, f := range []fault{first, second} {
			f.heal(w, victims)
		}
		w.watchOver()
	}
	w.recover()
	w.watchOver()
}

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
