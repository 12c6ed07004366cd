package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/etcdapi"
	"github.com/dolmen-io/dolmen/internal/membership"
)

// fleet is members of one cluster in this process, on loopback.
type fleet struct {
	t       *testing.T
	cfgs    []*config.Config
	members []*Member
	lines   []*observer.ObservedLogs
}

// patience is how long a condition may take to come about on a busy machine.
const fleetPatience = 90 * time.Second

// nextPort is below what systems give to connections, so that a port stays free until its member listens, and is given
// to one member only.
var nextPort = func() *atomic.Int32 {
	var n atomic.Int32
	n.Store(12_000 + rand.Int32N(15_000))
	return &n
}()

func freeURL(t *testing.T) url.URL {
	t.Helper()
	for {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", nextPort.Add(1)))
		if err != nil {
			require.ErrorContains(t, err, "in use")
			continue
		}
		require.NoError(t, l.Close())
		return url.URL{Scheme: "http", Host: l.Addr().String()}
	}
}

// configure makes the configuration of one more member; the caller names the cluster.
func (f *fleet) configure(engineName string) *config.Config {
	f.t.Helper()
	cfg := config.Default()
	cfg.Name, cfg.DataDir, cfg.StorageEngine = fmt.Sprintf("m%d", len(f.cfgs)), f.t.TempDir(), engineName
	cfg.ListenPeerURLs = []url.URL{freeURL(f.t)}
	cfg.AdvertisePeerURLs = cfg.ListenPeerURLs
	cfg.ListenClientURLs = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	cfg.HeartbeatInterval, cfg.ElectionTimeout = 50*time.Millisecond, 500*time.Millisecond
	cfg.SnapshotCount, cfg.SnapshotCatchUpEntries = 50, 10
	f.cfgs = append(f.cfgs, cfg)
	f.members, f.lines = append(f.members, nil), append(f.lines, nil)
	return cfg
}

// cluster is --initial-cluster with all members.
func (f *fleet) cluster() string {
	var parts []string
	for _, cfg := range f.cfgs {
		parts = append(parts, cfg.Name+"="+cfg.AdvertisePeerURLs[0].String())
	}
	return strings.Join(parts, ",")
}

func newFleet(t *testing.T, engineName string, n int) *fleet {
	t.Helper()
	return newFleetWith(t, engineName, n, func(*config.Config) {})
}

// newFleetWith is newFleet with something changed in each configuration.
func newFleetWith(t *testing.T, engineName string, n int, change func(*config.Config)) *fleet {
	t.Helper()
	f := &fleet{t: t}
	t.Cleanup(f.killAll)
	for range n {
		change(f.configure(engineName))
	}
	for i := range n {
		f.cfgs[i].InitialCluster = f.cluster()
	}
	for i := range n {
		f.open(i)
	}
	for i := range n {
		f.awaitReady(i)
	}
	return f
}

func (f *fleet) open(i int) {
	f.t.Helper()
	core, lines := observer.New(zapcore.InfoLevel)
	m, err := Open(f.t.Context(), f.cfgs[i], zap.New(core))
	require.NoError(f.t, err)
	f.members[i], f.lines[i] = m, lines
}

func (f *fleet) awaitReady(i int) {
	f.t.Helper()
	timer := time.NewTimer(fleetPatience)
	defer timer.Stop()
	select {
	case <-f.members[i].Ready():
	case <-f.members[i].Done():
		require.FailNow(f.t, "the member has ended", "%v", f.members[i].Err())
	case <-timer.C:
		require.FailNow(f.t, "the member is not ready")
	}
}

var errKilled = errors.New("killed")

// kill ends a member without a word to anybody, and without writing anything.
func (f *fleet) kill(m *Member) {
	m.fail(errKilled)
	<-m.Done()
}

// crash kills a member, which can be opened again.
func (f *fleet) crash(i int) {
	f.t.Helper()
	f.kill(f.members[i])
	f.members[i] = nil
}

// running calls fn for each member that runs.
func (f *fleet) running(fn func(i int, m *Member)) {
	for i, m := range f.members {
		if m != nil {
			fn(i, m)
		}
	}
}

