package enginetest

import (
	"errors"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// FailingDisk is a Disk whose file system can be made to fail.
type FailingDisk interface {
	Disk
	// FailFrom makes operation n from now, counted from zero, and every one after it return err and do nothing.
	// A nil err makes the file system work again.
	FailFrom(n int, err error)
}

// quietFlushes is after how many flushes in a row that no failure has reached RunFaults ends.
const quietFlushes = 10

// RunFaults makes the operations of a flush fail, from the first on, from the second on, and so forth. A flush that
// meets the failure returns it; whatever happened, the engine opens with a prefix of the batches that reaches to
// the last flush that succeeded: after a power cut, and when the disk works again. largeBatch is as in Harness.
func RunFaults(t *testing.T, newDisk func() FailingDisk, largeBatch int) {
	for name, fault := range map[string]error{"error": syscall.EIO, "full": syscall.ENOSPC} {
		t.Run(name, func(t *testing.T) {
			failed, quiet := 0, 0
			for op := range maxFlushOps {
				if err := failInFlush(t, newDisk(), op, fault, largeBatch); err != nil {
					require.ErrorIs(t, err, fault, "operation %d", op)
					failed, quiet = failed+1, 0
				} else if quiet++; quiet == quietFlushes {
					require.Greater(t, failed, 3, "a flush takes some operations")
					return
				}
			}
			t.Fatalf("a flush took more than %d file system operations", maxFlushOps)
		})
	}
}

// failInFlush returns what the flush returned.
func failInFlush(t *testing.T, d FailingDisk, op int, fault error, largeBatch int) error {
	t.Helper()
	rng := rand.New(rand.NewPCG(uint64(op), 7))
	hist := &history{large: largeBatch}
	e := open(t, d)
	commitSome := func() {
		for range 5 {
			require.NoError(t, e.Commit(hist.next(rng)))
		}
	}
	commitSome()
	require.NoError(t, e.Flush())
	reaches := len(hist.batches)
	commitSome()
	d.FailFrom(op, fault)
	err := e.Flush()
	if err == nil {
		reaches = len(hist.batches)
	}
	after := d.Crash(rng, 50)
	if cerr := e.Close(); cerr != nil {
		require.ErrorIs(t, errors.Join(err, cerr), fault)
	}
	d.FailFrom(0, nil)
	for _, left := range []Disk{after, d} {
		e := open(t, left)
		_, err := hist.check(e, reaches)
		require.NoError(t, err, "operation %d", op)
		require.NoError(t, e.Close())
	}
	return err
}
