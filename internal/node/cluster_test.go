package node

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/etcdapi"
	"github.com/dolmen-io/dolmen/internal/membership"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// company is peers that say what a test wants.
type company struct {
	mu struct {
		sync.Mutex
		version string // of each of them
	}
	since    time.Time
	refusals []error // of Promote, one after the other; then it agrees
}

func (c *company) ActiveSince(uint64) time.Time { return c.since }

func (c *company) ServerVersion(context.Context, membership.Member) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.version == "" {
		return "", errNoPeers
	}
	return c.mu.version, nil
}

func (c *company) run(version string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.version = version
}

func (c *company) Promote(_ context.Context, leader membership.Member, _ uint64) ([]membership.Member, error) {
	if len(c.refusals) > 0 {
		err := c.refusals[0]
		c.refusals = c.refusals[1:]
		return nil, err
	}
	return []membership.Member{leader}, nil
}

func (c *company) Renew(context.Context, membership.Member, int64) (int64, error) {
	return 0, errNoPeers
}

func (c *company) TimeToLive(context.Context, membership.Member, int64) (etcdapi.LeaseTime, error) {
	return etcdapi.LeaseTime{}, errNoPeers
}

func addition(kind membership.Kind, id uint64, url string) membership.Change {
	return membership.Change{Kind: kind, ID: id, Member: membership.Member{
		ID: id, PeerURLs: []string{url}, IsLearner: kind == membership.AddLearnerNode,
	}}
}

// among starts a member on a disk in a bubble, among peers and with a log to look into.
func among(t *testing.T, cfg *config.Config, d *forgetful, others peers) (*Member, *observer.ObservedLogs) {
	t.Helper()
	watched, lines := observer.New(zapcore.InfoLevel)
	m, err := openAmong(t.Context(), cfg, zap.New(watched), d.open, others)
	require.NoError(t, err)
	<-m.Ready()
	synctest.Wait()
	return m, lines
}

func inMemory(t *testing.T) (*config.Config, *forgetful) {
	cfg := quietConfig(t, config.EngineMemory)
	return cfg, newForgetful(config.EngineMemory, t.TempDir()+"/wal")
}

func TestReconfigure(t *testing.T) {
	smallSegments(t)
	synctest.Test(t, func(t *testing.T) {
		cfg, d := inMemory(t)
		m, lines := among(t, cfg, d, alone{})
		o := operator{m}
		for id := uint64(2); id < 6; id++ { // each at once after the other: raft has taken the one before
			_, err := o.Reconfigure(t.Context(), addition(membership.AddLearnerNode, id, "http://a:1"))
			require.NoError(t, err)
			matches, err := o.Matches(t.Context())
			require.NoError(t, err)
			require.Contains(t, matches, id)
			members, err := o.Reconfigure(t.Context(), membership.Change{Kind: membership.RemoveNode, ID: id})
			require.NoError(t, err)
			require.Len(t, members, 1)
		}
		require.Equal(t, 8, lines.FilterMessage("applied a configuration change through raft").Len())
		_, err := o.Reconfigure(t.Context(), addition(membership.AddNode, 5, "http://b:1"))
		require.ErrorIs(t, err, membership.ErrRemoved)
		_, err = o.Reconfigure(t.Context(), membership.Change{Kind: membership.RemoveNode, ID: m.id.member})
		require.ErrorIs(t, err, membership.ErrLastVoter, "and nothing fails")
		large := addition(membership.AddNode, 7, "http://b:1")
		large.Member.Name = string(make([]byte, cfg.MaxRequestBytes))
		_, err = o.Reconfigure(t.Context(), large)
		require.ErrorIs(t, err, etcdapi.ErrTooLarge)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = o.Reconfigure(ctx, addition(membership.AddNode, 8, "http://b:1"))
		require.ErrorIs(t, err, etcdapi.ErrCanceled)

		require.NoError(t, m.Stop(context.Background()))
		_, err = o.Matches(t.Context())
		require.ErrorIs(t, err, consensus.ErrStopped)
	})
}

