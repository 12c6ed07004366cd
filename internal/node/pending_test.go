package node

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/state"
)

func durationMillis(n int) time.Duration { return time.Duration(n) * time.Millisecond }

// TestPending ends calls from three sides at once: each has exactly one answer.
func TestPending(t *testing.T) {
	p := newPending()
	const n = 1000
	calls := make([]*call, n)
	for i := range calls {
		c, err := p.add(uint64(i))
		require.NoError(t, err)
		calls[i] = c
	}
	require.Equal(t, n, p.size())
	errDropped, errStopped := errors.New("dropped"), errors.New("stopped")
	var sides sync.WaitGroup
	sides.Go(func() {
		for i := range n {
			p.finish([]state.Outcome{{ID: uint64(i), Result: state.Result{Revision: int64(i) + 1}}, {ID: n + 1}})
		}
	})
	sides.Go(func() {
		for i := n - 1; i >= 0; i-- {
			if c := p.remove(uint64(i)); c != nil {
				c.finish(answer{err: errDropped})
			}
		}
	})
	sides.Go(func() { p.stop(errStopped) })
	sides.Wait()
	for i, c := range calls {
		a := <-c.done
		switch {
		case a.err == nil:
			require.Equal(t, int64(i)+1, a.result.Revision)
		case !errors.Is(a.err, errDropped):
			require.ErrorIs(t, a.err, errStopped)
		}
		require.Empty(t, c.done)
	}
	require.Zero(t, p.size())
	_, err := p.add(1)
	require.ErrorIs(t, err, errStopped)
	calls[0].finish(answer{})
	calls[0].finish(answer{}) // the second of two answers goes nowhere
	require.Len(t, calls[0].done, 1)
}

func TestMilestones(t *testing.T) {
	m := newMilestones(5)
	reached, cancel := m.wait(5)
	<-reached
	cancel()
	later, cancelLater := m.wait(7)
	never, cancelNever := m.wait(9)
	m.reach(6)
	m.reach(3) // nothing goes back
	require.False(t, closed(later))
	m.reach(8)
	require.True(t, closed(later))
	require.False(t, closed(never))
	cancelLater()
	cancelNever()
	require.Empty(t, m.mu.waiting)

	var all sync.WaitGroup
	for i := range uint64(100) {
		all.Go(func() {
			reached, cancel := m.wait(i + 1)
			defer cancel()
			<-reached
		})
	}
	for i := range uint64(100) {
		m.reach(i + 1)
	}
	all.Wait()
	require.Empty(t, m.mu.waiting)
}

// TestMilestonesInAnyOrder: whatever order they come and go in, those wait whose value is not reached, and nobody else.
func TestMilestonesInAnyOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 5))
	type waiting struct {
		value   uint64
		reached <-chan struct{}
		cancel  func()
	}
	m, all, now := newMilestones(0), []waiting{}, uint64(0)
	for range 5000 {
		switch rng.IntN(5) {
		case 0, 1, 2:
			w := waiting{value: now + rng.Uint64N(100)}
			if rng.IntN(10) == 0 {
				w.value = math.MaxUint64 // as a forged token says
			}
			w.reached, w.cancel = m.wait(w.value)
			all = append(all, w)
		case 3:
			now += rng.Uint64N(3)
			m.reach(now)
		case 4:
			if len(all) > 0 {
				i := rng.IntN(len(all))
				all[i].cancel()
				all = slices.Delete(all, i, i+1)
			}
		}
		left := 0
		for _, w := range all {
			require.Equal(t, w.value <= now, closed(w.reached))
			if w.value > now {
				left++
			}
		}
		require.Len(t, m.mu.waiting, left)
	}
	for _, w := range all {
		w.cancel()
		w.cancel() // the second does nothing
	}
	require.Empty(t, m.mu.waiting)
}

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// sized is an engine of which only the size matters.
type sized struct {
	engine.Engine
	live int64
}

func (s sized) Stats() engine.Stats { return engine.Stats{LiveBytes: s.live} }

func TestFlushPolicy(t *testing.T) {
	type note struct{ entries, bytes int }
	tests := []struct {
		name  string
		whole bool
		live  int64
		notes []note
		due   []bool // after each note
	}{
		{"by entries", false, 0, []note{{50, 1}, {49, 1}, {1, 1}, {99, 1}, {1, 0}}, []bool{false, false, true, false, true}},
		{"by bytes", false, 0, []note{{1, 999}, {1, 1}, {1, 999}}, []bool{false, true, false}},
		{"all of it, small", true, 1000, []note{{100, 249}, {1, 1}, {100, 250}}, []bool{false, true, true}},
		{"all of it, large, by entries", true, 1 << 40, []note{{100, 2000}, {299, 2000}, {1, 2000}}, []bool{false, false, true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := &flusher{
				eng: sized{live: tt.live}, wake: make(chan struct{}, 1),
				policy: flushPolicy{entries: 100, bytes: 1000, whole: tt.whole},
			}
			for i, n := range tt.notes {
				f.note(n.entries, n.bytes)
				require.Equal(t, tt.due[i], len(f.wake) == 1, "note %d", i)
				for len(f.wake) > 0 {
					<-f.wake
				}
			}
			// A flush that is asked for twice before it begins is one.
			f.note(400, 1000)
			f.note(400, 1000)
			require.LessOrEqual(t, len(f.wake), 1)
		})
	}
}