// leader returns the place of the member that leads and is known to all.
func (f *fleet) leader() (at int) {
	f.t.Helper()
	require.Eventually(f.t, func() bool {
		at = -1
		agreed := true
		var lead uint64
		f.running(func(i int, m *Member) {
			st := m.cons.Status()
			if lead == 0 {
				lead = st.Lead
			}
			agreed = agreed && st.Lead == lead && lead != 0
			if st.Lead == st.ID {
				at = i
			}
		})
		return agreed && at >= 0
	}, fleetPatience, 10*time.Millisecond)
	return at
}

// put writes through a member, again as long as the cluster has no leader.
func (f *fleet) put(i int, key, value string) {
	f.t.Helper()
	require.Eventually(f.t, func() bool {
		res, err := f.members[i].Propose(f.t.Context(), put(key, value))
		return err == nil && res.Err == nil
	}, fleetPatience, 10*time.Millisecond)
}

// require asks that all members have a value, by linearizable reads.
func (f *fleet) require(key, value string) {
	f.t.Helper()
	f.running(func(i int, m *Member) {
		require.Eventually(f.t, func() bool {
			v, err := m.Read(f.t.Context(), true)
			if err == nil {
				v.Release()
			}
			return err == nil
		}, fleetPatience, 10*time.Millisecond)
		require.Equal(f.t, value, string(read(f.t, m, key).Value), "member %d", i)
	})
}

// requireEqual asks that all members come to the same data.
func (f *fleet) requireEqual() {
	f.t.Helper()
	require.Eventually(f.t, func() bool {
		sums := map[uint32]bool{}
		revisions := map[int64]bool{}
		f.running(func(_ int, m *Member) {
			v := m.state.View()
			defer v.Release()
			h, err := v.HashKV(0)
			require.NoError(f.t, err)
			sums[h.Sum], revisions[v.KV.Current()] = true, true
		})
		return len(sums) == 1 && len(revisions) == 1
	}, fleetPatience, 10*time.Millisecond)
}

func TestThreeMembers(t *testing.T) {
	for _, engineName := range []string{config.EngineMemory, config.EnginePebble} {
		t.Run(engineName, func(t *testing.T) {
			f := newFleet(t, engineName, 3)
			for i := range 3 {
				f.put(i, fmt.Sprintf("k%d", i), "v")
				f.require(fmt.Sprintf("k%d", i), "v")
			}
			f.requireEqual()

			// One dies, the others go on, and it comes back.
			at := f.leader()
			f.crash(at)
			f.put((at+1)%3, "without", "one")
			f.require("without", "one")
			f.open(at)
			f.awaitReady(at)
			f.put(at, "with", "all")
			f.require("with", "all")
			f.requireEqual()
		})
	}
}

func TestLeasesOnFollowers(t *testing.T) {
	f := newFleet(t, config.EngineMemory, 3)
	at := f.leader()
	follower := f.members[(at+1)%3]
	grant(t, follower, 7, 60)
	for _, m := range f.members {
		ttl, err := lessor{m}.Renew(t.Context(), 7)
		require.NoError(t, err)
		require.Equal(t, int64(60), ttl)
		got, err := lessor{m}.TimeToLive(t.Context(), 7)
		require.NoError(t, err)
		require.Equal(t, int64(60), got.Granted)
		require.Equal(t, []string{"k"}, got.Keys)
		require.InDelta(t, 60, got.Remaining.Seconds(), 20)

		ttl, err = lessor{m}.Renew(t.Context(), 8)
		require.NoError(t, err)
		require.Zero(t, ttl)
		_, err = lessor{m}.TimeToLive(t.Context(), 8)
		require.Error(t, err)
	}
}

// TestLeaderAloneRenewsNothing: without a quorum a leader does not know whether it still is one.
func TestLeaderAloneRenewsNothing(t *testing.T) {
	f := newFleet(t, config.EngineMemory, 3)
	at := f.leader()
	grant(t, f.members[at], 7, 60)
	f.crash((at + 1) % 3)
	f.crash((at + 2) % 3)
	_, err := lessor{f.members[at]}.Renew(t.Context(), 7)
	require.Error(t, err)
}

