package sim

import (
	"flag"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	seeds     = flag.Int("seeds", 5, "how many seeds to run")
	firstSeed = flag.Uint64("first-seed", 1, "the first of them")
)

// TestSeeds runs seeds. Each must do all that makes it worth running.
func TestSeeds(t *testing.T) {
	start := time.Now()
	var all Result
	for i := range *seeds {
		seed := *firstSeed + uint64(i)
		r, err := Run(Options{Seed: seed})
		require.NoError(t, err)
		require.GreaterOrEqual(t, r.Operations, 1000)
		require.GreaterOrEqual(t, r.Leaders, 1+3, "three changes")
		require.GreaterOrEqual(t, r.Installs, 1)
		t.Logf("%+v", *r)
		all.Operations += r.Operations
	}
	t.Logf("%d seeds, %d operations in %v", *seeds, all.Operations, time.Since(start))
}