// TestASecondVoterTakesTheQuorum: the answer to its addition comes, then this member leads nobody.
func TestASecondVoterTakesTheQuorum(t *testing.T) {
	smallSegments(t)
	synctest.Test(t, func(t *testing.T) {
		cfg, d := inMemory(t)
		m, _ := among(t, cfg, d, &company{})
		o := operator{m}
		members, err := o.Reconfigure(t.Context(), addition(membership.AddNode, 7, "http://b:1"))
		require.NoError(t, err)
		require.Len(t, members, 2)

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, o.MoveLeader(ctx, 7), etcdapi.ErrTransferTimeout)
		for m.HasLeader() {
			time.Sleep(cfg.ElectionTimeout)
		}
		matches, err := o.Matches(t.Context())
		require.NoError(t, err)
		require.Nil(t, matches, "only a leader knows")
		begun := time.Now()
		_, err = o.PromoteByLeader(t.Context(), 7)
		require.ErrorIs(t, err, etcdapi.ErrNoLeader)
		require.Equal(t, m.patience, time.Since(begun))
		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		_, err = o.PromoteByLeader(ctx, 7)
		require.ErrorIs(t, err, etcdapi.ErrCanceled)
		require.NoError(t, m.Stop(context.Background()))
	})
}

// TestWhatALeaderTookMayHappen: etcd's client repeats a write after the deadline that says that there was no leader, and
// after no other error. What has entered the log of a leader that loses its office may happen later, so it is told otherwise.
func TestWhatALeaderTookMayHappen(t *testing.T) {
	smallSegments(t)
	synctest.Test(t, func(t *testing.T) {
		cfg, d := inMemory(t)
		m, _ := among(t, cfg, d, &company{})
		_, err := operator{m}.Reconfigure(t.Context(), addition(membership.AddNode, 7, "http://b:1"))
		require.NoError(t, err)
		require.True(t, m.HasLeader())
		_, err = m.Propose(t.Context(), put("k", "v"))
		require.ErrorIs(t, err, etcdapi.ErrTimeout)
		require.False(t, m.HasLeader())
		_, err = m.Propose(t.Context(), put("k", "v"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, m.Stop(context.Background()))
	})
}

func TestMoveLeaderToItself(t *testing.T) {
	smallSegments(t)
	synctest.Test(t, func(t *testing.T) {
		cfg, d := inMemory(t)
		m, lines := among(t, cfg, d, &company{})
		require.NoError(t, operator{m}.MoveLeader(t.Context(), m.id.member))
		require.Equal(t, 1, lines.FilterMessage("leadership transfer finished").Len())
		members, err := operator{m}.PromoteByLeader(t.Context(), 7)
		require.NoError(t, err)
		require.Equal(t, m.id.member, members[0].ID, "the leader is asked")
		require.NoError(t, m.Stop(context.Background()))
	})
}

// TestPromotionIsAskedForAgain: only an answer about the learner ends the asking before its time.
func TestPromotionIsAskedForAgain(t *testing.T) {
	smallSegments(t)
	synctest.Test(t, func(t *testing.T) {
		cfg, d := inMemory(t)
		c := &company{}
		m, _ := among(t, cfg, d, c)
		o := operator{m}
		unknown := errors.New("member promote: unknown error(whatever)")
		c.refusals = []error{unknown, unknown}
		begun := time.Now()
		_, err := o.PromoteByLeader(t.Context(), 7)
		require.NoError(t, err)
		require.Equal(t, 2*leaderPoll, time.Since(begun))
		for _, final := range []error{membership.ErrNotFound, rpctypes.ErrGRPCLearnerNotReady, rpctypes.ErrGRPCMemberNotLearner} {
			c.refusals = []error{final, unknown}
			_, err = o.PromoteByLeader(t.Context(), 7)
			require.ErrorIs(t, err, final)
		}
		c.refusals = slices.Repeat([]error{unknown}, int(m.patience/leaderPoll)+1)
		_, err = o.PromoteByLeader(t.Context(), 7)
		require.ErrorIs(t, err, etcdapi.ErrTimeout)
		require.NoError(t, m.Stop(context.Background()))
	})
}

func TestConnected(t *testing.T) {
	for _, tc := range []struct {
		peers peers
		want  membership.Connected
	}{
		{alone{}, membership.Connected{}},
		{&company{since: time.Now()}, membership.Connected{Now: true}},
		{&company{since: time.Now().Add(-time.Minute)}, membership.Connected{Now: true, Steadily: true}},
	} {
		require.Equal(t, tc.want, operator{&Member{others: tc.peers}}.Connected(2))
	}
	_, err := alone{}.ServerVersion(t.Context(), membership.Member{})
	require.ErrorIs(t, err, errNoPeers)
	_, err = alone{}.Promote(t.Context(), membership.Member{}, 1)
	require.ErrorIs(t, err, errNoPeers)
}

func (m *Member) clusterVersion() string {
	v := m.state.View()
	defer v.Release()
	return v.Members.Version()
}

func (m *Member) setDowngrade(t *testing.T, target string) {
	_, err := m.Propose(t.Context(), &pb.InternalRaftRequest{
		DowngradeInfoSet: &membershippb.DowngradeInfoSetRequest{Enabled: target != "", Ver: target},
	})
	require.NoError(t, err)
	synctest.Wait()
}

func TestDowngradeOfASingleMember(t *testing.T) {
	smallSegments(t)
	synctest.Test(t, func(t *testing.T) {
		cfg, d := inMemory(t)
		m, lines := among(t, cfg, d, alone{})
		require.Equal(t, "3.7.0", m.clusterVersion())
		require.Equal(t, "3.7.0", m.Status().StorageVersion)
		require.Equal(t, 1, lines.FilterMessage("set initial cluster version").Len())

		m.setDowngrade(t, "3.6.0")
		require.Equal(t, "3.6.0", m.clusterVersion())
		require.Equal(t, "3.6.0", m.Status().StorageVersion)
		require.Equal(t, "3.6.0", web{m}.Versions().Storage)
		for _, line := range []string{"updated cluster version", "Cluster version downgrade detected, forcing snapshot",
			"updated storage version", "The server is ready to downgrade", "saved snapshot to disk"} {
			require.NotZero(t, lines.FilterMessage(line).Len(), line)
		}
		for version, want := range map[string]float64{"3.6": 1, "3.7": 0} {
			var metric dto.Metric
			require.NoError(t, m.versions.metric.WithLabelValues(version).Write(&metric))
			require.Equal(t, want, metric.GetGauge().GetValue(), version)
		}
		time.Sleep(3 * cfg.DowngradeCheckTime)
		require.True(t, m.Status().DowngradeEnabled, "this program is still newer")

		require.NoError(t, m.Stop(context.Background()))
		m, _ = among(t, cfg, d, alone{})
		require.Equal(t, "3.6.0", m.clusterVersion(), "a restart changes nothing")
		require.Equal(t, "3.6.0", m.Status().StorageVersion)
		m.setDowngrade(t, "")
		require.Equal(t, "3.7.0", m.clusterVersion())
		require.Equal(t, "3.7.0", m.Status().StorageVersion)

		m.setDowngrade(t, "3.4.0") // which the service would have refused
		require.Equal(t, "3.7.0", m.clusterVersion())
		require.NoError(t, m.Stop(context.Background()))
	})
}

// TestVersionsOfSeveralMembers: the oldest decides, and one that is silent stops changes.
func TestVersionsOfSeveralMembers(t *testing.T) {
	smallSegments(t)
	synctest.Test(t, func(t *testing.T) {
		cfg, d := inMemory(t)
		others := &company{}
		m, lines := among(t, cfg, d, others)
		_, err := operator{m}.Reconfigure(t.Context(), addition(membership.AddLearnerNode, 7, "http://b:1"))
		require.NoError(t, err)
		m.setDowngrade(t, "3.6.0")
		time.Sleep(3 * versionInterval)
		require.Equal(t, "3.7.0", m.clusterVersion(), "the learner does not say what it runs")
		others.run("3.7.9")
		time.Sleep(2 * versionInterval)
		require.Equal(t, "3.6.0", m.clusterVersion())
		require.True(t, m.Status().DowngradeEnabled)
		m.setDowngrade(t, "")
		require.Equal(t, "3.7.0", m.clusterVersion())
		others.run("3.6.4")
		m.setDowngrade(t, "3.6.0")
		time.Sleep(2 * versionInterval)
		require.Equal(t, "3.7.0", m.clusterVersion(), "3.6.4 cannot be downgraded to what it is")
		require.NotZero(t, lines.FilterMessage("Failed to monitor cluster version").Len())
		require.NoError(t, m.Stop(context.Background()))
	})
}

// TestAFinishedDowngradeEnds runs as the older program that all members have become.
func TestAFinishedDowngradeEnds(t *testing.T) {
	smallSegments(t)
	current := serverVersion
	t.Cleanup(func() { serverVersion = current })
	synctest.Test(t, func(t *testing.T) {
		cfg, d := inMemory(t)
		m, _ := among(t, cfg, d, alone{})
		m.setDowngrade(t, "3.6.0")
		require.NoError(t, m.Stop(context.Background()))
		serverVersion = "3.6.9"
		m, lines := among(t, cfg, d, alone{})
		time.Sleep(cfg.DowngradeCheckTime + time.Second)
		synctest.Wait()
		require.False(t, m.Status().DowngradeEnabled)
		require.Equal(t, 1, lines.FilterMessage("the cluster has been downgraded").Len())
		require.Equal(t, "3.6.0", m.clusterVersion())

		// A cluster that goes on without this member leaves it behind.
		_, err := m.Propose(t.Context(), &pb.InternalRaftRequest{ClusterVersionSet: &membershippb.ClusterVersionSetRequest{Ver: "3.8.0"}})
		require.NoError(t, err)
		<-m.Done()
		require.ErrorIs(t, m.Err(), ErrDowngrade)
		_, err = openOn(t.Context(), cfg, zap.NewNop(), d.open)
		require.ErrorIs(t, err, ErrDowngrade)
	})
}

// slowEngine is an engine whose compactions end when they are told to, or with the engine.
type slowEngine struct {
	engine.Engine
	end chan error
}

func (e slowEngine) Compact() error { return <-e.end }

func TestDefragment(t *testing.T) {
	watched, lines := observer.New(zapcore.InfoLevel)
	eng := slowEngine{countedEngine{}, make(chan error)}
	d := &defragmenter{lg: zap.New(watched), eng: eng}
	finished := func() int { return lines.FilterMessage("finished defragment").Len() }
	d.start()
	d.start() // while one runs: nothing more is queued
	require.Equal(t, 1, finished())
	eng.end <- nil
	d.running.Wait()
	require.Equal(t, 2, finished())
	require.Equal(t, 1, lines.FilterMessage("finished defragmenting directory").Len())

	d.start()
	eng.end <- errors.New("broken")
	d.running.Wait()
	require.Equal(t, 1, lines.FilterMessage("failed to defragment").Len())
	d.start()
	eng.end <- engine.ErrClosed
	d.running.Wait()
	d.stop()
	d.start()
	require.Equal(t, 2, finished())

	without := &defragmenter{lg: zap.New(watched), eng: countedEngine{}}
	without.start()
	require.Equal(t, 3, finished())
}

// countedEngine has figures and nothing else.
type countedEngine struct{ engine.Engine }

func (countedEngine) Stats() engine.Stats { return engine.Stats{DiskBytes: 1} }

// TestStopDuringDefragment: closing the engine ends a compaction.
func TestStopDuringDefragment(t *testing.T) {
	smallSegments(t)
	m, err := Open(t.Context(), quietConfig(t, config.EnginePebble), zap.NewNop())
	require.NoError(t, err)
	ready(t, m)
	for range 100 {
		_, err := m.Propose(t.Context(), put("k", "v"))
		require.NoError(t, err)
	}
	operator{m}.Defragment()
	stop(t, m)
	noGoroutines(t)
}
