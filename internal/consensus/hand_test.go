package consensus

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// TestHand takes a single member through its steps: nothing happens that was not asked for.
func TestHand(t *testing.T) {
	log := &fakeLog{}
	n, err := Open(Config{ID: 1, Log: log, Bootstrap: []Peer{{ID: 1}}, TickInterval: time.Second, ElectionTicks: 10,
		HeartbeatTicks: 1, AdvanceTicks: true, Logger: zap.NewNop()})
	require.NoError(t, err)
	h, err := n.Take()
	require.NoError(t, err)
	_, err = n.Take()
	require.ErrorContains(t, err, "it runs or ran already")
	require.ErrorContains(t, n.Run(t.Context()), "it runs or ran already")

	turn := func() {
		require.True(t, h.TurnWaits())
		took, err := h.Turn()
		require.NoError(t, err)
		require.True(t, took)
	}
	apply := func() (data []string) {
		b := <-n.Committed()
		var changes []ConfChange
		for _, e := range b.Entries {
			data = append(data, string(e.GetData()))
			if e.GetType() == raftpb.EntryConfChange {
				cc := ConfChange{ConfChange: &raftpb.ConfChange{}}
				require.NoError(t, proto.Unmarshal(e.GetData(), cc.ConfChange))
				changes = append(changes, cc)
			}
		}
		n.Applied(b, changes)
		return data
	}
	turn() // the bootstrap entry goes to the log
	require.True(t, h.LogWaits())
	require.Empty(t, log.mu.ents)
	require.NoError(t, h.WriteLog())
	require.Len(t, log.mu.ents, 1)
	require.Empty(t, n.Committed(), "the loop does not know yet")
	turn()
	apply()
	turn() // and is elected
	require.NoError(t, h.WriteLog())
	turn()
	require.NoError(t, h.WriteLog())
	turn()
	apply()
	turn()
	require.Equal(t, uint64(1), n.Status().Lead)
	took, err := h.Turn()
	require.NoError(t, err)
	require.False(t, took)

	require.NoError(t, n.Propose(Proposal{Data: []byte("a")}))
	require.NoError(t, h.Tick(), "a tick takes a turn too")
	require.NoError(t, h.WriteLog())
	turn()
	require.Equal(t, []string{"a"}, apply())

	require.NoError(t, n.Propose(Proposal{Data: []byte("b")}))
	var dropped error
	turn()
	require.NoError(t, n.Propose(Proposal{Data: []byte("c"), Dropped: func(err error) { dropped = err }}))
	require.NoError(t, h.Close())
	require.ErrorIs(t, dropped, ErrStopped)
	require.Equal(t, "b", string(log.mu.ents[len(log.mu.ents)-1].GetData()), "what is queued for the log is written")
}

// TestHandFails hands the failure of the log to the loop.
func TestHandFails(t *testing.T) {
	log := &fakeLog{}
	n, err := Open(Config{ID: 1, Log: log, Bootstrap: []Peer{{ID: 1}}, TickInterval: time.Second, ElectionTicks: 10,
		HeartbeatTicks: 1, Logger: zap.NewNop()})
	require.NoError(t, err)
	h, err := n.Take()
	require.NoError(t, err)
	_, err = h.Turn()
	require.NoError(t, err)
	broken := errors.New("broken")
	log.mu.err = broken
	require.ErrorIs(t, h.WriteLog(), broken)
	require.ErrorIs(t, h.Tick(), broken)
	require.ErrorIs(t, n.inbox.mu.failure, broken)
}
