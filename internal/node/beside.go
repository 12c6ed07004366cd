package node

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// runBeside runs tasks beside each other, as many at a time as there are processors, and returns when all have ended.
func runBeside(tasks []func()) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(len(tasks), runtime.GOMAXPROCS(0)) {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(tasks)); i = next.Add(1) - 1 {
				tasks[i]()
			}
		})
	}
	all.Wait()
}
