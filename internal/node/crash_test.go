package node

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/state"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

var (
	rounds = flag.Int("rounds", 20, "power cuts in each crash test")
	seed   = flag.Uint64("seed", 0, "seed of the crash tests, for the draws and not for who runs when; 0 takes a new one")
)

// testPatience is how long a test waits for what must happen at once.
const testPatience = time.Minute

// quietConfig is the configuration of a member without listeners in a directory of the test's.
func quietConfig(t testing.TB, engineName string) *config.Config {
	cfg := config.Default()
	cfg.Name, cfg.DataDir, cfg.StorageEngine = "m", t.TempDir(), engineName
	cfg.ListenPeerURLs, cfg.ListenClientURLs = nil, nil
	cfg.AdvertisePeerURLs = []url.URL{{Scheme: "http", Host: "127.0.0.1:2380"}}
	cfg.InitialCluster = cfg.InitialClusterFromName()
	cfg.HeartbeatInterval, cfg.ElectionTimeout = 20*time.Millisecond, 200*time.Millisecond
	return cfg
}

// crashConfig makes flushes, marks and cuts of the log happen all the time.
func crashConfig(t testing.TB, engineName string) *config.Config {
	cfg := quietConfig(t, engineName)
	cfg.SnapshotCount, cfg.SnapshotCatchUpEntries = 25, 10
	cfg.CompactionBatchLimit, cfg.CompactionSleepInterval = 20, time.Millisecond
	return cfg
}

// smallSegments makes the raft log start a new file every few dozen entries.
func smallSegments(t testing.TB) {
	old := wal.SegmentSizeBytes
	wal.SegmentSizeBytes = 16 << 10
	t.Cleanup(func() { wal.SegmentSizeBytes = old })
}

func newSeed(t testing.TB) uint64 {
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("-seed=%d", s)
	return s
}

// ready waits until a member serves.
func ready(t testing.TB, m *Member) {
	t.Helper()
	select {
	case <-m.Ready():
	case <-m.Done():
		t.Fatal("the member has failed: ", m.Err())
	case <-time.After(testPatience):
		t.Fatal("the member does not become ready")
	}
}

// stop stops a member that must be well.
func stop(t testing.TB, m *Member) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testPatience)
	defer cancel()
	require.NoError(t, m.Stop(ctx))
}

// outage is a member under load, power cuts, and what its clients know.
type outage struct {
	t      *testing.T
	cfg    *config.Config
	rng    *rand.Rand
	disk   *forgetful
	ledger *ledger
	dir    string
	// Of all rounds.
	round, acked int
	marks        int64
}

func newOutage(t *testing.T, cfg *config.Config) *outage {
	s := newSeed(t)
	dir := t.TempDir()
	return &outage{
		t: t, cfg: cfg, rng: rand.New(rand.NewPCG(s, 1)), ledger: newLedger(), dir: dir,
		disk: newForgetful(cfg.StorageEngine, filepath.Join(dir, "wal-0")),
	}
}

// open starts a member on what the last power cut left and checks it.
func (o *outage) open() (*Member, []string) {
	m, err := openOn(o.t.Context(), o.cfg, zap.NewNop(), o.disk.open)
	if err != nil {
		return nil, []string{fmt.Sprintf("open after power cut %d: %v", o.round, err)}
	}
	ready(o.t, m)
	return m, o.ledger.check(m, o.rng)
}

// cut runs clients against a member until some writes are acknowledged, and cuts the power.
func (o *outage) cut(m *Member, writes int) {
	full := o.ledger.begin(writes)
	held := o.ledger.held()
	var clients sync.WaitGroup
	for i := range 6 {
		c := &client{member: m, ledger: o.ledger, name: fmt.Sprintf("r%d-c%d", o.round, i), rng: rand.New(rand.NewPCG(o.rng.Uint64(), 2))}
		for n, id := range held {
			if n%6 == i {
				c.leases = append(c.leases, id)
			}
		}
		clients.Go(c.run)
	}
	select {
	case <-full:
	case <-m.Done():
		o.t.Fatal("the member has failed: ", m.Err())
	case <-time.After(testPatience):
		o.t.Fatal("no writes are acknowledged")
	}
	o.ledger.seal()
	o.power(m)
	clients.Wait()
	o.acked += o.ledger.acked
}

