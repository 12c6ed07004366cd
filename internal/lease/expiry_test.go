package lease

import (
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// model is Expiry without queues: it looks at every lease every time.
type model struct {
	primary bool
	expiry  map[int64]time.Time
	ttl     map[int64]int64
	retry   map[int64]time.Time
}

func (m *model) expired(now time.Time, limit int, retry time.Duration) []int64 {
	var ids []int64
	due := func(id int64) time.Time {
		if r := m.retry[id]; r.After(m.expiry[id]) {
			return r
		}
		return m.expiry[id]
	}
	for id := range m.expiry {
		if m.primary && !due(id).After(now) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b int64) int {
		if c := due(a).Compare(due(b)); c != 0 {
			return c
		}
		return int(a - b)
	})
	if len(ids) > limit {
		ids = ids[:limit]
	}
	for _, id := range ids {
		m.retry[id] = now.Add(retry)
	}
	return ids
}

// TestExpiryAgainstModel runs random grants, renewals, revocations and changes of leader against a model
// that has no queues.
func TestExpiryAgainstModel(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		now := time.Unix(5000, 0)
		opts := Options{RevokeRate: 1 << 30, RetryAfter: 7 * time.Second}
		e := NewExpiry(opts, now)
		m := &model{expiry: map[int64]time.Time{}, ttl: map[int64]int64{}, retry: map[int64]time.Time{}}
		for step := range 3000 {
			now = now.Add(time.Duration(rnd.IntN(400)) * time.Millisecond)
			id := 1 + rnd.Int64N(60)
			switch op := rnd.IntN(100); {
			case op < 30 && m.ttl[id] == 0:
				ttl := 1 + rnd.Int64N(30)
				e.Apply([]Change{{Granted, Lease{ID: id, TTL: ttl}}}, now)
				m.ttl[id], m.expiry[id] = ttl, now.Add(time.Duration(ttl)*time.Second)
			case op < 60:
				r, err := e.Renew(id, now)
				var want error
				switch {
				case !m.primary:
					want = ErrNotPrimary
				case m.ttl[id] == 0:
					want = ErrNotFound
				case !m.expiry[id].After(now):
					want = ErrExpired
				default:
					m.expiry[id] = now.Add(time.Duration(m.ttl[id]) * time.Second)
				}
				if !errors.Is(err, want) || (err == nil && r.TTL != m.ttl[id]) {
					t.Fatalf("seed %d step %d: renew %d: got %v %v, want %v", seed, step, id, r.TTL, err, want)
				}
			case op < 70:
				e.Apply([]Change{{Revoked, Lease{ID: id}}}, now)
				delete(m.ttl, id)
				delete(m.expiry, id)
				delete(m.retry, id)
			case op < 72:
				e.Demote()
				m.primary = false
			case op < 75:
				e.Promote(now, time.Second)
				m.primary = true
				clear(m.retry)
				for id, ttl := range m.ttl {
					m.expiry[id] = now.Add(time.Duration(ttl+1) * time.Second)
				}
			default:
				limit := rnd.IntN(10)
				got, want := e.Expired(now, limit), m.expired(now, limit, opts.RetryAfter)
				if !slices.Equal(got, want) {
					t.Fatalf("seed %d step %d: expired: got %v, want %v", seed, step, got, want)
				}
			}
			if e.Len() != len(m.ttl) {
				t.Fatalf("seed %d step %d: %d leases, want %d", seed, step, e.Len(), len(m.ttl))
			}
		}
	}
}

// TestPromoteSpreads checks the promise: at most the revoke rate a second, nobody loses time, and who
// is not in the way keeps its time.
func TestPromoteSpreads(t *testing.T) {
	const rate, n = 1000, 10_000
	start := time.Unix(1, 0)
	e := NewExpiry(Options{RevokeRate: rate}, start)
	for id := int64(1); id <= n; id++ {
		e.Apply([]Change{{Granted, Lease{ID: id, TTL: 60}}}, start)
	}
	e.Apply([]Change{{Granted, Lease{ID: n + 1, TTL: 3600}}}, start)
	e.Promote(start, time.Second)
	perSecond := map[time.Duration]int{}
	for id := int64(1); id <= n; id++ {
		left, _, err := e.Remaining(id, start)
		if err != nil || left < 61*time.Second {
			t.Fatalf("lease %d has %v left, error %v", id, left, err)
		}
		perSecond[left/time.Second]++
	}
	for s, count := range perSecond {
		if count > rate {
			t.Errorf("%d leases run out in second %d", count, s)
		}
	}
	if left, _, _ := e.Remaining(n+1, start); left != 3601*time.Second {
		t.Errorf("a lease that is not in the way has %v left, want 3601s", left)
	}
}

// TestLongestTTL holds the arithmetic at the largest time to live.
func TestLongestTTL(t *testing.T) {
	start := time.Unix(1, 0)
	e := NewExpiry(Options{}, start)
	e.Promote(start, 0)
	late := start.Add(20 * 365 * 24 * time.Hour)
	e.Apply([]Change{{Granted, Lease{ID: 1, TTL: MaxTTL}}}, late)
	if left, _, err := e.Remaining(1, late); err != nil || left <= 0 {
		t.Fatalf("left %v, error %v", left, err)
	}
	if ids := e.Expired(late, 10); len(ids) != 0 {
		t.Fatalf("expired: %v", ids)
	}
	if cps := e.Checkpoints(late.Add(time.Hour), 10); len(cps) != 1 || cps[0].Remaining <= 0 {
		t.Fatalf("checkpoints: %v", cps)
	}
}

