package gate_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/gate"
)

// TestFigures: they are taken anew when they are old, and stay what they were when the engine is closed.
func TestFigures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, f, taken := gate.New(), gate.Figures{}, int64(0)
		closed := false
		enter := func(string) error {
			if closed || !g.Enter() {
				return errors.New("closed")
			}
			return nil
		}
		measure := func() engine.Stats { taken++; return engine.Stats{DiskBytes: taken} }
		ask := func() int64 { return f.Stats(g, enter, measure).DiskBytes }
		closed = true
		require.Zero(t, ask(), "it was never open")
		closed = false
		require.Equal(t, int64(1), ask())
		require.Equal(t, int64(1), ask())
		time.Sleep(200 * time.Millisecond)
		require.Equal(t, int64(2), ask())
		closed = true
		time.Sleep(time.Hour)
		require.Equal(t, int64(2), ask())
		require.True(t, g.Close())
		<-g.Empty() // nobody is left inside
	})
}