// power goes on with what a power cut at this moment leaves of a running member's disk.
func (o *outage) power(m *Member) {
	o.round++
	dir := filepath.Join(o.dir, "wal-"+strconv.Itoa(o.round))
	after, err := o.disk.crash(o.rng, dir)
	require.NoError(o.t, err)
	stop(o.t, m)
	require.NoError(o.t, os.RemoveAll(o.disk.wal))
	o.marks += o.disk.marks.Load()
	o.disk = after
}

// cutEarly cuts the power of a member that has just been opened and may not have replayed its log, nor
// written the beginning of a new one.
func (o *outage) cutEarly() {
	m, err := openOn(o.t.Context(), o.cfg, zap.NewNop(), o.disk.open)
	require.NoError(o.t, err, "after power cut %d", o.round)
	o.power(m)
}

// run makes power cuts and returns the first problems.
func (o *outage) run(rounds int) []string {
	for o.round < rounds {
		for o.rng.IntN(4) == 0 {
			o.cutEarly()
		}
		m, problems := o.open()
		if len(problems) > 0 {
			o.stop(m)
			return problems
		}
		o.cut(m, 1+o.rng.IntN(300))
	}
	m, problems := o.open()
	o.stop(m)
	return problems
}

func (o *outage) stop(m *Member) {
	if m != nil {
		stop(o.t, m)
	}
}

// client is one client that does one thing after the other until the member stops.
type client struct {
	member *Member
	ledger *ledger
	name   string
	rng    *rand.Rand
	leases []int64
	n      int
}

const clientKeys = 40

func (c *client) run() {
	for {
		var err error
		switch p := c.rng.IntN(100); {
		case p < 50:
			_, err = c.put(c.key(), 0)
		case p < 75:
			err = c.txn()
		case p < 84:
			err = c.delete()
		case p < 91:
			err = c.grant()
		case p < 96:
			err = c.revoke()
		default:
			err = c.compact()
		}
		if err != nil {
			return
		}
	}
}

func (c *client) propose(req *pb.InternalRaftRequest) (state.Result, error) {
	res, err := c.member.Propose(context.Background(), req)
	if err == nil && res.Err != nil {
		c.ledger.try(func() { c.ledger.complain("%v was rejected: %v", req, res.Err) })
		return res, res.Err
	}
	return res, err
}

func (c *client) key() string { return fmt.Sprintf("k%02d", c.rng.IntN(clientKeys)) }

func (c *client) value() string {
	c.n++
	return fmt.Sprintf("%s-%d-%0*d", c.name, c.n, c.rng.IntN(300), 0)
}

func (c *client) put(key string, lease int64) (int64, error) {
	ch := change{key, c.value(), lease}
	c.ledger.try(func() { c.ledger.attempts[ch.value] = attempt{puts: []change{ch}} })
	res, err := c.propose(&pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte(key), Value: []byte(ch.value), Lease: lease}})
	if err == nil {
		c.ledger.ack(func() { c.ledger.happened(res.Revision, ch) })
	}
	return res.Revision, err
}

// txn puts two keys and deletes a third.
func (c *client) txn() error {
	keys := c.rng.Perm(clientKeys)
	v := c.value()
	a := attempt{
		puts:  []change{{key: fmt.Sprintf("k%02d", keys[0]), value: v}, {key: fmt.Sprintf("k%02d", keys[1]), value: v}},
		maybe: fmt.Sprintf("k%02d", keys[2]),
	}
	c.ledger.try(func() { c.ledger.attempts[v] = a })
	req := &pb.TxnRequest{}
	for _, p := range a.puts {
		req.Success = append(req.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
			RequestPut: &pb.PutRequest{Key: []byte(p.key), Value: []byte(p.value)},
		}})
	}
	req.Success = append(req.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{
		RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(a.maybe)},
	}})
	res, err := c.propose(&pb.InternalRaftRequest{Txn: req})
	if err != nil {
		return err
	}
	changes := a.puts
	if res.Response.(*state.TxnResponse).Ops[2].Delete.Deleted > 0 {
		changes = append(changes[:2:2], change{key: a.maybe})
	}
	c.ledger.ack(func() { c.ledger.happened(res.Revision, changes...) })
	return nil
}

