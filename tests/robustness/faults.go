package robustness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/dolmen-io/dolmen/tests/harness"
)

// fault is one way to harm some members; heal takes it back as far as it is not over by itself.
type fault struct {
	name   string
	often  int // of all faults' sum
	strike func(w *world, victims []int, rng *rand.Rand)
	heal   func(w *world, victims []int)
}

// faults are all of them. What they draw, they draw from rng, so that a seed draws the same again.
func faults() []fault {
	healed := func(w *world, _ []int) { w.network.heal() }
	cut := func(w *world, victims []int, into, out bool) {
		for _, v := range victims {
			others := w.others(victims)
			if len(others) == 0 { // all are victims: each is cut off from each
				others = w.others([]int{v})
			}
			for _, other := range others {
				if into {
					w.network.set(name(other), name(v), condition{cut: true})
				}
				if out {
					w.network.set(name(v), name(other), condition{cut: true})
				}
			}
		}
	}
	return []fault{
		{"kill", 20, func(w *world, victims []int, _ *rand.Rand) { w.end(victims, (*harness.Server).Kill) }, (*world).revive},
		{"stop", 4, func(w *world, victims []int, _ *rand.Rand) { w.end(victims, (*harness.Server).Stop) }, (*world).revive},
		{"pause", 12, func(w *world, victims []int, _ *rand.Rand) {
			for _, v := range victims {
				if !w.dead[v] {
					w.cluster.Pause(v)
				}
			}
		}, (*world).resume},
		{"isolate", 14, func(w *world, victims []int, _ *rand.Rand) { cut(w, victims, true, true) }, healed},
		{"deafen", 9, func(w *world, victims []int, _ *rand.Rand) { cut(w, victims, true, false) }, healed},
		{"mute", 9, func(w *world, victims []int, _ *rand.Rand) { cut(w, victims, false, true) }, healed},
		{"delay", 8, func(w *world, victims []int, rng *rand.Rand) {
			for _, v := range victims {
				for _, other := range w.others([]int{v}) {
					w.network.set(name(v), name(other), condition{delay: between(rng, time.Millisecond, 400*time.Millisecond)})
					w.network.set(name(other), name(v), condition{delay: between(rng, time.Millisecond, 400*time.Millisecond)})
				}
			}
		}, healed},
		{"reset", 6, func(w *world, victims []int, _ *rand.Rand) {
			for _, v := range victims {
				w.proxies[v].reset()
			}
		}, func(*world, []int) {}},
		{"slow disk", 10, func(w *world, victims []int, rng *rand.Rand) {
			for _, v := range victims {
				w.disks.set(v, between(rng, 10*time.Millisecond, time.Second))
			}
		}, (*world).speed},
		{"stalled disk", 8, func(w *world, victims []int, _ *rand.Rand) {
			for _, v := range victims {
				w.stall(v)
			}
		}, (*world).speed},
		{"full disk", 8, func(w *world, victims []int, _ *rand.Rand) {
			for _, v := range victims {
				w.fill(v)
			}
		}, (*world).free},
	}
}

// fillLeaves is less than what a member wants for writes, two segments of its log of 64 MiB and a flush, and more than
// what is still on its way needs.
const fillLeaves = 100 << 20

// fill fills the disk of a member, if it has one of its own.
func (w *world) fill(i int) {
	if w.options.diskSize == 0 {
		return
	}
	w.journal.mayBeFull.Store(true)
	if err := fill(w.cluster.Members[i].DataDir, fillLeaves); err != nil {
		w.tb.Errorf("fill the disk of %s: %v", name(i), err)
	}
}

// free makes room on disks again.
func (w *world) free(victims []int) {
	for _, v := range victims {
		if err := free(w.cluster.Members[v].DataDir); err != nil {
			w.tb.Errorf("free the disk of %s: %v", name(v), err)
		}
	}
}

// stall has no fsync of a member end until speed.
func (w *world) stall(i int) { w.disks.set(i, time.Hour) }

// speed makes disks fast again.
func (w *world) speed(victims []int) {
	for _, v := range victims {
		w.disks.set(v, 0)
	}
}

// resume lets paused processes go on.
func (w *world) resume(victims []int) {
	for _, v := range victims {
		if !w.dead[v] {
			w.cluster.Resume(v)
		}
	}
}

// end ends processes. What would keep one from ending when it is asked to is over before.
func (w *world) end(victims []int, how func(*harness.Server)) {
	w.resume(victims)
	w.speed(victims)
	for _, v := range victims {
		if !w.dead[v] {
			how(w.cluster.Members[v])
			w.dead[v] = true
		}
	}
}

