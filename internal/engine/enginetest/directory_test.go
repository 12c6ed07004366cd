package enginetest_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine/enginetest"
)

// TestOrderNames cuts the power after some changes of names: with order a later one never survives without those
// before it, and without order it may.
func TestOrderNames(t *testing.T) {
	for _, ordered := range []bool{true, false} {
		seen := map[string]bool{}
		for seed := range uint64(200) {
			d := enginetest.NewDirectory()
			if ordered {
				d.OrderNames()
			}
			_, err := d.Create("a")
			require.NoError(t, err)
			require.NoError(t, d.Sync())
			_, err = d.Create("b")
			require.NoError(t, err)
			require.NoError(t, d.Rename("b", "c"))
			require.NoError(t, d.Remove("a"))
			left, err := d.Crash(rand.New(rand.NewPCG(seed, 1)), 50).List()
			require.NoError(t, err)
			seen[strings.Join(left, " ")] = true
		}
		if ordered {
			require.Equal(t, map[string]bool{"a": true, "a b": true, "a c": true, "c": true}, seen)
		} else {
			require.Contains(t, seen, "", "a was removed, c was not made")
		}
	}
}
