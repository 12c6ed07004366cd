package sim

import (
	"fmt"
	prng "math/rand/v2"
	"time"

	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/membership"
)

// Options says what to run.
type Options struct {
	Seed uint64
	// Trace keeps the whole trace and not only its end.
	Trace bool

	breaks breaks
}

// breaks are faults of a member or of its disk that no correct one has. Tests show with them that a checker notices.
type breaks struct {
	dropSyncs       bool     // the disk reports syncs that it does not do
	reorder         bool     // entries are applied in another order than they are in the log
	staleReads      bool     // linearizable reads are served without asking anybody
	trustLeader     bool     // a leader renews leases without asking whether it still leads
	forgetLeases    bool     // a new leader does not know how much time leases have
	forwardLeases   bool     // what a leader says about leases may come into the log through the next leader
	without         []string // checkers that do not look, so that others are first
	forgetNoted     bool     // a renewal does not know of checkpoints that are on their way
	shortHistory    bool     // watchers that catch up are not given everything
	bitRot          bool     // the engine of one member changes by itself
	lazyInstall     bool     // the record of an installed snapshot waits for a hard state that somebody syncs
	forgetInstalled bool     // the log does not record an installed snapshot
	trustDisk       bool     // nobody notices that a disk hangs
}

// What a seed has to do before it is done.
const (
	wantOperations = 1000 // with a certain outcome
	wantLeaders    = 4    // the first, and three changes
	wantInstalls   = 1
)

// Times of the simulated world. The first three are etcd's defaults.
const (
	tickInterval    = 100 * time.Millisecond
	electionTicks   = 10
	electionTimeout = electionTicks * tickInterval
	// mayTake bounds the simulated time of a run, and settling that of coming to rest after all faults have ended.
	// A healthy run takes about a tenth of the former.
	mayTake  = 20 * time.Minute
	settling = 2 * time.Minute
	// maxSkew is how much faster or slower than time a member's clock may go, in percent.
	maxSkew = 5
)

// Result is what a run did.
type Result struct {
	Seed       uint64
	Members    int // at the start
	Steps      uint64
	Time       time.Duration // simulated
	Operations int           // of clients, with a certain outcome
	Unknown    int           // of clients, that timed out or lost their member
	Leaders    int           // terms that had a leader
	Installs   int           // snapshots installed
	Crashes    int
	Changes    int // of the membership
	Watched    int // events that watchers received
	Expired    int // leases
	HandOvers  int // begun because a leader's disk hung
	Digest     uint64
	Trace      []string
}

// world is everything there is in a run.
type world struct {
	schedule
	trace
	seed    uint64
	rng     *prng.Rand
	shape   shape
	options Options
	failure *Failure
	result  Result
	settled bool // no more faults and requests begin

	operating bool // a member is being replaced

	members []*member           // ever
	urls    int                 // ever used
	freed   []membership.Member // have gone for ever
	nextID  uint64              // of requests, members and leases
	net     network
	clients []*client
	watches []*watcher

	checks
}

// Run runs one seed to its end or to the first violation, which is a *Failure.
func Run(opts Options) (*Result, error) {
	defer replaceEntropy(opts.Seed)()
	w := newWorld(opts)
	if err := w.start(); err != nil {
		return nil, fmt.Errorf("sim: seed %d: %w", opts.Seed, err)
	}
	w.until(mayTake, "a seed's work", w.worked)
	w.settle()
	w.finish()
	w.result.Steps, w.result.Time, w.result.Digest = w.step, w.now, w.digest
	if opts.Trace {
		w.result.Trace = w.lines
	}
	if w.failure != nil {
		return &w.result, w.failure
	}
	return &w.result, nil
}

func newWorld(opts Options) *world {
	w := &world{seed: opts.Seed, options: opts, rng: prng.New(prng.NewChaCha8(seedBytes(opts.Seed))), nextID: 1}
	w.all = opts.Trace
	w.result.Seed = opts.Seed
	w.checks = newChecks(w)
	w.net = network{world: w, cut: map[link]bool{}}
	return w
}