func (c *client) delete() error {
	key := c.key()
	c.ledger.try(func() { c.ledger.deletes[key] = true })
	res, err := c.propose(&pb.InternalRaftRequest{DeleteRange: &pb.DeleteRangeRequest{Key: []byte(key)}})
	if err == nil && res.Response.(*state.DeleteResponse).Deleted > 0 {
		c.ledger.ack(func() { c.ledger.happened(res.Revision, change{key: key}) })
	}
	return err
}

func leaseKey(id int64) string { return fmt.Sprintf("lease/%016x", id) }

// grant makes a lease with a key.
func (c *client) grant() error {
	id := 1 + c.rng.Int64N(1<<62)
	c.ledger.try(func() { c.ledger.granting[id] = true })
	_, err := c.propose(&pb.InternalRaftRequest{LeaseGrant: &pb.LeaseGrantRequest{ID: id, TTL: 100000}})
	if err != nil {
		return err
	}
	c.ledger.ack(func() { c.ledger.leases[id] = true })
	c.leases = append(c.leases, id)
	_, err = c.put(leaseKey(id), id)
	return err
}

func (c *client) revoke() error {
	if len(c.leases) == 0 {
		return nil
	}
	id := c.leases[0]
	c.leases = c.leases[1:]
	// A crash may have come between the grant and the put.
	attached := len(c.member.state.Leases().Keys(id)) > 0
	c.ledger.try(func() { c.ledger.revoking[id], c.ledger.deletes[leaseKey(id)] = true, true })
	res, err := c.propose(&pb.InternalRaftRequest{LeaseRevoke: &pb.LeaseRevokeRequest{ID: id}})
	if err != nil {
		return err
	}
	c.ledger.ack(func() {
		c.ledger.leases[id] = false
		if attached {
			c.ledger.happened(res.Revision, change{key: leaseKey(id)})
		}
	})
	return nil
}

// compact goes up to where all revisions are known, or else the check could not tell what lies below.
func (c *client) compact() error {
	_, compacted := c.member.state.Revisions()
	to := c.ledger.known() - c.rng.Int64N(20)
	if to <= compacted {
		return nil
	}
	res, err := c.member.Propose(context.Background(), &pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{Revision: to}})
	if err == nil && res.Err == nil { // another client's may have gone further
		c.ledger.ack(func() { c.ledger.compacted = max(c.ledger.compacted, to) })
	}
	return err
}

// TestCrash cuts the power of members under load, again and again on what the last cut has left: bytes not
// yet synced are dropped, zeroed, or torn. Nothing that was acknowledged may be missing.
func TestCrash(t *testing.T) {
	smallSegments(t)
	for _, name := range []string{config.EnginePebble, config.EngineMemory} {
		t.Run(name, func(t *testing.T) {
			o := newOutage(t, crashConfig(t, name))
			problems := o.run(*rounds)
			require.Empty(t, problems, "after power cut %d", o.round)
			segments, err := segmentNames(o.disk.wal)
			require.NoError(t, err)
			t.Logf("%d power cuts, %d acknowledgements, %d cuts of the log, now from %s", o.round, o.acked, o.marks, segments[0])
			require.Greater(t, o.marks, int64(*rounds)/2, "the log was hardly ever cut")
		})
	}
}

// TestCrashWithoutSync shows that TestCrash would notice if the log were not synced.
func TestCrashWithoutSync(t *testing.T) {
	smallSegments(t)
	for name, off := range map[string]func(*outage){
		"unsafe-no-fsync":         func(o *outage) { o.disk.opts.UnsafeNoFsync, o.cfg.UnsafeNoFsync = true, true },
		"syncs that do not reach": func(o *outage) { o.disk.deaf = true },
	} {
		for _, engineName := range []string{config.EnginePebble, config.EngineMemory} {
			t.Run(name+"/"+engineName, func(t *testing.T) {
				cfg := crashConfig(t, engineName)
				cfg.SnapshotCount = 1 << 30 // a flush would make the engine newer than such a log
				o := newOutage(t, cfg)
				off(o)
				m, problems := o.open()
				require.Empty(t, problems)
				o.cut(m, 50)
				m, problems = o.open()
				o.stop(m)
				require.NotEmpty(t, problems)
				require.Contains(t, fmt.Sprint(problems), "lost: revision")
			})
		}
	}
}
