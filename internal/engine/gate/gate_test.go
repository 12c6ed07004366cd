package gate_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine/gate"
)

func TestGate(t *testing.T) {
	g := gate.New()
	require.True(t, g.Enter())
	require.True(t, g.Enter(), "any number may be inside")
	require.True(t, g.Close())
	require.False(t, g.Close(), "it was closed before")
	require.False(t, g.Enter())
	g.Leave()
	require.NotPanics(t, func() {
		select {
		case <-g.Empty():
			panic("someone is still inside")
		default:
		}
	})
	g.Leave()
	<-g.Empty()
	require.False(t, g.Enter(), "nobody who comes later makes it empty twice")
}

func TestGateWithNobodyInside(t *testing.T) {
	g := gate.New()
	require.True(t, g.Close())
	<-g.Empty()
}

// TestGateUnderLoad closes the gate while others come and go: nobody is inside when it says it is empty.
func TestGateUnderLoad(t *testing.T) {
	g := gate.New()
	var inside atomic.Int64
	var wg sync.WaitGroup
	started := make(chan struct{}, 4)
	for range 4 {
		wg.Go(func() {
			for n := 0; g.Enter(); n++ {
				inside.Add(1)
				if n == 100 {
					started <- struct{}{}
				}
				inside.Add(-1)
				g.Leave()
			}
		})
	}
	for range 4 {
		<-started
	}
	require.True(t, g.Close())
	<-g.Empty()
	require.Zero(t, inside.Load())
	wg.Wait()
}