// TestExpiryConcurrent is for the race detector: keep-alives on many goroutines while leases come, go
// and change leader. Whoever waits for an expired lease must be let go.
func TestExpiryConcurrent(t *testing.T) {
	start := time.Unix(1, 0)
	e := NewExpiry(Options{}, start)
	e.Promote(start, 0)
	const ids, steps = 50, 2000
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range steps {
				now := start.Add(time.Duration(i) * 100 * time.Millisecond)
				r, err := e.Renew(int64(1+(i+g)%ids), now)
				if errors.Is(err, ErrExpired) {
					<-r.Settled
				}
				if i%100 == 0 {
					e.All()
					e.Checkpoints(now, 10)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for i := 0; ; i++ {
		select {
		case <-done:
			return
		default:
		}
		now := start.Add(time.Duration(i) * 100 * time.Millisecond)
		e.Apply([]Change{{Granted, Lease{ID: int64(1 + i%ids), TTL: 2}}}, now)
		for _, id := range e.Expired(now, 5) {
			e.Apply([]Change{{Revoked, Lease{ID: id}}}, now)
		}
		if i%500 == 499 {
			e.Demote()
			e.Promote(now, 0)
		}
	}
}

// BenchmarkMillionLeases shows that the periodic questions cost what they answer, not what exists.
func BenchmarkMillionLeases(b *testing.B) {
	const n = 1_000_000
	start := time.Unix(1, 0)
	e := NewExpiry(Options{}, start)
	changes := make([]Change, n)
	for i := range changes {
		changes[i] = Change{Granted, Lease{ID: int64(i + 1), TTL: int64(60 + i%600)}}
	}
	e.Apply(changes, start)
	b.Run("promote", func(b *testing.B) {
		for b.Loop() {
			e.Promote(start, time.Second)
		}
	})
	b.Run("nothing expired", func(b *testing.B) {
		for b.Loop() {
			if ids := e.Expired(start, 500); len(ids) != 0 {
				b.Fatal("expired leases")
			}
		}
	})
	b.Run("renew", func(b *testing.B) {
		id := int64(0)
		for b.Loop() {
			id = id%n + 1
			if _, err := e.Renew(id, start); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// A table that a snapshot brought replaces what was known.
func TestReplace(t *testing.T) {
	now := time.Now()
	e := NewExpiry(Options{}, now)
	e.Apply([]Change{{Granted, Lease{ID: 1, TTL: 60}}, {Granted, Lease{ID: 2, TTL: 60}}}, now)
	e.Replace([]Change{{Granted, Lease{ID: 2, TTL: 90, Remaining: 30}}, {Granted, Lease{ID: 3, TTL: 60}}}, now)
	require.ElementsMatch(t, []int64{2, 3}, e.All())
	e.Promote(now, time.Second)
	left, granted, err := e.Remaining(2, now)
	require.NoError(t, err)
	require.Equal(t, int64(90), granted)
	require.Equal(t, 31*time.Second, left)
	_, _, err = e.Remaining(1, now)
	require.ErrorIs(t, err, ErrNotFound)
}

// A checkpoint that is on its way when its lease is renewed must be taken back like one that is stored: it comes into the
// log before the next leader begins.
func TestRenewalDuringACheckpoint(t *testing.T) {
	now := time.Unix(5000, 0)
	e := NewExpiry(Options{CheckpointEvery: 10 * time.Second}, now)
	e.Apply([]Change{{Granted, Lease{ID: 1, TTL: 60}}}, now)
	e.Promote(now, 0)
	clears := func() bool {
		t.Helper()
		r, err := e.Renew(1, now)
		require.NoError(t, err)
		return r.ClearCheckpoint
	}
	checkpoint := func() []Checkpoint {
		t.Helper()
		now = now.Add(11 * time.Second)
		due := e.Checkpoints(now, 10)
		require.Len(t, due, 1)
		return due
	}
	require.False(t, clears())
	first := checkpoint()
	require.True(t, clears(), "it is not applied, but it will be")
	second := checkpoint()
	e.Apply([]Change{{Checkpointed, Lease{ID: 1, Remaining: first[0].Remaining}}, {Checkpointed, Lease{ID: 1}}}, now)
	require.True(t, clears(), "the second is still on its way")
	e.Apply([]Change{{Checkpointed, Lease{ID: 1, Remaining: second[0].Remaining}}}, now)
	require.True(t, clears(), "it is stored")
	e.Apply([]Change{{Checkpointed, Lease{ID: 1}}}, now)
	require.False(t, clears())

	e.Dropped(checkpoint())
	require.False(t, clears(), "it never comes")
	checkpoint()
	e.Demote()
	e.Promote(now, 0)
	require.False(t, clears(), "its term is over")
	e.Dropped([]Checkpoint{{ID: 2}})
}