// revive starts processes that end has ended. It does not wait until they are ready.
func (w *world) revive(victims []int) {
	for _, v := range victims {
		if w.dead[v] {
			w.cluster.Begin(v)
			w.dead[v] = false
		}
	}
}

// between draws a time, short ones more often than long ones.
func between(rng *rand.Rand, least, most time.Duration) time.Duration {
	share := rng.Float64()
	return least + time.Duration(share*share*float64(most-least))
}

// others are the members that are not among some.
func (w *world) others(some []int) []int {
	var all []int
	for i := range w.cluster.Members {
		if !w.gone[i] && !slices.Contains(some, i) {
			all = append(all, i)
		}
	}
	return all
}

// leader returns the number of the member that leads, -1 if none says so within a moment. Of two that say so, it is the one
// of the newer term.
func (w *world) leader() int {
	leader, term := -1, uint64(0)
	for _, i := range w.others(nil) {
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		status, err := w.etcds[i].Status(ctx, w.cluster.Members[i].Endpoint())
		cancel()
		if err == nil && status.Leader == status.Header.MemberId && status.RaftTerm > term {
			leader, term = i, status.RaftTerm
		}
	}
	return leader
}

// step is one part of a schedule: one fault or two, for a while, and a while without.
type step struct {
	strikes     []strike
	lasts, rest time.Duration
	compact     bool
}

const theLeader = "the leader"

// strike is a fault and whom it hits.
type strike struct {
	fault   fault
	whom    string // the leader, one, or many
	victims []int  // instead of a leader, if there is none when it strikes
}

// draw draws a step for n members.
func draw(rng *rand.Rand, n int) step {
	var s step
	for range 1 + rng.IntN(4)/3 {
		s.strikes = append(s.strikes, drawStrike(rng, n))
	}
	s.lasts = between(rng, 50*time.Millisecond, 9*time.Second)
	s.rest = between(rng, 0, 4*time.Second)
	s.compact = rng.IntN(3) == 0
	return s
}

func drawStrike(rng *rand.Rand, n int) strike {
	all := faults()
	sum := 0
	for _, f := range all {
		sum += f.often
	}
	at := 0
	for left := rng.IntN(sum); left >= all[at].often; at++ {
		left -= all[at].often
	}
	s := strike{fault: all[at]}
	order := rng.Perm(n)
	switch whom := rng.IntN(10); {
	case whom < 4:
		s.whom, s.victims = theLeader, order[:1]
	case whom < 7:
		s.whom, s.victims = "one", order[:1]
	default:
		s.whom, s.victims = "many", order[:1+rng.IntN(n)]
	}
	return s
}

// take goes one step, and logs what it is. Every fault is healed at its end; a member that was started need not be ready.
func (w *world) take(s step, rng *rand.Rand) {
	w.tb.Helper()
	var told []string
	leader := w.leader()
	for i := range s.strikes {
		hit := &s.strikes[i]
		if hit.whom == theLeader && leader >= 0 {
			hit.victims = []int{leader}
		}
		told = append(told, fmt.Sprintf("%s %s %v", hit.fault.name, hit.whom, hit.victims))
		hit.fault.strike(w, hit.victims, rng)
	}
	w.tb.Logf("%6.1f s, the leader is %d: %s for %v, then rest for %v", w.journal.now().Seconds(), leader, strings.Join(told, " and "),
		s.lasts.Round(time.Millisecond), s.rest.Round(time.Millisecond))
	pause(context.Background(), s.lasts)
	w.free(w.others(nil)) // first: what starts needs room
	for _, hit := range s.strikes {
		hit.fault.heal(w, hit.victims)
	}
	w.watchOver()
	pause(context.Background(), s.rest)
	if s.compact {
		w.compact()
	}
	w.watchOver()
}

// watchOver fails the test if a member has ended by itself.
func (w *world) watchOver() {
	w.tb.Helper()
	for i, m := range w.cluster.Members {
		if last, died := m.Died(); died && !w.gone[i] {
			w.tb.Fatalf("%s has ended by itself:\n%s", name(i), last)
		}
	}
}

// compact compacts what every watcher has been told of.
func (w *world) compact() {
	// A watcher is told what was there before an event; that has to be left.
	revision := w.knownToAll() - 2
	if revision < 2 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), callPatience)
	defer cancel()
	if _, err := w.all.Compact(ctx, revision); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		w.journal.failed(err)
	}
}
