package node

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"math/rand/v2"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/etcdapi"
	"github.com/dolmen-io/dolmen/internal/mvcc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// read returns a key-value, zero if there is none.
func read(t *testing.T, m *Member, key string) mvcc.KeyValue {
	t.Helper()
	v, err := m.Read(t.Context(), true)
	require.NoError(t, err)
	defer v.Release()
	res, err := v.KV.Range(mvcc.RangeOptions{Key: []byte(key)})
	require.NoError(t, err)
	if len(res.KVs) == 0 {
		return mvcc.KeyValue{}
	}
	kv, err := mvcc.DecodeKeyValue(res.KVs[0])
	require.NoError(t, err)
	return kv
}

// start starts a member on a disk in a bubble.
func start(t *testing.T, cfg *config.Config, d *forgetful) *Member {
	t.Helper()
	m, err := openOn(t.Context(), cfg, zap.NewNop(), d.open)
	require.NoError(t, err)
	<-m.Ready()
	return m
}

// grant makes a lease with a key of its name.
func grant(t *testing.T, m *Member, id, ttl int64) {
	t.Helper()
	res, err := m.Propose(t.Context(), &pb.InternalRaftRequest{LeaseGrant: &pb.LeaseGrantRequest{ID: id, TTL: ttl}})
	require.NoError(t, err)
	require.NoError(t, res.Err)
	req := put("k", "v")
	req.Put.Lease = id
	res, err = m.Propose(t.Context(), req)
	require.NoError(t, err)
	require.NoError(t, res.Err)
}

func left(t *testing.T, m *Member, id int64) time.Duration {
	t.Helper()
	lt, err := lessor{m}.TimeToLive(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, []string{"k"}, lt.Keys)
	return lt.Remaining
}

// slack is by how much a remaining time may be off: it is noted in seconds, and an election extends it.
const slack = 2 * time.Second

// TestRemainingTimes keeps what is left of leases over a clean stop, and over a crash as of the last
// checkpoint. The time between does not count.
func TestRemainingTimes(t *testing.T) {
	smallSegments(t)
	synctest.Test(t, func(t *testing.T) {
		cfg := quietConfig(t, config.EngineMemory)
		d := newForgetful(config.EngineMemory, filepath.Join(t.TempDir(), "wal"))
		m := start(t, cfg, d)
		grant(t, m, 7, 3600)
		time.Sleep(100 * time.Second)
		require.InDelta(t, 3500*time.Second, left(t, m, 7), float64(slack))
		stop(t, m)
		time.Sleep(time.Hour)

		m = start(t, cfg, d)
		require.InDelta(t, 3500*time.Second, left(t, m, 7), float64(slack))
		time.Sleep(11 * time.Minute) // a checkpoint comes every five
		image, err := d.crash(rand.New(rand.NewPCG(1, 1)), filepath.Join(t.TempDir(), "wal"))
		require.NoError(t, err)
		stop(t, m)

		m = start(t, cfg, image)
		require.InDelta(t, (3500-600)*time.Second, left(t, m, 7), float64(slack))
		ttl, err := lessor{m}.Renew(t.Context(), 7)
		require.NoError(t, err)
		require.Equal(t, int64(3600), ttl)
		image, err = image.crash(rand.New(rand.NewPCG(1, 1)), filepath.Join(t.TempDir(), "wal"))
		require.NoError(t, err)
		stop(t, m)

		m = start(t, cfg, image)
		require.InDelta(t, time.Hour, left(t, m, 7), float64(slack), "a renewal voids the checkpoint")
		stop(t, m)
	})
}

// TestRemainingTimeIsRoundedUp: who renewed a lease was promised its whole time, also if the leader is stopped in between.
func TestRemainingTimeIsRoundedUp(t *testing.T) {
	smallSegments(t)
	synctest.Test(t, func(t *testing.T) {
		cfg := quietConfig(t, config.EngineMemory)
		d := newForgetful(config.EngineMemory, filepath.Join(t.TempDir(), "wal"))
		m := start(t, cfg, d)
		grant(t, m, 7, 3600)
		time.Sleep(100*time.Second + 100*time.Millisecond)
		require.Less(t, left(t, m, 7), 3500*time.Second)
		stop(t, m)
		m = start(t, cfg, d)
		l, found := m.state.Leases().Get(7)
		require.True(t, found)
		require.EqualValues(t, 3500, l.Remaining)
		stop(t, m)
	})
}

