package consensus_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/wal"
)

// BenchmarkPropose measures proposals through a single voter and a log on disk, with a number of them outstanding.
func BenchmarkPropose(b *testing.B) {
	for _, fsync := range []bool{true, false} {
		for _, outstanding := range []int{1, 16, 512} {
			b.Run(fmt.Sprintf("fsync=%v/outstanding=%d", fsync, outstanding), func(b *testing.B) {
				benchmarkPropose(b, outstanding, wal.Options{UnsafeNoFsync: !fsync, MaxWALs: 2})
			})
		}
	}
}

func benchmarkPropose(b *testing.B, outstanding int, opts wal.Options) {
	log, err := wal.Create(zap.NewNop(), filepath.Join(b.TempDir(), "wal"), wal.Metadata{NodeID: 1, ClusterID: 1}, opts)
	require.NoError(b, err)
	n, err := consensus.Open(consensus.Config{ID: 1, Log: log, Bootstrap: []raft.Peer{{ID: 1}}, TickInterval: 100 * time.Millisecond,
		ElectionTicks: 10, HeartbeatTicks: 1, PreVote: true, AdvanceTicks: true, Logger: zap.NewNop()})
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := n.Run(ctx); err != nil {
			b.Error(err)
		}
	})
	tokens := make(chan struct{}, outstanding)
	running.Go(func() { applyAll(b, n, tokens) })
	data := make([]byte, 256)
	propose := func() {
		tokens <- struct{}{}
		if err := n.Propose(consensus.Proposal{Data: data}); err != nil {
			b.Fatal(err)
		}
	}
	propose() // waits for the election
	b.ResetTimer()
	for range b.N {
		propose()
	}
	for range outstanding {
		tokens <- struct{}{}
	}
	b.StopTimer()
	b.ReportMetric(float64(n.Counters().Appends.Load())/float64(b.N), "appends/op")
	cancel()
	running.Wait()
}

// applyAll takes a token back for each entry with data, and makes a checkpoint every 100000 entries.
func applyAll(b *testing.B, n *consensus.Node, tokens <-chan struct{}) {
	marked := uint64(0)
	for batch := range n.Committed() {
		var changes []consensus.ConfChange
		conf := batch.ConfState
		for _, e := range batch.Entries {
			if e.GetType() == raftpb.EntryConfChange {
				cc := consensus.ConfChange{ConfChange: &raftpb.ConfChange{}}
				if err := proto.Unmarshal(e.GetData(), cc.ConfChange); err != nil {
					b.Error(err)
				}
				changes = append(changes, cc)
			} else if len(e.GetData()) > 0 {
				<-tokens
			}
		}
		n.Applied(batch, changes)
		if last := batch.Entries[len(batch.Entries)-1]; last.GetIndex() >= marked+100000 {
			marked = last.GetIndex()
			n.Checkpoint(marked, last.GetTerm(), conf, 5000)
		}
	}
}