// TestStoppedLeaderHandsOver: there is a leader before the old one is missed.
func TestStoppedLeaderHandsOver(t *testing.T) {
	f := newFleet(t, config.EngineMemory, 3)
	f.put(0, "k", "v")
	at := f.leader()
	require.NoError(t, f.members[at].Stop(context.Background()))
	require.Equal(t, 1, f.lines[at].FilterMessage("leadership transfer finished").Len())
	f.members[at] = nil
	f.put((at+1)%3, "k", "after")
	f.require("k", "after")
	next := f.leader()
	require.NoError(t, f.members[(3-at-next)%3].Stop(context.Background()))
	require.Equal(t, 1, f.lines[3-at-next].FilterMessage("skipped leadership transfer; local server is not leader").Len())
	f.members[3-at-next] = nil
}

// TestAllStopAtOnce: a leader waits for nobody who is gone.
func TestAllStopAtOnce(t *testing.T) {
	f := newFleet(t, config.EngineMemory, 3)
	f.put(0, "k", "v")
	f.leader()
	var stopping sync.WaitGroup
	for i, m := range f.members {
		f.members[i] = nil
		stopping.Go(func() { assert.NoError(t, m.Stop(context.Background())) })
	}
	stopping.Wait()
	for i := range f.members {
		for _, line := range f.lines[i].FilterMessage("leadership transfer failed").All() {
			require.NotContains(t, line.ContextMap()["error"], etcdapi.ErrTransferTimeout.Error())
		}
	}
}

// add adds a member to the cluster and starts it.
func (f *fleet) add(engineName string, kind membership.Kind) (i int) {
	f.t.Helper()
	cfg := f.configure(engineName)
	i = len(f.cfgs) - 1
	cfg.InitialClusterState, cfg.InitialCluster = config.ClusterExisting, f.cluster()
	now := time.Now()
	m := membership.NewMember("", []string{cfg.AdvertisePeerURLs[0].String()}, cfg.InitialClusterToken, kind == membership.AddLearnerNode, &now)
	require.Eventually(f.t, func() bool { return f.members[0].clusterVersion() != "" }, fleetPatience, time.Millisecond, "nobody joins before")
	_, err := operator{f.members[0]}.Reconfigure(f.t.Context(), membership.Change{Kind: kind, ID: m.ID, Member: m})
	require.NoError(f.t, err)
	f.open(i)
	return i
}

func TestAddAndRemoveMembers(t *testing.T) {
	f := newFleet(t, config.EngineMemory, 3)
	f.put(0, "before", "v")
	at := f.add(config.EngineMemory, membership.AddNode)
	f.awaitReady(at)
	f.require("before", "v")
	f.put(at, "after", "v")
	f.require("after", "v")
	f.requireEqual()

	// A removed member stops by itself.
	gone := f.members[at]
	_, err := operator{f.members[0]}.Reconfigure(t.Context(), membership.Change{Kind: membership.RemoveNode, ID: gone.id.member})
	require.NoError(t, err)
	<-gone.Done()
	require.NoError(t, gone.Err())
	require.Equal(t, 1, f.lines[at].FilterMessage("the member has been permanently removed from the cluster").Len())
	f.members[at] = nil
	f.put(1, "without", "v")
	f.require("without", "v")

	// And is refused when it comes back.
	f.open(at)
	<-f.members[at].Done()
	require.NoError(t, f.members[at].Err())
	f.members[at] = nil
}

func TestJoinRefused(t *testing.T) {
	f := newFleet(t, config.EngineMemory, 1)
	cfg := f.configure(config.EngineMemory)
	fails := func(want string) {
		t.Helper()
		_, err := Open(t.Context(), cfg, zap.NewNop())
		require.ErrorContains(t, err, want)
	}
	cfg.InitialClusterState, cfg.InitialCluster = config.ClusterExisting, f.cluster()
	fails("says that the cluster has 1 members, --initial-cluster has 2")
	now := time.Now()
	m := membership.NewMember("", []string{"http://127.0.0.1:1"}, "x", true, &now)
	_, err := operator{f.members[0]}.Reconfigure(t.Context(), membership.Change{Kind: membership.AddLearnerNode, ID: m.ID, Member: m})
	require.NoError(t, err)
	fails("unmatched member while checking PeerURLs")
	cfg.InitialCluster = cfg.Name + "=" + cfg.AdvertisePeerURLs[0].String() + ",other=" + freeURLText(t)
	fails("cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs")
	cfg.Name = "nobody"
	fails(`couldn't find local name "nobody"`)
}

