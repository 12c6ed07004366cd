package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dolmen-io/dolmen/internal/alarm"
	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/engine/memory"
	"github.com/dolmen-io/dolmen/internal/state"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// admitted does what a service does with a request that writes.
func admitted(m *Member, req *pb.InternalRaftRequest) error {
	if err := m.Admit(context.Background(), req); err != nil {
		return err
	}
	return proposed(m, req)
}

// proposed does what a member does with a request that another has admitted.
func proposed(m *Member, req *pb.InternalRaftRequest) error {
	res, err := m.Propose(context.Background(), req)
	return errors.Join(err, res.Err)
}

func alarms(m *Member) []alarm.Alarm { return m.state.Alarms().Alarms }

func disarm(t *testing.T, m *Member) {
	t.Helper()
	require.NoError(t, m.proposeAlarm(t.Context(), &pb.InternalRaftRequest{Alarm: &pb.AlarmRequest{
		Action: pb.AlarmRequest_DEACTIVATE, MemberID: m.id.member, Alarm: pb.AlarmType_NOSPACE,
	}}))
	require.Empty(t, alarms(m))
}

// TestQuota fills a member from several clients: they all hear of it, one alarm is raised, what makes room is
// admitted, and with room and without the alarm writes are taken again.
func TestQuota(t *testing.T) {
	smallSegments(t)
	for _, engineName := range []string{config.EnginePebble, config.EngineMemory} {
		t.Run(engineName, func(t *testing.T) {
			cfg := quietConfig(t, engineName)
			cfg.QuotaBackendBytes = 64 << 10
			core, lines := observer.New(zapcore.WarnLevel)
			m, err := Open(t.Context(), cfg, zap.New(core))
			require.NoError(t, err)
			ready(t, m)
			value := strings.Repeat("x", 1000)
			var clients sync.WaitGroup
			for i := range 6 {
				clients.Go(func() {
					for n := 0; ; n++ {
						if err := admitted(m, put(fmt.Sprint(i, "-", n), value)); err != nil {
							if !errors.Is(err, state.ErrNoSpace) {
								t.Errorf("a write ends with %v", err)
							}
							return
						}
					}
				})
			}
			clients.Wait()
			own := []alarm.Alarm{{Member: m.id.member, Type: alarm.NoSpace}}
			require.Equal(t, own, alarms(m))
			require.Len(t, lines.FilterMessage("message exceeded backend quota; raising alarm").All(), 1)
			require.InDelta(t, 64<<10, m.state.Bytes(), 10*1300, "no more is written than was on its way")

			refused := []*pb.InternalRaftRequest{
				put("", ""), {LeaseGrant: &pb.LeaseGrantRequest{ID: 1, TTL: 100}},
				{Txn: &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: put("a", "").Put}}}}},
			}
			for _, req := range refused {
				require.ErrorIs(t, admitted(m, req), state.ErrNoSpace)
			}
			stop(t, m)
			m, err = Open(t.Context(), cfg, zap.NewNop())
			require.NoError(t, err)
			ready(t, m)
			require.Equal(t, own, alarms(m), "it survives a restart")
			for _, req := range refused {
				require.ErrorIs(t, admitted(m, req), state.ErrNoSpace)
			}

			all := &pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
			require.NoError(t, admitted(m, &pb.InternalRaftRequest{DeleteRange: all}))
			disarm(t, m)
			require.ErrorIs(t, admitted(m, put("a", "")), state.ErrNoSpace, "what is deleted is not gone yet")
			require.Equal(t, own, alarms(m), "it comes back")
			require.NoError(t, admitted(m, &pb.InternalRaftRequest{Txn: &pb.TxnRequest{
				Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: all}}},
			}}))
			current, _ := m.state.Revisions()
			require.NoError(t, admitted(m, &pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{Revision: current}}))
			require.NoError(t, m.Compacted(t.Context(), current))
			require.ErrorIs(t, admitted(m, put("a", "")), state.ErrNoSpace, "an alarm must be disarmed")
			disarm(t, m)
			require.NoError(t, admitted(m, put("a", "")))
			require.Empty(t, alarms(m))
			st := m.Status()
			require.Equal(t, m.state.Bytes(), st.LiveBytes)
			require.GreaterOrEqual(t, st.DiskBytes, st.LiveBytes)
			require.EqualValues(t, 64<<10, st.QuotaBytes)
			stop(t, m)
		})
	}
}