// start makes the first members, and whoever uses and disturbs them.
func (w *world) start() error {
	w.shape = w.drawShape()
	w.result.Members = w.shape.members
	var first []membership.Member
	for range w.shape.members {
		first = append(first, w.newIdentity(false))
	}
	var peers []consensus.Peer
	for _, m := range first {
		context, err := membership.Change{Kind: membership.UpdateNode, Member: m}.Context()
		if err != nil {
			return err
		}
		peers = append(peers, consensus.Peer{ID: m.ID, Context: context})
	}
	for _, m := range first {
		if err := w.addMember(m, peers); err != nil {
			return err
		}
	}
	w.startClients()
	w.startWatchers()
	w.startNemesis()
	w.startOperator()
	return nil
}

// newIdentity returns a member that never was: with a URL of its own, or with that of a member that has gone, and then
// with another ID.
func (w *world) newIdentity(learner bool) membership.Member {
	if len(w.freed) > 0 && w.chance(50) {
		old := w.freed[0]
		w.freed = w.freed[1:]
		now := time.Unix(0, 0).Add(w.now)
		return membership.NewMember(old.Name+"'", old.PeerURLs, "", learner, &now)
	}
	w.urls++
	return membership.NewMember(fmt.Sprintf("m%d", w.urls), []string{fmt.Sprintf("http://m%d", w.urls)}, "sim", learner, nil)
}

// worked says whether the seed has done what it has to.
func (w *world) worked() bool {
	return w.result.Operations >= wantOperations && w.result.Leaders >= wantLeaders && w.result.Installs >= wantInstalls
}

// until lets things happen until done says so. It is a violation if that takes too long: a cluster must not only be
// right, it must go on.
func (w *world) until(limit time.Duration, what string, done func() bool) {
	end := w.now + limit
	for w.failure == nil && !done() {
		if w.now > end || !w.next() {
			w.violated("progress", "%s: not done after %v: %d operations, %d leaders, %d installs; %s", what, limit,
				w.result.Operations, w.result.Leaders, w.result.Installs, w.describe())
			return
		}
	}
}

// describe says where everybody stands.
func (w *world) describe() string {
	var text string
	for _, m := range w.members {
		if !m.gone {
			text += " " + m.describe()
		}
	}
	return text
}

// settle ends all faults and requests and waits until everybody has come to the same state.
func (w *world) settle() {
	w.settled = true
	w.heal()
	w.note("settling")
	w.until(settling, "settling", func() bool { return w.step%64 == 0 && w.atRest() })
}

// atRest says whether nobody waits for anything and all members are equally far.
func (w *world) atRest() bool {
	for _, c := range w.clients {
		if c.busy {
			return false
		}
	}
	if w.leases.left() > 0 || w.operating {
		return false
	}
	var applied uint64
	for _, m := range w.members {
		switch {
		case m.gone:
			continue
		case !m.up:
			return false
		}
		st := m.node.Status()
		at := m.state.Applied().Index
		if applied == 0 {
			applied = at
		}
		if st.Lead == 0 || at != applied || st.Commit != at || m.state.RemovalDue() || len(m.waits) > 0 {
			return false
		}
	}
	for _, x := range w.watches {
		if !x.done() {
			return false
		}
	}
	return true
}

// chance is true in percent of all cases.
func (w *world) chance(percent int) bool { return w.rng.IntN(100) < percent }

// between returns a time from least to most.
func (w *world) between(least, most time.Duration) time.Duration {
	return least + time.Duration(w.rng.Int64N(int64(most-least)+1))
}

// pick returns one of several.
func pick[T any](w *world, all []T) T { return all[w.rng.IntN(len(all))] }

// id returns a number that was not returned before.
func (w *world) id() uint64 {
	w.nextID++
	return w.nextID
}
