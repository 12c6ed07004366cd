package consensus_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	etcdwal "go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/wal"
)

// TestAcknowledgedSurvivesACopyOfTheLog copies the log of a member under load, as it is at that moment, and starts a
// member on the copy with an empty engine: all that was applied before the copy began must be applied again, in the
// same order. It does so again with the copy, so that logs with several lives are covered.
func TestAcknowledgedSurvivesACopyOfTheLog(t *testing.T) {
	size := etcdwal.SegmentSizeBytes
	etcdwal.SegmentSizeBytes = 1 << 20
	defer func() { etcdwal.SegmentSizeBytes = size }()
	dir := filepath.Join(t.TempDir(), "wal")
	before := []string{}
	for life := range 6 {
		n := openOnLog(t, dir)
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() {
			if err := n.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		a := &appliedData{outstanding: make(chan struct{}, 64)}
		running.Go(func() { a.run(t, n) })
		running.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-ctx.Done():
					return
				case a.outstanding <- struct{}{}:
				}
				if n.Propose(consensus.Proposal{Data: fmt.Appendf(nil, "%d/%d %0*d", life, i, i%700, 0)}) != nil {
					return
				}
			}
		})
		require.Eventually(t, func() bool { return len(a.get()) > len(before)+300 }, 20*time.Second, time.Millisecond)
		require.Equal(t, before, a.get()[:len(before)], "life %d", life)
		before = a.get()
		crashed := filepath.Join(t.TempDir(), "wal")
		copySegments(t, dir, crashed)
		cancel()
		running.Wait()
		dir = crashed
	}
}

// copySegments copies the segments that there are when it begins.
func copySegments(t *testing.T, from, to string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(to, 0o700))
	names, err := filepath.Glob(filepath.Join(from, "*.wal"))
	require.NoError(t, err)
	for _, name := range names {
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(to, filepath.Base(name)), data, 0o600))
	}
}

func openOnLog(t *testing.T, dir string) *consensus.Node {
	t.Helper()
	cfg := consensus.Config{ID: 1, Bootstrap: []raft.Peer{{ID: 1}}, TickInterval: 10 * time.Millisecond, ElectionTicks: 10,
		HeartbeatTicks: 1, PreVote: true, AdvanceTicks: true, Logger: zap.NewNop()}
	var log *wal.Log
	var err error
	if wal.Exist(dir) {
		var r *wal.Restored
		log, r, err = wal.Open(zap.NewNop(), dir, 0, wal.Options{})
		require.NoError(t, err)
		cfg.HardState, cfg.Entries, cfg.First = r.HardState, r.Entries, consensus.First(r.Mark)
	} else {
		log, err = wal.Create(zap.NewNop(), dir, wal.Metadata{NodeID: 1, ClusterID: 1}, wal.Options{})
		require.NoError(t, err)
	}
	cfg.Log = log
	n, err := consensus.Open(cfg)
	require.NoError(t, err)
	return n
}

// appliedData is an engine that remembers the data of what it applied.
type appliedData struct {
	outstanding chan struct{} // a token for each proposal under way
	mu          struct {
		sync.Mutex
		data []string
	}
}

func (a *appliedData) get() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.data[:len(a.mu.data):len(a.mu.data)]
}

func (a *appliedData) run(t *testing.T, n *consensus.Node) {
	for b := range n.Committed() {
		var changes []consensus.ConfChange
		a.mu.Lock()
		for _, e := range b.Entries {
			if e.GetType() == raftpb.EntryConfChange {
				cc := consensus.ConfChange{ConfChange: &raftpb.ConfChange{}}
				if err := proto.Unmarshal(e.GetData(), cc.ConfChange); err != nil {
					t.Error(err)
				}
				changes = append(changes, cc)
			} else if len(e.GetData()) > 0 {
				a.mu.data = append(a.mu.data, string(e.GetData()))
				select {
				case <-a.outstanding:
				default: // proposed in an earlier life
				}
			}
		}
		a.mu.Unlock()
		n.Applied(b, changes)
	}
}
