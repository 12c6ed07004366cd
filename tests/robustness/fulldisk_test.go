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

// ownDiskSize is room for what a member wants to keep free for writes, 192 MiB, and for the log and the engine of a test.
const ownDiskSize = 1 << 30

const probeKey = "probe"

// TestFullDisk fills the leader's disk under load, then all disks. A member without room refuses writes in etcd's words and
// goes on with everything else; nobody ends, and when there is room again, all is as before.
func TestFullDisk(t *testing.T) {
	withOwnDisks(t, func(size int64) {
		if size == 0 {
			t.Skip("members need file systems of their own, for which this system lets a process mount none")
		}
		fullDisks(t, newWorld(t, worldOptions{kind: harness.Dolmen, members: 3, seed: *seed, diskSize: size}))
	})
}

func fullDisks(t *testing.T, w *world) {
	defer w.report()()
	w.begin()
	w.awaitWrites(100)
	leader := w.awaitLeader()
	w.fill(leader)
	w.eventually("a full leader refuses writes", w.refusesForRoom(leader))
	w.awaitWrites(50) // through the others
	for i := range w.cluster.Members {
		w.fill(i)
	}
	for i := range w.cluster.Members {
		w.eventually(name(i)+" is full and refuses writes", w.refusesForRoom(i))
	}
	alarms, err := w.all.AlarmList(t.Context())
	require.NoError(t, err)
	require.Empty(t, alarms.Alarms, "the disk is full, not the quota")
	w.watchOver()

	w.free(w.others(nil))
	for i := range w.cluster.Members {
		w.eventually(name(i)+" takes writes again", func(ctx context.Context) error {
			_, err := w.etcds[i].Put(ctx, probeKey, ownValue)
			return err
		})
	}
	w.awaitWrites(100)
	w.watchOver()
	w.settle()
}

// refusesForRoom holds that a member refuses a write because it has no room, and reads the newest all the same.
func (w *world) refusesForRoom(i int) func(context.Context) error {
	return func(ctx context.Context) error {
		switch _, err := w.etcds[i].Put(ctx, probeKey, ownValue); {
		case err == nil:
			return errors.New("a write was taken")
		case !errors.Is(err, rpctypes.ErrNoSpace):
			return fmt.Errorf("a write ended with %w", err)
		}
		if _, err := w.etcds[i].Get(ctx, probeKey); err != nil {
			return fmt.Errorf("a read ended with %w", err)
		}
		return nil
	}
}
