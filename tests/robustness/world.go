package robustness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dolmen-io/dolmen/tests/harness"
)

// worldOptions of a cluster under load.
type worldOptions struct {
	kind     harness.Kind
	members  int
	seed     uint64
	args     []string // further flags of the members
	diskSize int64    // of a file system of each member's own; 0 = the data is where the test's is
}

// world is a cluster of processes behind proxies and on disks that can be slow, and the load on it. Its methods are called
// from the test's goroutine.
type world struct {
	tb      testing.TB
	options worldOptions
	cluster *harness.Cluster
	network *network
	proxies []*proxy
	disks   *disks
	dead    map[int]bool // members that do not run
	gone    map[int]bool // members that were removed

	journal   *journal
	chronicle *chronicle
	promises  *promises
	etcds     []*clientv3.Client // one for each member
	all       *clientv3.Client   // of all first members
	watchers  []*watcher
	started   atomic.Int64
	clients   int

	endLoad, endWatches context.CancelFunc
	watching            context.Context
	loading             context.Context
	load, watches       sync.WaitGroup
}

// flags of every member: few entries between snapshots, so that who was away gets one.
var flags = []string{"--snapshot-count=400", "--snapshot-catchup-entries=100"}

// newWorld starts the cluster.
func newWorld(tb testing.TB, options worldOptions) *world {
	tb.Helper()
	w := &world{tb: tb, options: options, network: newNetwork(), dead: map[int]bool{}, gone: map[int]bool{}}
	w.chronicle, w.promises = newChronicle(), newPromises()
	tb.Cleanup(w.close)
	w.disks = newDisks(tb)
	if options.diskSize > 0 {
		_ = tb.TempDir() // it is removed after what is mounted in it is gone
		tb.Cleanup(w.unmount)
	}
	w.cluster = harness.StartCluster(tb, options.kind, options.members, harness.ClusterOptions{
		Options:   harness.Options{Args: append(flags[:len(flags):len(flags)], options.args...)},
		Advertise: w.advertise,
		Launcher:  func(i int) []string { return w.disks.launcher(i, options.diskSize) },
	})
	for i := range w.cluster.Members {
		w.meet(i)
	}
	all, err := connect(w.cluster.Endpoints()...)
	if err != nil {
		tb.Fatal(err)
	}
	w.all = all
	w.journal = newJournal()
	w.watching, w.endWatches = context.WithCancel(context.Background())
	w.loading, w.endLoad = context.WithCancel(context.Background())
	return w
}

func (w *world) unmount() {
	if w.cluster == nil {
		return
	}
	var dirs []string
	for _, m := range w.cluster.Members {
		dirs = append(dirs, m.DataDir)
	}
	if err := unmount(dirs); err != nil {
		w.tb.Error(err)
	}
}

// advertise puts a proxy before a member.
func (w *world) advertise(i int, listens string) string {
	p, err := newProxy(w.network, name(i), listens)
	if err != nil {
		w.tb.Fatal(err)
	}
	w.proxies = append(w.proxies, p)
	return p.address()
}

// name is member i's, as the harness names it.
func name(i int) string { return fmt.Sprintf("m%d", i) }

// meet connects to member i, which runs, and tells the network of its id.
func (w *world) meet(i int) {
	w.tb.Helper()
	etcd, err := connect(w.cluster.Members[i].Endpoint())
	if err != nil {
		w.tb.Fatal(err)
	}
	w.etcds = append(w.etcds, etcd)
	w.eventually("status of "+name(i), func(ctx context.Context) error {
		status, err := etcd.Status(ctx, w.cluster.Members[i].Endpoint())
		if err == nil {
			w.network.know(status.Header.MemberId, name(i))
		}
		return err
	})
}

// begin starts the load: clients of one member each, clients of all, holders of leases, and watchers.
func (w *world) begin() {
	for i, etcd := range w.etcds {
		w.addClient(etcd)
		w.addClient(w.all)
		w.watch(i)
	}
	w.addWatcher(newWatcher("the watcher of all", "", w.all, w.journal, w.chronicle))
	w.addWatcher(newWatcher("the watcher of data", "data/", w.all, w.journal, w.chronicle))
	w.addWatcher(newWatcher("the watcher of leases", leasePrefix, w.all, w.journal, w.chronicle))
	for range 3 {
		w.clients++
		h := &holder{number: w.clients, rng: rand.New(rand.NewPCG(w.options.seed, uint64(w.clients))), etcd: w.all,
			journal: w.journal, promises: w.promises}
		w.load.Go(func() { h.run(w.loading) })
	}
}

func (w *world) addClient(etcd *clientv3.Client) {
	w.clients++
	c := newClient(w.clients, w.options.seed, etcd, w.journal, &w.started)
	w.load.Go(func() { c.run(w.loading) })
}

// watch adds a watcher of everything through member i.
func (w *world) watch(i int) {
	watcher := newWatcher("the watcher of "+name(i), "", w.etcds[i], w.journal, w.chronicle)
	watcher.hears = func() bool { return !w.gone[i] }
	w.addWatcher(watcher)
}

func (w *world) addWatcher(watcher *watcher) {
	w.watchers = append(w.watchers, watcher)
	w.watches.Go(func() { watcher.run(w.watching) })
}

// knownToAll is the newest revision that every watcher has been told of.
func (w *world) knownToAll() int64 {
	least := w.watchers[0].next.Load()
	for _, watcher := range w.watchers {
		least = min(least, watcher.next.Load())
	}
	return least - 1
}

// close ends what still runs; the members have ended.
func (w *world) close() {
	if w.endLoad != nil {
		w.endLoad()
		w.endWatches()
		w.load.Wait()
		w.watches.Wait()
	}
	for _, etcd := range append(w.etcds, w.all) {
		if etcd != nil {
			etcd.Close()
		}
	}
	for _, p := range w.proxies {
		p.close()
	}
}

// Every wait of a run ends: a call after callPatience, what has to come about in the end after endPatience, which is
// far above what a slow machine needs.
const (
	callPatience = 5 * time.Second
	endPatience  = 3 * time.Minute
)

// eventually repeats f until it returns nil, and fails the test with its last error when that takes too long.
func (w *world) eventually(what string, f func(context.Context) error) {
	w.tb.Helper()
	began := time.Now()
	var last error
	for {
		ctx, cancel := context.WithTimeout(context.Background(), callPatience)
		err := f(ctx)
		cancel()
		took := time.Since(began)
		if err == nil {
			if took > callPatience {
				w.tb.Logf("%s: took %v; before that: %v", what, took.Round(time.Millisecond), last)
			}
			return
		}
		if took > endPatience {
			w.tb.Fatalf("%s: not within %v: %v", what, endPatience, err)
		}
		last = err
		pause(context.Background(), 20*time.Millisecond)
	}
}

// report writes a line on the state of the run every so often, until the returned function is called.
func (w *world) report() (end func()) {
	const every = 15 * time.Second
	ctx, cancel := context.WithCancel(context.Background())
	var reporting sync.WaitGroup
	reporting.Go(func() {
		for {
			pause(ctx, every)
			if ctx.Err() != nil {
				return
			}
			all, acknowledged := w.journal.counts()
			w.tb.Logf("%4.0f s: %d operations, %d acknowledged writes, revision %d, all watchers have %d", w.journal.now().Seconds(), all,
				acknowledged, w.journal.newest.Load(), w.knownToAll())
		}
	})
	return func() {
		cancel()
		reporting.Wait()
	}
}
