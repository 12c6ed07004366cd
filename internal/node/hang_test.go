package node

import (
	"context"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/wal"
)

// hangingDisk is a directory whose raft log does not come back from a write while it hangs.
type hangingDisk struct {
	*directory
	gate *gate
}

type gate struct {
	mu sync.Mutex
	// passed is closed while everybody may pass.
	passed chan struct{}
}

func newGate() *gate {
	g := &gate{passed: make(chan struct{})}
	close(g.passed)
	return g
}

func (g *gate) hang() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.passed = make(chan struct{})
}

func (g *gate) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.passed:
	default:
		close(g.passed)
	}
}

func (g *gate) pass() {
	g.mu.Lock()
	passed := g.passed
	g.mu.Unlock()
	<-passed
}

func (g *gate) open(ctx context.Context, cfg *config.Config, lg *zap.Logger) (disk, error) {
	d, err := openDirectory(ctx, cfg, lg)
	if err != nil {
		return nil, err
	}
	return hangingDisk{directory: d.(*directory), gate: g}, nil
}

// hangingLog is the raft log of a hangingDisk.
type hangingLog struct {
	consensus.Log
	gate *gate
}

// Append implements consensus.Log.
func (l hangingLog) Append(hs *raftpb.HardState, ents []*raftpb.Entry) error {
	l.gate.pass()
	return l.Log.Append(hs, ents)
}

func (d hangingDisk) createLog(md wal.Metadata) (consensus.Log, error) {
	l, err := d.directory.createLog(md)
	return hangingLog{Log: l, gate: d.gate}, err
}

func (d hangingDisk) openLog(applied uint64) (consensus.Log, *wal.Restored, error) {
	l, r, err := d.directory.openLog(applied)
	return hangingLog{Log: l, gate: d.gate}, r, err
}

// newHangingFleet is a fleet on disks that can hang. They are released before it ends.
func newHangingFleet(t *testing.T, n int) (*fleet, []*gate) {
	t.Helper()
	f := &fleet{t: t}
	t.Cleanup(f.killAll)
	var gates []*gate
	for range n {
		f.configure(config.EngineMemory)
	}
	for i := range n {
		f.cfgs[i].InitialCluster = f.cluster()
		g := newGate()
		gates = append(gates, g)
		t.Cleanup(g.release)
		core, lines := observer.New(zapcore.InfoLevel)
		m, err := openAmong(t.Context(), f.cfgs[i], zap.New(core), g.open, nil)
		require.NoError(t, err)
		f.members[i], f.lines[i] = m, lines
	}
	for i := range n {
		f.awaitReady(i)
	}
	return f, gates
}

// killAll ends the members that are left.
func (f *fleet) killAll() { f.running(func(_ int, m *Member) { f.kill(m) }) }

// metric is the value of a metric without labels.
func metric(t *testing.T, m *Member, name string) float64 {
	t.Helper()
	families, err := m.Registry().Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		require.Len(t, f.GetMetric(), 1)
		if f.GetType() == dto.MetricType_GAUGE {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
		return f.GetMetric()[0].GetCounter().GetValue()
	}
	require.FailNow(t, "no such metric", name)
	return 0
}

// TestLeaderOnHangingDiskHandsOver: others lead while a disk hangs, and what was asked of the leader before is done.
func TestLeaderOnHangingDiskHandsOver(t *testing.T) {
	f, gates := newHangingFleet(t, 3)
	f.put(0, "before", "v")
	at := f.leader()
	stuck := f.members[at]
	gates[at].hang()
	asked := make(chan error, 1)
	go func() {
		_, err := stuck.Propose(context.Background(), put("asked", "of it"))
		asked <- err
	}()
	require.Eventually(t, func() bool { return stuck.cons.Status().Lead != stuck.id.member && stuck.cons.Status().Lead != 0 },
		fleetPatience, 10*time.Millisecond)
	// The machine's own disk may have stalled before.
	require.Positive(t, metric(t, stuck, "dolmen_disk_stall_handovers_total"))
	require.InDelta(t, 1, metric(t, stuck, "dolmen_disk_stalled"), 0)
	require.Positive(t, metric(t, stuck, "dolmen_disk_stalls_total"))
	require.NotZero(t, f.lines[at].FilterMessage("handing leadership over because the disk stalls").Len())

	f.put((at+1)%3, "without", "it")
	require.NotEqual(t, at, f.leader())
	gates[at].release()
	err := <-asked // may have timed out meanwhile on a busy machine
	if err == nil {
		f.require("asked", "of it")
	}
	f.require("without", "it")
	f.requireEqual()
	require.Eventually(t, func() bool { return metric(t, stuck, "dolmen_disk_stalled") == 0 }, fleetPatience, 10*time.Millisecond)
}
