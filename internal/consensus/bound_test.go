package consensus

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
)

// TestBoundToATerm proposes what only the leader of a term may.
func TestBoundToATerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, nodes := startThree(t)
		lead := leader(t, nodes, 0)
		term := nodes[lead].Status().Term
		propose := func(at uint64, data string, term uint64) <-chan error {
			dropped := make(chan error, 1)
			require.NoError(t, nodes[at].Propose(Proposal{Data: []byte(data), Term: term, Dropped: func(err error) { dropped <- err }}))
			return dropped
		}
		propose(lead, "a", term)
		require.ErrorIs(t, <-propose(lead%3+1, "forwarded", term), ErrLeaderChanged)
		require.ErrorIs(t, <-propose(lead, "of the term before", term-1), ErrLeaderChanged)

		w.cut(lead, true)
		next := leader(t, nodes, lead)
		for nodes[lead].Status().Lead != 0 {
			<-nodes[lead].LeaderChanged()
		}
		// Without a leader others wait for one.
		unbound := propose(lead, "b", 0)
		require.ErrorIs(t, <-propose(lead, "too late", term), ErrLeaderChanged)
		w.cut(lead, false)
		nodes[next].applier.wait(t, "b")
		require.Empty(t, unbound)
		for _, e := range nodes[next].applier.upTo(1 << 60) {
			if e.GetType() == raftpb.EntryNormal {
				require.Contains(t, []string{"", "a", "b"}, string(e.GetData()))
			}
		}
		for _, m := range nodes {
			require.NoError(t, m.stop())
		}
	})
}
