package node

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestStepAfterASnapshot: a step that was due before a snapshot took the state's place touches nothing of the new one.
func TestStepAfterASnapshot(t *testing.T) {
	for _, phase := range []removalPhase{removalIdle, removalAwaits, removalVoid} {
		r := &remover{phase: phase} // it has no state to touch
		require.NoError(t, r.step())
		require.Equal(t, phase, r.phase)
	}
}
