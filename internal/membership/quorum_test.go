package membership

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// cluster returns a view of members 1, 2, ...: "s" has started, "-" has not, "l" is a learner.
func cluster(kinds string) *View {
	v := &View{}
	for i, kind := range kinds {
		m := Member{ID: uint64(i + 1), IsLearner: kind == 'l'}
		if kind == 's' {
			m.Name = fmt.Sprint("n", i+1)
		}
		v.members = append(v.members, m)
	}
	return v
}

// links returns how member 1 stands to the others: "+" steadily connected, "~" just connected, "-" not.
func links(kinds string) func(uint64) Connected {
	return func(id uint64) Connected {
		kind := kinds[id-1]
		return Connected{Now: kind != '-', Steadily: kind == '+'}
	}
}

func TestMayAdd(t *testing.T) {
	for _, tc := range []struct {
		members, links string
		learner        bool
		want           error
	}{
		{"s", "+", false, nil},
		{"s", "+", true, nil},
		{"-", "+", false, ErrNotEnoughStarted}, // has not told its name yet
		{"-", "+", true, nil},
		{"s-", "+-", false, ErrNotEnoughStarted},
		{"s-", "+-", true, ErrUnhealthy},
		{"ss", "++", false, nil},
		{"ss", "+~", false, ErrUnhealthy},
		{"ss-", "+++", false, ErrNotEnoughStarted},
		{"sss", "+++", false, nil},
		{"sss", "++-", false, ErrUnhealthy},
		{"sss", "++-", true, ErrUnhealthy},
		{"sl", "+-", false, nil}, // a learner counts for nothing
		{"sl", "+-", true, nil},
		{"ssss", "+++-", false, nil},
	} {
		require.Equal(t, tc.want, cluster(tc.members).MayAdd(tc.learner, 1, links(tc.links)), "%+v", tc)
	}
}

func TestMayRemove(t *testing.T) {
	for _, tc := range []struct {
		members, links string
		id             uint64
		want           error
	}{
		{"s", "+", 1, ErrNotEnoughStarted},
		{"sl", "+-", 1, ErrNotEnoughStarted},
		{"sl", "+-", 2, nil},
		{"s-", "+-", 2, nil},
		{"s-", "+-", 1, ErrNotEnoughStarted},
		{"s-", "++", 2, nil},
		{"ss", "++", 1, nil},
		{"ss", "+-", 2, nil},
		{"ss", "+~", 2, ErrUnhealthy}, // it is there, but for how long?
		{"sss", "+++", 3, nil},
		{"sss", "++-", 3, nil},
		{"sss", "++-", 2, ErrUnhealthy},
		{"sss", "++-", 1, ErrUnhealthy},
		{"ss-", "++-", 2, ErrNotEnoughStarted},
		{"s", "+-", 9, nil}, // applying it says that there is none
	} {
		ask := links(tc.links + "---------")
		require.Equal(t, tc.want, cluster(tc.members).MayRemove(tc.id, 1, ask), "%+v", tc)
	}
}

func TestMayPromote(t *testing.T) {
	for members, want := range map[string]error{
		"sl": nil, "-l": ErrNotEnoughStarted, "ssl": nil, "s-l": nil, "s--l": ErrNotEnoughStarted, "--l": ErrNotEnoughStarted,
	} {
		require.Equal(t, want, cluster(members).MayPromote(), members)
	}
}

// TestTheLastVoterStays: raft would refuse to apply the change, so the rules must before.
func TestTheLastVoterStays(t *testing.T) {
	table := &Table{maxLearners: 1, view: cluster("sl")}
	var b engine.Batch
	require.ErrorIs(t, table.Apply(&b, Change{Kind: RemoveNode, ID: 1}), ErrLastVoter)
	require.NoError(t, table.Apply(&b, Change{Kind: RemoveNode, ID: 2}))
	require.ErrorIs(t, table.Apply(&b, Change{Kind: RemoveNode, ID: 1}), ErrLastVoter)
}
