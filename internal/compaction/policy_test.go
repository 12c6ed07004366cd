package compaction

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// ask asks a policy once per Every for a time in which a revision is written each second, and returns what
// was due as revisions by seconds since the start. Each is reported done unless fails says so.
func ask(p Policy, total time.Duration, may func(time.Duration) bool, fails func(time.Duration) bool) map[int64]int64 {
	start := time.Unix(0, 0)
	due := map[int64]int64{}
	for at := p.Every(); at <= total; at += p.Every() {
		now, current := start.Add(at), 1+int64(at/time.Second)
		revision, yes := p.Due(now, current, may == nil || may(at))
		if !yes {
			continue
		}
		due[int64(at/time.Second)] = revision
		if fails == nil || !fails(at) {
			p.Done(now, revision)
		}
	}
	return due
}

func TestPeriodic(t *testing.T) {
	start := time.Unix(0, 0)
	minute, hour := int64(60), int64(3600)
	for name, tc := range map[string]struct {
		period, total time.Duration
		may, fails    func(time.Duration) bool
		every         time.Duration
		want          map[int64]int64 // by seconds
	}{
		"ten minutes": {
			period: 10 * time.Minute, total: 35 * time.Minute, every: time.Minute,
			want: map[int64]int64{10 * minute: 1, 20 * minute: 1 + 9*minute, 30 * minute: 1 + 19*minute},
		},
		"an hour": {
			period: time.Hour, total: 2*time.Hour + time.Minute, every: 6 * time.Minute,
			want: map[int64]int64{hour: 1, 2 * hour: 1 + hour - 6*minute},
		},
		"a day waits a day, then compacts hourly": {
			period: 24 * time.Hour, total: 26*time.Hour + time.Minute, every: 6 * time.Minute,
			want: map[int64]int64{24 * hour: 1, 25 * hour: 1 + hour - 6*minute, 26 * hour: 1 + 2*hour - 6*minute},
		},
		"a failure is tried again with the window moved on": {
			period: 10 * time.Minute, total: 21 * time.Minute, every: time.Minute,
			fails: func(at time.Duration) bool { return at < 12*time.Minute },
			want:  map[int64]int64{10 * minute: 1, 11 * minute: 1, 12 * minute: 1 + minute},
		},
		"a follower watches and compacts when it leads": {
			period: 10 * time.Minute, total: 18 * time.Minute, every: time.Minute,
			may:  func(at time.Duration) bool { return at > 15*time.Minute },
			want: map[int64]int64{16 * minute: 1 + 5*minute},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := NewPeriodic(tc.period, start, 1)
			require.Equal(t, tc.every, p.Every())
			require.Equal(t, tc.want, ask(p, tc.total, tc.may, tc.fails))
			require.LessOrEqual(t, len(p.notes), int(tc.period/tc.every)+1, "notes are bounded")
		})
	}
}

// TestPeriodicIdle writes nothing: what is compacted already is not compacted again.
func TestPeriodicIdle(t *testing.T) {
	p := NewPeriodic(time.Minute, time.Unix(0, 0), 7)
	var due []int64
	for i := range 40 {
		now := time.Unix(0, 0).Add(time.Duration(i+1) * p.Every())
		if revision, yes := p.Due(now, 7, true); yes {
			due = append(due, revision)
			p.Done(now, revision)
		}
	}
	require.Equal(t, []int64{7}, due)
}

func TestPeriodicOfNanoseconds(t *testing.T) {
	p := NewPeriodic(1, time.Unix(0, 0), 1)
	require.Equal(t, time.Millisecond, p.Every())
	_, due := p.Due(time.Unix(1, 0), 5, true)
	require.True(t, due)
	require.Len(t, p.notes, 1)
}

func TestRevisions(t *testing.T) {
	p := NewRevisions(1000)
	require.Equal(t, 5*time.Minute, p.Every())
	for _, step := range []struct {
		current  int64
		may      bool
		revision int64
		due      bool
	}{
		{current: 1000, may: true, revision: 0},
		{current: 1001, revision: 1},
		{current: 1001, may: true, revision: 1, due: true},
		{current: 1001, may: true, revision: 1},
		{current: 5000, may: true, revision: 4000, due: true},
	} {
		revision, due := p.Due(time.Time{}, step.current, step.may)
		require.Equal(t, step.due, due, step)
		require.Equal(t, step.revision, revision)
		if due {
			p.Done(time.Time{}, revision)
		}
	}
}