// TestAppliedOverQuota: a write that was admitted elsewhere, or just before the store was full, is applied,
// and the alarm is raised whether somebody waits for the answer or not.
func TestAppliedOverQuota(t *testing.T) {
	cfg := quietConfig(t, config.EngineMemory)
	cfg.QuotaBackendBytes = 8 << 10
	m, err := Open(t.Context(), cfg, zap.NewNop())
	require.NoError(t, err)
	ready(t, m)
	defer stop(t, m)
	res, err := m.Propose(t.Context(), put("a", strings.Repeat("x", 9000)))
	require.NoError(t, err)
	require.ErrorIs(t, res.Err, state.ErrNoSpace)
	require.Len(t, alarms(m), 1, "who hears of it finds the alarm")
	require.EqualValues(t, 1, versionOf(t, m, "a"), "it was applied")

	disarm(t, m)
	m.proposeQuietly(put("a", "y"), m.leadsIn(), nil)
	require.Eventually(t, func() bool { return len(alarms(m)) == 1 }, testPatience, time.Millisecond)
	require.EqualValues(t, 2, versionOf(t, m, "a"))
}

// TestQuotaAfterCrash: what was over the quota long ago, and is applied once more after a crash, brings no alarm
// back that was disarmed since.
func TestQuotaAfterCrash(t *testing.T) {
	smallSegments(t)
	synctest.Test(t, func(t *testing.T) {
		cfg := quietConfig(t, config.EngineMemory)
		cfg.QuotaBackendBytes = 8 << 10
		d := newForgetful(config.EngineMemory, filepath.Join(t.TempDir(), "wal"))
		m := start(t, cfg, d)
		require.ErrorIs(t, proposed(m, put("a", strings.Repeat("x", 9000))), state.ErrNoSpace)
		require.Len(t, alarms(m), 1)
		require.NoError(t, proposed(m, &pb.InternalRaftRequest{DeleteRange: &pb.DeleteRangeRequest{Key: []byte("a")}}))
		current, _ := m.state.Revisions()
		require.NoError(t, proposed(m, &pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{Revision: current}}))
		require.NoError(t, m.Compacted(t.Context(), current))
		disarm(t, m)
		require.NoError(t, admitted(m, put("c", "")))
		after, err := d.crash(rand.New(rand.NewPCG(1, 1)), filepath.Join(t.TempDir(), "after"))
		require.NoError(t, err)
		stop(t, m)

		m = start(t, cfg, after)
		require.NoError(t, m.Compacted(t.Context(), current))
		synctest.Wait()
		require.EqualValues(t, 1, versionOf(t, m, "c"), "the log is replayed")
		require.Empty(t, alarms(m))
		require.NoError(t, admitted(m, put("c", "")))
		stop(t, m)
	})
}

func TestNoQuota(t *testing.T) {
	cfg := quietConfig(t, config.EngineMemory)
	cfg.QuotaBackendBytes = -1
	m, err := Open(t.Context(), cfg, zap.NewNop())
	require.NoError(t, err)
	ready(t, m)
	defer stop(t, m)
	require.NoError(t, admitted(m, put("a", strings.Repeat("x", 9000))))
	require.EqualValues(t, -1, m.Status().QuotaBytes)
}

