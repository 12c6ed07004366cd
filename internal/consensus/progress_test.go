package consensus

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// askedProgress is what a question about progress was answered.
type askedProgress struct {
	matches map[uint64]uint64
	err     error
}

func (m *runningNode) progress() askedProgress {
	c := make(chan askedProgress, 1)
	m.Progress(func(matches map[uint64]uint64, err error) { c <- askedProgress{matches, err} })
	return <-c
}

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t, nil)
		synctest.Wait()
		require.Equal(t, askedProgress{matches: map[uint64]uint64{1: m.Status().Commit}}, m.progress())

		learner, err := proto.Marshal(&raftpb.ConfChange{Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: new(uint64(2))})
		require.NoError(t, err)
		require.NoError(t, m.Propose(Proposal{Type: raftpb.EntryConfChange, Data: learner}))
		m.applier.wait(t, string(learner))
		// The applier has just handed the change over; whoever asks now sees raft with it.
		synctest.Wait()
		got := m.progress()
		require.NoError(t, got.err)
		require.Equal(t, uint64(0), got.matches[2], "it has never answered")
		require.Contains(t, got.matches, uint64(2))

		require.NoError(t, m.stop())
		require.ErrorIs(t, m.progress().err, ErrStopped)
	})
}

func TestProgressOfAFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, nodes := startThree(t)
		first := leader(t, nodes, 0)
		synctest.Wait()
		require.Len(t, nodes[first].progress().matches, 3)
		require.Nil(t, nodes[first%3+1].progress().matches)
		for _, m := range nodes {
			require.NoError(t, m.stop())
		}
	})
}

func TestProgressIsBoundedAndEndsWithTheLoop(t *testing.T) {
	n := &Node{inbox: newInbox()} // nothing takes from it
	for range maxQueuedCommands {
		n.Progress(func(map[uint64]uint64, error) {})
	}
	var refused error
	n.Progress(func(_ map[uint64]uint64, err error) { refused = err })
	require.ErrorIs(t, refused, ErrBusy)

	ended := 0
	l := &loop{node: n}
	l.accept(&arrivals{commands: []command{{kind: askProgress, done: func(_ map[uint64]uint64, err error) {
		require.ErrorIs(t, err, ErrStopped)
		ended++
	}}}})
	n.inbox.mu.commands = nil
	l.stop()
	require.Equal(t, 1, ended, "what a failed turn had taken is answered too")
}
