package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/etcdapi"
	"github.com/dolmen-io/dolmen/internal/mvcc"
	"github.com/dolmen-io/dolmen/internal/wal"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// noGoroutines waits until no goroutine of a member's is left.
func noGoroutines(t *testing.T) {
	t.Helper()
	var left string
	require.Eventually(t, func() bool {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		left = ""
		for stack := range strings.SplitSeq(string(stacks), "\n\n") {
			if strings.Contains(stack, "dolmen/internal/") && !strings.Contains(stack, "_test.go") ||
				strings.Contains(stack, "cockroachdb/pebble") && !strings.Contains(stack, "_test.go") {
				left += stack + "\n\n"
			}
		}
		return left == ""
	}, testPatience, 10*time.Millisecond, "%s", &left)
}

func put(key, value string) *pb.InternalRaftRequest {
	return &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}}
}

// brokenDisk fails or blocks on demand.
type brokenDisk struct {
	*forgetful
	openEngineErr, openLogErr error
	commit, flush, write      atomic.Pointer[error] // what these return
	gate                      chan struct{}         // nil, or what an append waits for
}

func newBrokenDisk(t *testing.T) *brokenDisk {
	return &brokenDisk{forgetful: newForgetful(config.EngineMemory, filepath.Join(t.TempDir(), "wal"))}
}

func (d *brokenDisk) open(context.Context, *config.Config, *zap.Logger) (disk, error) { return d, nil }

func (d *brokenDisk) openEngine(fatal func(error)) (engine.Engine, error) {
	if d.openEngineErr != nil {
		return nil, d.openEngineErr
	}
	eng, err := d.forgetful.openEngine(fatal)
	return brokenEngine{eng, d}, err
}

func (d *brokenDisk) createLog(md wal.Metadata) (consensus.Log, error) {
	if d.openLogErr != nil {
		return nil, d.openLogErr
	}
	log, err := d.forgetful.createLog(md)
	return brokenLog{log, d}, err
}

func orNil(p *atomic.Pointer[error]) error {
	if err := p.Load(); err != nil {
		return *err
	}
	return nil
}

type brokenEngine struct {
	engine.Engine
	disk *brokenDisk
}

func (e brokenEngine) Commit(b *engine.Batch) error {
	if err := orNil(&e.disk.commit); err != nil {
		return err
	}
	return e.Engine.Commit(b)
}

func (e brokenEngine) Flush() error {
	if err := orNil(&e.disk.flush); err != nil {
		return err
	}
	return e.Engine.Flush()
}

type brokenLog struct {
	consensus.Log
	disk *brokenDisk
}

func (l brokenLog) Append(hs *raftpb.HardState, ents []*raftpb.Entry) error {
	if l.disk.gate != nil {
		<-l.disk.gate
	}
	if err := orNil(&l.disk.write); err != nil {
		return err
	}
	return l.Log.Append(hs, ents)
}

// TestFailures fails one part of a member that serves. It stops, says why, and keeps nobody waiting.
func TestFailures(t *testing.T) {
	smallSegments(t)
	broken := errors.New("the disk is broken")
	for name, part := range map[string]func(*brokenDisk) *atomic.Pointer[error]{
		"applier: state: commit":        func(d *brokenDisk) *atomic.Pointer[error] { return &d.commit },
		"flush: flush the engine":       func(d *brokenDisk) *atomic.Pointer[error] { return &d.flush },
		"consensus: write the raft log": func(d *brokenDisk) *atomic.Pointer[error] { return &d.write },
	} {
		t.Run(name, func(t *testing.T) {
			d := newBrokenDisk(t)
			cfg := crashConfig(t, config.EngineMemory)
			m, err := openOn(t.Context(), cfg, zap.NewNop(), d.open)
			require.NoError(t, err)
			ready(t, m)
			part(d).Store(&broken)
			var clients sync.WaitGroup
			for i := range 4 {
				clients.Go(func() {
					for n := 0; ; n++ {
						if _, err := m.Propose(context.Background(), put(fmt.Sprint(i), fmt.Sprint(n))); err != nil {
							if !errors.Is(err, consensus.ErrStopped) {
								t.Errorf("a request ends with %v", err)
							}
							return
						}
					}
				})
			}
			clients.Wait()
			<-m.Done()
			require.ErrorIs(t, m.Err(), broken)
			require.ErrorContains(t, m.Err(), name)
			require.ErrorIs(t, m.Stop(t.Context()), broken)
			noGoroutines(t)
		})
	}
}

