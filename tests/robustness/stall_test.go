package robustness

import (
	"context"
	"fmt"
	"testing"

	"github.com/dolmen-io/dolmen/tests/harness"
)

// TestStalledDisk stalls the disk of the leader, and nothing else of it: heartbeats go on, and followers hear from it. It has to
// hand over, or nothing that its own clients write is answered until the disk is well again.
func TestStalledDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t, worldOptions{kind: harness.Dolmen, members: 3, seed: *seed})
	defer w.report()()
	w.begin()
	w.awaitWrites(100)
	stalled := w.awaitLeader()
	w.stall(stalled)
	w.eventually("another leader", func(context.Context) error {
		if now := w.leader(); now < 0 || now == stalled {
			return fmt.Errorf("the leader is %d", now)
		}
		return nil
	})
	w.awaitWrites(100)
	w.watchOver()
	w.speed([]int{stalled})
	w.awaitWrites(100)
	w.settle()
}