func freeURLText(t *testing.T) string {
	u := freeURL(t)
	return u.String()
}

// TestLostMemberCannotFoundAgain: a member whose data is lost is told so, not let into the cluster as if it were new.
func TestLostMemberCannotFoundAgain(t *testing.T) {
	f := newFleet(t, config.EngineMemory, 3)
	f.crash(1)
	f.cfgs[1].DataDir = t.TempDir()
	_, err := Open(t.Context(), f.cfgs[1], zap.NewNop())
	require.ErrorContains(t, err, "has already been bootstrapped")
}

// TestLearner is promoted through a member that does not lead.
func TestLearner(t *testing.T) {
	f := newFleet(t, config.EngineMemory, 3)
	at := f.add(config.EngineMemory, membership.AddLearnerNode)
	f.awaitReady(at)
	require.True(t, f.members[at].IsLearner())
	f.put(0, "k", "v")
	leader := f.leader()
	via := operator{f.members[(leader+1)%3]}
	require.Eventually(t, func() bool {
		members, err := via.PromoteByLeader(t.Context(), f.members[at].id.member)
		return err == nil && len(members) == 4
	}, fleetPatience, 100*time.Millisecond)
	require.Eventually(t, func() bool { return !f.members[at].IsLearner() }, fleetPatience, 10*time.Millisecond)
	_, err := via.PromoteByLeader(t.Context(), f.members[at].id.member)
	require.ErrorIs(t, err, rpctypes.ErrGRPCMemberNotLearner)
	_, err = via.PromoteByLeader(t.Context(), 1)
	require.ErrorIs(t, err, membership.ErrNotFound)
}

// TestSnapshotForALaggingMember: a member that was away past the end of the log gets the whole state, and keeps it over
// a restart.
func TestSnapshotForALaggingMember(t *testing.T) {
	for _, engineName := range []string{config.EngineMemory, config.EnginePebble} {
		t.Run(engineName, func(t *testing.T) {
			f := newFleet(t, engineName, 3)
			at := (f.leader() + 1) % 3
			f.put(at, "before", "v")
			grant(t, f.members[(at+1)%3], 7, 600)
			f.requireEqual()
			f.crash(at)
			other := (at + 1) % 3
			for i := range 400 {
				f.put(other, fmt.Sprintf("k%d", i%50), fmt.Sprint(i))
			}
			require.Eventually(t, func() bool { return f.lines[f.leader()].FilterMessage("saved snapshot to disk").Len() > 0 },
				fleetPatience, 10*time.Millisecond)
			f.open(at)
			f.awaitReady(at)
			f.require("k49", "399")
			f.requireEqual()
			require.Equal(t, 1, f.lines[at].FilterMessage("applied snapshot").Len())
			require.Equal(t, []string{"k"}, f.members[at].state.Leases().Keys(7))

			f.put(at, "after", "v")
			f.crash(at)
			f.open(at)
			f.awaitReady(at)
			f.require("after", "v")
			f.requireEqual()
			require.Zero(t, f.lines[at].FilterMessage("applied snapshot").Len())
		})
	}
}

// TestNoConnectionOutlivesAMember: neither those by which it asked others before it joined, nor later ones.
func TestNoConnectionOutlivesAMember(t *testing.T) {
	open := map[net.Conn]bool{}
	var mu sync.Mutex
	other := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"etcdserver":"3.7.0"}`))
	}))
	other.Config.ConnState = func(c net.Conn, s http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		switch s {
		case http.StateNew:
			open[c] = true
		case http.StateClosed:
			delete(open, c)
		}
	}
	other.Start()
	defer other.Close()
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(open)
	}
	f := &fleet{t: t}
	cfg := f.configure(config.EngineMemory)
	cfg.InitialCluster = f.cluster() + ",other=" + other.URL
	m, err := Open(t.Context(), cfg, zap.NewNop())
	require.NoError(t, err)
	version, err := m.others.ServerVersion(t.Context(), membership.Member{PeerURLs: []string{other.URL}})
	require.NoError(t, err)
	require.Equal(t, "3.7.0", version)
	require.NotZero(t, count())
	f.kill(m)
	require.Eventually(t, func() bool { return count() == 0 }, testPatience, 10*time.Millisecond)
}