// TestQuotaLines: what the member says of its quota when it starts.
func TestQuotaLines(t *testing.T) {
	for limit, want := range map[int64][]string{
		-1:                  {"disabled backend quota"},
		quotaBytes(0):       {"enabled backend quota"},
		quotaBytes(9 << 30): {"quota exceeds the maximum value", "enabled backend quota"},
	} {
		core, lines := observer.New(zapcore.InfoLevel)
		(&quota{lg: zap.New(core), limit: limit}).logStart()
		var got []string
		for _, e := range lines.All() {
			got = append(got, e.Message)
		}
		require.Equal(t, want, got)
	}
}

// TestRaiseAlarmInVain: a proposal that fails keeps nobody waiting, and the next one tries again.
func TestRaiseAlarmInVain(t *testing.T) {
	core, lines := observer.New(zapcore.WarnLevel)
	eng, err := memory.Open(t.TempDir(), memory.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, eng.Close()) }()
	st, err := state.Open(eng, state.Config{})
	require.NoError(t, err)
	tries := 0
	q := &quota{lg: zap.New(core), state: st, propose: func(context.Context, *pb.InternalRaftRequest) error {
		tries++
		return consensus.ErrLeaderChanged
	}}
	q.raise(t.Context(), q.raised)
	q.raise(t.Context(), q.refused)
	require.Equal(t, 2, tries)
	require.Len(t, lines.FilterMessageSnippet("could not raise the NOSPACE alarm").All(), 2)

	q.mu.raising = make(chan struct{}) // another's proposal that does not end
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	q.raise(ctx, q.raised)
	require.Equal(t, 2, tries)
}

// fillingDisk has as much room as a test says.
type fillingDisk struct {
	*forgetful
	left atomic.Int64
}

func (d *fillingDisk) free() (int64, error) {
	if left := d.left.Load(); left >= 0 {
		return left, nil
	}
	return 0, errors.New("the file system does not answer")
}

// TestDiskFills: below the reserve writes are refused and nothing else, without an alarm.
func TestDiskFills(t *testing.T) {
	smallSegments(t)
	d := &fillingDisk{forgetful: newForgetful(config.EngineMemory, filepath.Join(t.TempDir(), "wal"))}
	d.left.Store(reserveBytes - 1)
	core, lines := observer.New(zapcore.InfoLevel)
	m, err := openOn(t.Context(), quietConfig(t, config.EngineMemory), zap.New(core),
		func(context.Context, *config.Config, *zap.Logger) (disk, error) { return d, nil })
	require.NoError(t, err)
	ready(t, m)
	defer stop(t, m)
	require.ErrorIs(t, admitted(m, put("a", "1")), state.ErrNoSpace)
	require.NoError(t, admitted(m, &pb.InternalRaftRequest{DeleteRange: &pb.DeleteRangeRequest{Key: []byte("a")}}))
	require.NoError(t, m.readIndex(t.Context()))
	require.Empty(t, alarms(m))
	d.left.Store(reserveBytes)
	m.space.look()
	require.NoError(t, admitted(m, put("a", "1")))
	d.left.Store(0)
	m.space.look()
	require.ErrorIs(t, admitted(m, put("a", "2")), state.ErrNoSpace)
	d.left.Store(-1)
	m.space.look()
	require.NoError(t, admitted(m, put("a", "2")), "who does not know refuses nothing")
	require.Len(t, lines.FilterMessageSnippet("the disk is nearly full").All(), 2)
	require.Len(t, lines.FilterMessageSnippet("the disk has room again").All(), 1)
}

func TestFreeBytes(t *testing.T) {
	dir := t.TempDir()
	free, err := freeBytes(dir)
	require.NoError(t, err)
	require.Positive(t, free)
	_, err = freeBytes(filepath.Join(dir, "nothing"))
	require.ErrorContains(t, err, "nothing")
	_, err = (&directory{member: filepath.Join(dir, "nothing"), wal: dir}).free()
	require.Error(t, err)
	_, err = (&directory{member: dir, wal: filepath.Join(dir, "nothing")}).free()
	require.Error(t, err)
}
