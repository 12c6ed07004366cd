package sim

import (
	"errors"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCheckersNotice breaks a member or its disk on purpose, each time in one way, and holds that a checker notices, and
// which. Not every seed gets into the situation in which it matters, and in some another checker is first.
func TestCheckersNotice(t *testing.T) {
	const tries = 100
	for name, tc := range map[string]struct {
		breaks   breaks
		checkers []string
	}{
		"the disk loses what it said was synced": {breaks{dropSyncs: true}, []string{"log", "durability"}},
		"and nobody compares logs":               {breaks{dropSyncs: true, without: "log"}, []string{"lost write", "revisions", "real time"}},
		"entries are applied out of order":       {breaks{reorder: true}, []string{"revisions", "state", "answers"}},
		"reads are served without a read index":  {breaks{staleReads: true}, []string{"real time"}},
		"and nobody compares revisions":          {breaks{staleReads: true, without: "real time"}, []string{"linearizability"}},
		"a deposed leader renews leases":         {breaks{trustLeader: true}, []string{"leases"}},
		"a new leader loses the time of leases":  {breaks{forgetLeases: true}, []string{"leases"}},
		"lease work is forwarded to a leader":    {breaks{forwardLeases: true}, []string{"leases"}},
		"an installed snapshot is not recorded":  {breaks{forgetInstalled: true}, []string{"start"}},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(tries) {
				_, err := Run(Options{Seed: 1 + seed, breaks: tc.breaks})
				var f *Failure
				if !errors.As(err, &f) {
					require.NoError(t, err)
					continue
				}
				t.Logf("seed %d, step %d: %s: %s", f.Seed, f.Step, f.Checker, f.Text)
				if slices.Contains(tc.checkers, f.Checker) {
					return
				}
			}
			t.Fatal("no checker has noticed")
		})
	}
}
