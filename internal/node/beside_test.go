package node

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each task is run once, and none is still running afterwards.
func TestRunBeside(t *testing.T) {
	for _, n := range []int{0, 1, 7, 100} {
		ran := make([]atomic.Int64, n)
		tasks := make([]func(), n)
		for i := range tasks {
			tasks[i] = func() { ran[i].Add(1) }
		}
		runBeside(tasks)
		for i := range ran {
			require.EqualValues(t, 1, ran[i].Load(), "task %d of %d", i, n)
		}
	}
}