func TestFailuresToOpen(t *testing.T) {
	smallSegments(t)
	broken := errors.New("the disk is broken")
	for name, breakIt := range map[string]func(*brokenDisk){
		"engine": func(d *brokenDisk) { d.openEngineErr = broken },
		"log":    func(d *brokenDisk) { d.openLogErr = broken },
	} {
		t.Run(name, func(t *testing.T) {
			d := newBrokenDisk(t)
			breakIt(d)
			_, err := openOn(t.Context(), quietConfig(t, config.EngineMemory), zap.NewNop(), d.open)
			require.ErrorIs(t, err, broken)
			noGoroutines(t)
		})
	}
	cfg := quietConfig(t, config.EngineMemory)
	cfg.HeartbeatInterval = cfg.ElectionTimeout // which consensus refuses
	d := newBrokenDisk(t)
	_, err := openOn(t.Context(), cfg, zap.NewNop(), d.open)
	require.Error(t, err)
	noGoroutines(t)
}

// TestStopUnderLoad stops a member that is written to and read from: every request ends, with its result
// or with ErrStopped, and what was acknowledged is there afterwards.
func TestStopUnderLoad(t *testing.T) {
	smallSegments(t)
	for _, engineName := range []string{config.EnginePebble, config.EngineMemory} {
		t.Run(engineName, func(t *testing.T) {
			cfg := crashConfig(t, engineName)
			m, err := Open(t.Context(), cfg, zap.NewNop())
			require.NoError(t, err)
			ready(t, m)
			var clients sync.WaitGroup
			var acked [8]atomic.Int64
			enough := make(chan struct{})
			for i := range acked {
				clients.Go(func() {
					for n := int64(1); ; n++ {
						_, err := m.Propose(context.Background(), put(fmt.Sprint("k", i), fmt.Sprint(n)))
						if err == nil {
							acked[i].Store(n)
							err = m.readIndex(context.Background())
						}
						if i == 0 && n == 20 {
							close(enough)
						}
						if err != nil {
							if !errors.Is(err, consensus.ErrStopped) {
								t.Errorf("a request ends with %v", err)
							}
							return
						}
					}
				})
			}
			<-enough
			stop(t, m)
			clients.Wait()
			_, err = m.Propose(context.Background(), put("k", "v"))
			require.ErrorIs(t, err, consensus.ErrStopped)
			noGoroutines(t)

			m, err = Open(t.Context(), cfg, zap.NewNop())
			require.NoError(t, err)
			ready(t, m)
			for i := range acked {
				require.GreaterOrEqual(t, versionOf(t, m, fmt.Sprint("k", i)), acked[i].Load())
			}
			stop(t, m)
		})
	}
}

// TestStopGivesUpWaiting ends the context of a Stop: the member goes on stopping.
func TestStopGivesUpWaiting(t *testing.T) {
	smallSegments(t)
	m, err := Open(t.Context(), quietConfig(t, config.EngineMemory), zap.NewNop())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Stop(ctx); err != nil { // it may have been as fast
		require.ErrorIs(t, err, context.Canceled)
	}
	<-m.Done()
	require.NoError(t, m.Err())
}

// TestDeadlines holds up the log: requests end as etcd's clients expect.
func TestDeadlines(t *testing.T) {
	smallSegments(t)
	synctest.Test(t, func(t *testing.T) {
		d := newBrokenDisk(t)
		d.gate = make(chan struct{})
		m, err := openOn(t.Context(), quietConfig(t, config.EngineMemory), zap.NewNop(), d.open)
		require.NoError(t, err)
		start := time.Now()
		_, err = m.Propose(t.Context(), put("k", "v"))
		require.ErrorIs(t, err, context.DeadlineExceeded, "without a leader")
		require.Equal(t, m.patience, time.Since(start))
		_, err = m.Read(t.Context(), true)
		require.ErrorIs(t, err, etcdapi.ErrTimeout)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = m.Propose(ctx, put("withdrawn", "v"))
		require.ErrorIs(t, err, context.DeadlineExceeded, "without a leader")
		close(d.gate)
		<-m.Ready()
		require.Zero(t, versionOf(t, m, "withdrawn"), "the client may ask again")

		synctest.Wait()
		d.gate = make(chan struct{}) // nobody is in Append
		start = time.Now()
		_, err = m.Propose(t.Context(), put("k", "v"))
		require.ErrorIs(t, err, etcdapi.ErrTimeout, "with a leader")
		require.Equal(t, m.patience, time.Since(start))
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = m.Propose(ctx, put("k", "v"))
		require.ErrorIs(t, err, etcdapi.ErrTimeout)
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err = m.Propose(ctx, put("k", "v"))
		require.ErrorIs(t, err, etcdapi.ErrCanceled)
		_, err = m.Propose(t.Context(), put("k", strings.Repeat("v", int(m.cfg.MaxRequestBytes))))
		require.ErrorIs(t, err, etcdapi.ErrTooLarge)
		require.Zero(t, m.pending.size())
		close(d.gate)
		require.NoError(t, m.Stop(context.Background()))
	})
}

