package consensus

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// TestForwardedProposalsWait sends a leader the proposals of another member when it can take none: while it holds as
// much as it may, and conf changes while one is pending. They wait as its own do, and none is lost.
func TestForwardedProposalsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, err := Open(Config{ID: 1, Log: &fakeLog{}, Bootstrap: []raft.Peer{{ID: 1}}, TickInterval: 100 * time.Millisecond,
			ElectionTicks: 10, HeartbeatTicks: 1, PreVote: true, AdvanceTicks: true, Logger: zap.NewNop()})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		ran := make(chan error, 1)
		go func() { ran <- n.Run(ctx) }()
		var added []uint64
		applied := map[string]bool{}
		apply := func(b Batch) {
			var changes []ConfChange
			for _, e := range b.Entries {
				applied[string(e.GetData())] = true
			}
			if b.endsWithConfChange() {
				cc := ConfChange{ConfChange: &raftpb.ConfChange{}}
				require.NoError(t, proto.Unmarshal(b.Entries[len(b.Entries)-1].GetData(), cc.ConfChange))
				changes = append(changes, cc)
				added = append(added, cc.GetNodeId())
			}
			n.Applied(b, changes)
			synctest.Wait()
		}
		for !n.Status().SoleVoter {
			apply(<-n.Committed())
		}
		forward := func(ents ...*raftpb.Entry) error {
			return n.Step(ctx, &raftpb.Message{Type: raftpb.MsgProp.Enum(), From: new(uint64(2)), To: new(uint64(1)), Entries: ents})
		}
		learner := func(id uint64) *raftpb.Entry {
			data, err := proto.Marshal(&raftpb.ConfChange{Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: &id})
			require.NoError(t, err)
			return &raftpb.Entry{Type: raftpb.EntryConfChange.Enum(), Data: data}
		}
		for range maxUncommittedBytes >> 20 {
			require.NoError(t, n.Propose(Proposal{Data: make([]byte, 1<<20)}))
			synctest.Wait()
		}
		require.NoError(t, forward(&raftpb.Entry{Data: []byte("forwarded")}))
		require.NoError(t, forward(learner(2), learner(3)))
		require.NoError(t, forward(learner(4)))
		synctest.Wait()
		require.Equal(t, 4, n.ProposalsPending())
		for n.ProposalsPending() > 0 || n.Status().Applied < n.Status().Commit {
			apply(<-n.Committed())
		}
		require.True(t, applied["forwarded"])
		require.Equal(t, []uint64{1, 2, 3, 4}, added)

		// Others cannot fill the queue beyond its bound.
		for range maxUncommittedBytes >> 20 {
			require.NoError(t, n.Propose(Proposal{Data: make([]byte, 1<<20)}))
			synctest.Wait()
		}
		for range 2*maxQueuedBytes>>20 + 2 {
			require.NoError(t, forward(&raftpb.Entry{Data: make([]byte, 1<<20)}))
			synctest.Wait()
		}
		require.LessOrEqual(t, n.ProposalsPending(), maxQueuedBytes>>20)
		cancel()
		require.NoError(t, <-ran)
	})
}
