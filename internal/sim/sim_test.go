package sim

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	seeds     = flag.Int("seeds", 4, "how many seeds to run")
	firstSeed = flag.Uint64("first-seed", 1, "the first of them")
	progress  = flag.Duration("progress", 0, "how often to say how far it is, 0 for never")
)

// maxFailures is how many seeds may fail before the rest is not worth running.
const maxFailures = 3

// TestSeeds runs seeds. Each must do all that makes it worth running.
func TestSeeds(t *testing.T) {
	said := time.Now()
	began, failures := said, 0
	var all Result
	for i := range *seeds {
		r, err := Run(Options{Seed: *firstSeed + uint64(i)})
		if err != nil {
			t.Error(err)
			if failures++; failures == maxFailures {
				break
			}
			continue
		}
		require.GreaterOrEqual(t, r.Operations, 1000)
		require.GreaterOrEqual(t, r.Leaders, 1+3, "three changes")
		require.GreaterOrEqual(t, r.Installs, 1)
		require.Positive(t, r.Watched)
		t.Logf("%+v", *r)
		all.add(r)
		if *progress > 0 && time.Since(said) > *progress {
			said = time.Now()
			fmt.Fprintf(os.Stderr, "sim: %d of %d seeds from %d on in %v, %d failed\n", i+1, *seeds, *firstSeed, said.Sub(began).Round(time.Second), failures)
		}
	}
	t.Logf("%d seeds in %v: %+v", *seeds, time.Since(began), all)
	if *progress > 0 {
		fmt.Fprintf(os.Stderr, "sim: %d seeds from %d on in %v, %d failed: %s\n", *seeds, *firstSeed, time.Since(began).Round(time.Second), failures, all.short())
	}
}

func (r *Result) add(s *Result) {
	r.Steps += s.Steps
	r.Time += s.Time
	r.Operations += s.Operations
	r.Unknown += s.Unknown
	r.Leaders += s.Leaders
	r.Installs += s.Installs
	r.Crashes += s.Crashes
	r.Changes += s.Changes
	r.Watched += s.Watched
	r.Expired += s.Expired
	r.HandOvers += s.HandOvers
}

func (r *Result) short() string {
	return fmt.Sprintf("%d operations, %d of unknown outcome, %d leaders, %d installs, %d crashes, %d membership changes, "+
		"%d events watched, %d leases run out, %d hand-overs for a disk, %v simulated", r.Operations, r.Unknown, r.Leaders, r.Installs, r.Crashes, r.Changes,
		r.Watched, r.Expired, r.HandOvers, r.Time.Round(time.Second))
}

// TestASeedReplays runs seeds twice: everything that happens is the same.
func TestASeedReplays(t *testing.T) {
	for seed := range uint64(2) {
		once, err := Run(Options{Seed: seed, Trace: true})
		require.NoError(t, err)
		again, err := Run(Options{Seed: seed, Trace: true})
		require.NoError(t, err)
		require.NotEmpty(t, once.Trace)
		require.Equal(t, len(once.Trace), len(again.Trace))
		for i := range once.Trace {
			require.Equal(t, once.Trace[i], again.Trace[i])
		}
		require.Equal(t, once, again)
		short, err := Run(Options{Seed: seed})
		require.NoError(t, err)
		require.Equal(t, once.Digest, short.Digest, "whether the trace is kept changes nothing")
	}
}

// TestAFailureReplays runs a seed that fails twice: it fails at the same step, in the same way.
func TestAFailureReplays(t *testing.T) {
	broken := Options{Seed: 1, breaks: breaks{reorder: true}}
	_, err := Run(broken)
	var once, again *Failure
	require.ErrorAs(t, err, &once)
	_, err = Run(broken)
	require.ErrorAs(t, err, &again)
	require.Equal(t, once, again)
	require.Contains(t, once.Error(), "seed 1, step ")
	require.NotEmpty(t, once.Trace)
	require.LessOrEqual(t, len(once.Trace), traceLines)
}

// TestStandstillIsNoticed lets a cluster run of which no two members hear each other: nothing wrong happens, and nothing
// else either.
func TestStandstillIsNoticed(t *testing.T) {
	defer replaceEntropy(1)()
	w := newWorld(Options{Seed: 1})
	require.NoError(t, w.start())
	for _, a := range w.members {
		for _, b := range w.members {
			w.net.cut[link{a.id, b.id}] = true
		}
	}
	w.until(10*time.Second, "anything", w.worked)
	require.NotNil(t, w.failure)
	require.Equal(t, "progress", w.failure.Checker)
	require.Contains(t, w.failure.Text, "anything: not done after 10s: ")
	require.Zero(t, w.result.Leaders)
	require.Contains(t, w.failure.Text, "m1 State")
}

// TestLeaderWhoseDiskHangs hands over to members whose disks do not, and is one of them again later.
func TestLeaderWhoseDiskHangs(t *testing.T) {
	defer replaceEntropy(1)()
	w := newWorld(Options{Seed: 1})
	require.NoError(t, w.start())
	w.shape.faults = []fault{-1} // nothing else goes wrong
	leader := func() *member {
		for _, m := range w.members {
			if m.up && m.primary {
				return m
			}
		}
		return nil
	}
	w.until(time.Minute, "a leader", func() bool { return leader() != nil })
	was := leader()
	term := was.node.Status().Term
	was.hungDisk = w.now + time.Minute
	w.until(10*electionTimeout, "another leader", func() bool { return leader() != nil && leader() != was })
	require.Nil(t, w.failure)
	require.Equal(t, 1, w.result.HandOvers)
	require.Equal(t, term+1, leader().node.Status().Term)
	done := w.result.Operations + 100
	w.until(30*time.Second, "work without it", func() bool { return w.result.Operations >= done })
	require.True(t, was.node.Status().DiskStalled)
	w.settle()
	w.finish()
	require.Nil(t, w.failure)
}
