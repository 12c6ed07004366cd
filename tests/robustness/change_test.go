package robustness

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/dolmen-io/dolmen/tests/harness"
)

// What an operator does to a cluster under load costs no acknowledged write, and clients see no error after which they may
// not try again; settle looks for both.

// underLoad runs a cluster of three under load, and act when the load has written something.
func underLoad(t *testing.T, act func(w *world)) {
	w := newWorld(t, worldOptions{kind: harness.Subject(), members: 3, seed: *seed})
	defer w.report()()
	w.begin()
	w.awaitWrites(100)
	act(w)
	w.awaitWrites(100)
	w.settle()
}

// awaitWrites returns when the load has got acknowledgements of so many more writes.
func (w *world) awaitWrites(more int) {
	w.tb.Helper()
	_, before := w.journal.counts()
	w.eventually(fmt.Sprintf("%d more writes", more), func(context.Context) error {
		if _, now := w.journal.counts(); now < before+more {
			return fmt.Errorf("there are %d", now-before)
		}
		return nil
	})
}

// TestRollingRestart stops and starts one member after the other.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	underLoad(t, func(w *world) {
		for i := range w.cluster.Members {
			w.end([]int{i}, (*harness.Server).Stop)
			w.awaitWrites(50)
			w.revive([]int{i})
			w.cluster.Await(i)
		}
	})
}

// TestLossOfAMember kills the leader for good; it comes back when the load has ended, and is brought up to date by a
// snapshot.
func TestLossOfAMember(t *testing.T) {
	t.Parallel()
	underLoad(t, func(w *world) {
		lost := w.awaitLeader()
		w.end([]int{lost}, (*harness.Server).Kill)
		w.awaitWrites(600) // more than are kept for who is behind
	})
}

// TestReplacement puts a new member in the place of one that was killed and removed: it joins as a learner, gets the data,
// and is promoted when it has caught up.
func TestReplacement(t *testing.T) {
	t.Parallel()
	underLoad(t, func(w *world) {
		old := w.awaitLeader()
		status, err := w.etcds[old].Status(t.Context(), w.cluster.Members[old].Endpoint())
		require.NoError(t, err)
		w.end([]int{old}, (*harness.Server).Kill)
		w.eventually("the removal", func(ctx context.Context) error {
			_, err := w.all.MemberRemove(ctx, status.Header.MemberId)
			if errors.Is(err, rpctypes.ErrMemberNotFound) {
				return nil // an earlier try has removed it
			}
			return err
		})
		w.cluster.Forget(old)
		w.gone[old] = true

		i, id := w.join()
		w.awaitWrites(50)
		w.eventually("the promotion", func(ctx context.Context) error {
			_, err := w.all.MemberPromote(ctx, id)
			if errors.Is(err, rpctypes.ErrMemberNotLearner) {
				return nil
			}
			return err
		})
		w.addClient(w.etcds[i])
		w.watch(i)
	})
}

// awaitLeader returns the number of the leader.
func (w *world) awaitLeader() (leader int) {
	w.tb.Helper()
	w.eventually("a leader", func(context.Context) error {
		if leader = w.leader(); leader < 0 {
			return errors.New("nobody leads")
		}
		return nil
	})
	return leader
}

// join adds a learner and starts it, and returns its number and its id.
func (w *world) join() (i int, id uint64) {
	w.tb.Helper()
	i, peer := w.cluster.Prepare()
	w.eventually("the addition", func(ctx context.Context) error {
		added, err := w.all.MemberAddAsLearner(ctx, []string{peer})
		if err == nil {
			id = added.Member.ID
			return nil
		}
		if !errors.Is(err, rpctypes.ErrPeerURLExist) {
			return err
		}
		list, err := w.all.MemberList(ctx) // an earlier try has added it
		if err != nil {
			return err
		}
		for _, m := range list.Members {
			if m.PeerURLs[0] == peer {
				id = m.ID
			}
		}
		return nil
	})
	w.network.know(id, name(i))
	w.cluster.Begin(i)
	w.cluster.Await(i)
	w.meet(i)
	return i, id
}