// TestKeepAliveDuringStart renews a lease of a member that has just been opened: it waits until the
// member keeps times.
func TestKeepAliveDuringStart(t *testing.T) {
	smallSegments(t)
	synctest.Test(t, func(t *testing.T) {
		cfg := quietConfig(t, config.EngineMemory)
		d := newForgetful(config.EngineMemory, filepath.Join(t.TempDir(), "wal"))
		m := start(t, cfg, d)
		grant(t, m, 7, 60)
		stop(t, m)
		m, err := openOn(t.Context(), cfg, zap.NewNop(), d.open)
		require.NoError(t, err)
		ttl, err := lessor{m}.Renew(t.Context(), 7)
		require.NoError(t, err)
		require.Equal(t, int64(60), ttl)
		require.Equal(t, []int64{7}, lessor{m}.IDs())
		stop(t, m)

		m, err = openOn(t.Context(), cfg, zap.NewNop(), d.open)
		require.NoError(t, err)
		require.InDelta(t, time.Minute, left(t, m, 7), float64(slack))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = lessor{m}.renewHere(t.Context(), 8)
		require.NoError(t, err)
		require.ErrorIs(t, lessor{m}.await(ctx, nil), context.Canceled)
		stop(t, m)
		require.Error(t, lessor{m}.await(t.Context(), nil))
	})
}

// TestExpiry lets a lease end: its key goes, and so does it.
func TestExpiry(t *testing.T) {
	smallSegments(t)
	synctest.Test(t, func(t *testing.T) {
		cfg := quietConfig(t, config.EngineMemory)
		m := start(t, cfg, newForgetful(config.EngineMemory, filepath.Join(t.TempDir(), "wal")))
		grant(t, m, 7, 10)
		time.Sleep(9 * time.Second)
		require.Equal(t, "v", string(read(t, m, "k").Value))
		ttl, err := lessor{m}.Renew(t.Context(), 7)
		require.NoError(t, err)
		require.Equal(t, int64(10), ttl)
		time.Sleep(9 * time.Second)
		require.Equal(t, "v", string(read(t, m, "k").Value))
		time.Sleep(2 * time.Second)
		require.Empty(t, read(t, m, "k").Value)
		ttl, err = lessor{m}.Renew(t.Context(), 7)
		require.NoError(t, err)
		require.Zero(t, ttl)
		_, err = lessor{m}.TimeToLive(t.Context(), 7)
		require.ErrorIs(t, err, etcdapi.ErrLeaseGone)
		stop(t, m)
	})
}

// slowDisk has an engine whose commits wait for a gate, if there is one.
type slowDisk struct {
	*forgetful
	gate atomic.Pointer[chan struct{}]
}

func (d *slowDisk) open(context.Context, *config.Config, *zap.Logger) (disk, error) { return d, nil }

func (d *slowDisk) openEngine(fatal func(error)) (engine.Engine, error) {
	eng, err := d.forgetful.openEngine(fatal)
	return gatedEngine{eng, d}, err
}

type gatedEngine struct {
	engine.Engine
	disk *slowDisk
}

func (e gatedEngine) Commit(b *engine.Batch) error {
	if gate := e.disk.gate.Load(); gate != nil {
		<-*gate
	}
	return e.Engine.Commit(b)
}

// TestTimeToLiveOfALeaseThatIsNotApplied asks a leader that is behind for a lease that another member, which is not, has
// already told its client of.
func TestTimeToLiveOfALeaseThatIsNotApplied(t *testing.T) {
	smallSegments(t)
	synctest.Test(t, func(t *testing.T) {
		d := &slowDisk{forgetful: newForgetful(config.EngineMemory, filepath.Join(t.TempDir(), "wal"))}
		m, err := openOn(t.Context(), quietConfig(t, config.EngineMemory), zap.NewNop(), d.open)
		require.NoError(t, err)
		<-m.Ready()
		synctest.Wait()
		gate := make(chan struct{})
		d.gate.Store(&gate)
		go func() {
			_, _ = m.Propose(context.Background(), &pb.InternalRaftRequest{LeaseGrant: &pb.LeaseGrantRequest{ID: 7, TTL: 60}})
		}()
		synctest.Wait()
		require.Greater(t, m.cons.Status().Commit, m.appliedIndex(), "it is committed")
		_, err = lessor{m}.TimeToLive(t.Context(), 7)
		require.ErrorIs(t, err, etcdapi.ErrApplyTimeout)
		answered := make(chan error, 1)
		go func() {
			_, err := lessor{m}.TimeToLive(context.Background(), 7)
			answered <- err
		}()
		synctest.Wait()
		require.Empty(t, answered)
		close(gate)
		require.NoError(t, <-answered)
		stop(t, m)
	})
}