// TestCompactionGoesOn stops a member while it removes what was compacted.
func TestCompactionGoesOn(t *testing.T) {
	smallSegments(t)
	cfg := quietConfig(t, config.EnginePebble)
	cfg.CompactionBatchLimit, cfg.CompactionSleepInterval = 1, time.Hour
	m, err := Open(t.Context(), cfg, zap.NewNop())
	require.NoError(t, err)
	ready(t, m)
	for n := range 100 {
		_, err := m.Propose(t.Context(), put(fmt.Sprint("k", n%5), "v"))
		require.NoError(t, err)
	}
	res, err := m.Propose(t.Context(), &pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{Revision: 90}})
	require.NoError(t, err)
	require.NoError(t, res.Err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, m.Compacted(ctx, 90), context.Canceled)
	waiting := make(chan error, 1)
	go func() { waiting <- m.Compacted(context.Background(), 90) }()
	stop(t, m)
	require.ErrorIs(t, <-waiting, consensus.ErrStopped)
	require.Less(t, m.state.Removed(), int64(90))

	cfg.CompactionBatchLimit, cfg.CompactionSleepInterval = 0, 0
	core, lines := observer.New(zapcore.InfoLevel)
	m, err = Open(t.Context(), cfg, zap.New(core))
	require.NoError(t, err)
	require.NoError(t, m.Compacted(t.Context(), 90))
	require.NoError(t, m.Compacted(t.Context(), 0), "it is done")
	ready(t, m)
	hashes := func() []mvcc.Hash { return compared{m}.Hashes() }
	require.Empty(t, hashes(), "others may have carried it out otherwise")
	for _, line := range []string{"resume scheduled compaction", "finished scheduled compaction",
		"previous compaction was interrupted, skip storing compaction hash value"} {
		require.Len(t, lines.FilterMessage(line).All(), 1, line)
	}
	require.NoError(t, m.compact(t.Context(), 95))
	require.NoError(t, m.Compacted(t.Context(), 95))
	require.Len(t, hashes(), 1)
	require.EqualValues(t, 95, hashes()[0].Revision)
	require.EqualValues(t, 90, hashes()[0].Compacted)
	stored := lines.FilterMessage("storing new hash").All()
	require.Len(t, stored, 1)
	require.Equal(t, hashes()[0].Sum, stored[0].ContextMap()["hash"])
	metrics, err := m.Registry().Gather()
	require.NoError(t, err)
	for _, family := range metrics {
		if family.GetName() == "etcd_debugging_mvcc_db_compaction_keys_total" {
			require.Positive(t, family.GetMetric()[0].GetCounter().GetValue())
		}
		if family.GetName() == "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds" {
			require.EqualValues(t, 2, family.GetMetric()[0].GetHistogram().GetSampleCount())
		}
	}
	stop(t, m)
}

// TestFront serves on all kinds of listeners.
func TestFront(t *testing.T) {
	smallSegments(t)
	cfg := quietConfig(t, config.EngineMemory)
	any0 := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	cfg.ListenPeerURLs, cfg.ListenClientURLs, cfg.ListenMetricsURLs, cfg.ListenClientHTTPURLs = any0, any0, any0, any0
	cfg.AdvertisePeerURLs, cfg.AdvertiseClientURLs = any0, any0
	cfg.InitialCluster = cfg.InitialClusterFromName()
	m, err := Open(t.Context(), cfg, zap.NewNop())
	require.NoError(t, err)
	ready(t, m)
	require.Len(t, m.ClientURLs(), 1)
	get := func(l *listener, path string) string {
		resp, err := http.Get("http://" + l.Addr().String() + path)
		require.NoError(t, err)
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, errors.Join(err, resp.Body.Close()))
		require.Equal(t, http.StatusOK, resp.StatusCode, "%s: %s", path, b)
		return string(b)
	}
	require.Contains(t, get(m.front.web[0], "/health"), `"health":"true"`)
	require.Contains(t, get(m.front.web[0], "/version"), serverVersion)
	require.Contains(t, get(m.front.web[0], "/debug/vars"), "raft.status")
	require.Contains(t, get(m.front.metrics[0], "/metrics"), "etcd_server_has_leader 1")
	require.Contains(t, get(m.front.metrics[0], "/health?serializable=true"), `"health":"true"`)
	require.Contains(t, get(m.front.peer[0], "/members"), m.ClientURLs()[0])
	st := m.Status()
	require.Equal(t, m.id.member, st.Leader)
	require.Equal(t, int64(defaultQuota), st.QuotaBytes)
	require.Equal(t, int64(7), quotaBytes(7))
	_, err = m.Registry().Gather()
	require.NoError(t, err)

	second := *cfg
	second.DataDir = t.TempDir()
	second.ListenClientURLs = []url.URL{{Scheme: "http", Host: m.front.client[0].Addr().String()}}
	_, err = Open(t.Context(), &second, zap.NewNop())
	require.ErrorContains(t, err, "listen on "+m.ClientURLs()[0]+" of --listen-client-urls")
	http.DefaultClient.CloseIdleConnections()
	stop(t, m)
	noGoroutines(t)
}

// versionOf returns how often a key was put.
func versionOf(t *testing.T, m *Member, key string) int64 {
	t.Helper()
	kv := read(t, m, key)
	return kv.Ver
}
