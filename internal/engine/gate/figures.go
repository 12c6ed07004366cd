package gate

import (
	"sync/atomic"
	"time"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// figuresAge is how old an engine's figures may be. To compute them engines take their main lock and look at each level
// or file: some tens of microseconds.
const figuresAge = 200 * time.Millisecond

// Figures keeps the newest figures of an engine, which many ask for. The zero value has none.
type Figures struct{ newest atomic.Pointer[timedStats] }

type timedStats struct {
	engine.Stats
	taken time.Time
}

// Stats returns figures that are up to 200 milliseconds old, new ones by measure if need be. measure is called between
// enter and the gate's Leave. Once enter fails, because the engine is closed or has stopped, the figures stay what they were.
func (f *Figures) Stats(g *Gate, enter func(op string) error, measure func() engine.Stats) engine.Stats {
	last := f.newest.Load()
	if last != nil && time.Since(last.taken) < figuresAge {
		return last.Stats
	}
	if enter("stats") != nil {
		if last == nil {
			return engine.Stats{}
		}
		return last.Stats
	}
	defer g.Leave()
	s := measure()
	f.newest.Store(&timedStats{s, time.Now()})
	return s
}
