package node

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/memory"
	"github.com/dolmen-io/dolmen/internal/state"
	"github.com/dolmen-io/dolmen/internal/watch"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// applyTo applies requests, each in a turn of its own.
func applyTo(t *testing.T, s *state.State, requests ...*pb.InternalRaftRequest) {
	t.Helper()
	for _, req := range requests {
		at := s.Applied()
		_, err := s.Apply([]state.Entry{{Index: at.Index + 1, Term: 1, Request: req}})
		require.NoError(t, err)
	}
}

func emptyEngine(t *testing.T) engine.Engine {
	t.Helper()
	eng, err := memory.Open(t.TempDir(), memory.Options{})
	require.NoError(t, err)
	return eng
}

// TestWatchersMissNothingInASnapshot reads history while a snapshot takes the state's place, in which a part of that
// history is compacted.
func TestWatchersMissNothingInASnapshot(t *testing.T) {
	for name, tc := range map[string]struct {
		compact int64
		fails   bool
		want    error
	}{
		"compacted":             {compact: 6, want: watch.ErrCompacted},
		"compacted before":      {compact: 2},
		"the replacement fails": {compact: 6, fails: true, want: state.ErrReplaced},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var puts []*pb.InternalRaftRequest
				for i := range 6 {
					puts = append(puts, put("k", fmt.Sprint(i)))
				}
				eng := newSwitched(emptyEngine(t))
				s, err := state.Open(eng, state.Config{})
				require.NoError(t, err)
				applyTo(t, s, puts...)
				newer := emptyEngine(t)
				other, err := state.Open(newer, state.Config{})
				require.NoError(t, err)
				applyTo(t, other, puts...)
				applyTo(t, other, put("k", "newest"), &pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{Revision: tc.compact}})
				for done := false; !done; {
					removed, err := other.RemoveSome(100, true)
					require.NoError(t, err)
					done = removed.Done
				}

				h := history{s, newReplacements()}
				read := func(from int64) (revisions []int64, err error) {
					err = h.Events(from, 7, []byte("k"), nil, func(e watch.Event) bool {
						revisions = append(revisions, e.Main)
						return true
					})
					return revisions, err
				}
				got, err := read(3)
				require.NoError(t, err)
				require.Equal(t, []int64{3, 4, 5, 6, 7}, got)

				h.replaced.begin()
				eng.replace(newer, func(err error) { require.NoError(t, err) })
				ended := make(chan error, 1)
				go func() {
					got, err = read(3)
					ended <- err
				}()
				synctest.Wait()
				require.Empty(t, ended, "it is not known yet what is missing")
				if !tc.fails {
					_, err = s.Reload()
					require.NoError(t, err)
				}
				h.replaced.end(!tc.fails)
				require.ErrorIs(t, <-ended, tc.want)
				if tc.want == nil {
					require.Equal(t, []int64{3, 4, 5, 6, 7}, got)
				}
				_, err = read(3)
				require.ErrorIs(t, err, tc.want)
				require.NoError(t, eng.Close())
			})
		})
	}
}
