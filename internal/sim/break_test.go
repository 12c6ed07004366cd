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
		first    uint64 // a seed that is known to get there; where it does not any more, the next ones are tried
		checkers []string
	}{
		"the disk loses what it said was synced": {breaks{dropSyncs: true}, 2, []string{"log", "durability"}},
		"and nobody compares logs":               {breaks{dropSyncs: true, without: []string{"log"}}, 6, []string{"revisions", "state"}},
		"nor revisions":                          {breaks{dropSyncs: true, without: []string{"log", "revisions", "state", "durability"}}, 6, []string{"lost write"}},
		"entries are applied out of order":       {breaks{reorder: true}, 1, []string{"revisions", "state", "answers"}},
		"reads are served without a read index":  {breaks{staleReads: true}, 1, []string{"real time"}},
		"and nobody compares revisions":          {breaks{staleReads: true, without: []string{"real time"}}, 1, []string{"linearizability"}},
		"a deposed leader renews leases":         {breaks{trustLeader: true}, 1, []string{"leases"}},
		"a new leader loses the time of leases":  {breaks{forgetLeases: true}, 1, []string{"leases"}},
		"lease work is forwarded to a leader":    {breaks{forwardLeases: true}, 14, []string{"leases"}},
		"watchers miss what they catch up with":  {breaks{shortHistory: true}, 6, []string{"watch"}},
		"an engine changes by itself":            {breaks{bitRot: true}, 1, []string{"state"}},
		"a renewal forgets a checkpoint":         {breaks{forgetNoted: true, trustDisk: true, without: []string{"stall"}}, 1787, []string{"leases"}},
		"an installed snapshot is not committed": {breaks{lazyInstall: true}, 137, []string{"start"}},
		"an installed snapshot is not recorded":  {breaks{forgetInstalled: true}, 7, []string{"start"}},
		"nobody notices that a disk hangs":       {breaks{trustDisk: true}, 1, []string{"stall"}},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(tries) {
				_, err := Run(Options{Seed: tc.first + seed, breaks: tc.breaks})
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
