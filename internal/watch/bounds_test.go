package watch

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestSlowReaderIsBounded publishes far more than a stream and the ring may hold while nobody reads.
func TestSlowReaderIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := Options{RingBytes: 100_000, QueueResponses: 50, QueueBytes: 20_000, BatchBytes: 30_000}
		s := newScenario(t, opts)
		defer s.close()
		st := s.stream("slow")
		for _, end := range []string{"", "\x00", "z"} {
			if err := st.Create(t.Context(), CreateRequest{Key: []byte("k"), End: []byte(end)}); err != nil {
				t.Fatal(err)
			}
		}
		value := fmt.Sprintf("k=%01000d", 7)
		const n = 5000
		for i := range n {
			s.hub.Publish(s.history.commit(value), s.history.current)
			if i%10 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		if st.mu.responses > opts.QueueResponses || st.mu.bytes > opts.QueueBytes || cap(st.mu.queue) > 200 {
			t.Errorf("%d responses of %d bytes queued, room for %d",
				st.mu.responses, st.mu.bytes, cap(st.mu.queue))
		}
		if b := s.hub.ring.mu.bytes; b > opts.RingBytes {
			t.Errorf("the ring holds %d bytes", b)
		}
		if c := cap(s.hub.ring.mu.groups); c > 1000 {
			t.Errorf("the ring has room for %d groups of 1100 bytes", c)
		}
		got := map[int64]int{}
		for len(got) < 3 || got[0]+got[1]+got[2] < 3*n {
			r, err := st.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if c := cost(r.Events); c > opts.BatchBytes+2*1200 {
				t.Errorf("one response of %d bytes", c)
			}
			got[r.WatchID] += len(r.Events)
		}
		for id, events := range got {
			if events != n {
				t.Errorf("watch %d: %d events, want %d", id, events, n)
			}
		}
	})
}

// TestControlBackpressure: requests wait once the client does not read the answers.
func TestControlBackpressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScenario(t, Options{QueueControls: 3})
		defer s.close()
		st := s.stream("main")
		for range 3 {
			if err := st.Create(t.Context(), CreateRequest{Key: []byte("a")}); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for name, call := range map[string]func() error{
			"create":   func() error { return st.Create(ctx, CreateRequest{Key: []byte("a")}) },
			"refuse":   func() error { return st.Refuse(ctx, "no") },
			"cancel":   func() error { return st.Cancel(ctx, 0) },
			"progress": func() error { return st.Progress(ctx) },
		} {
			if err := call(); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: got %v, want a deadline", name, err)
			}
		}
		blocked := make(chan error, 1)
		go func() { blocked <- st.Create(t.Context(), CreateRequest{Key: []byte("a")}) }()
		synctest.Wait()
		if r, err := st.Next(t.Context()); err != nil || !r.Created {
			t.Fatalf("got %v, %v", r, err)
		}
		if err := <-blocked; err != nil {
			t.Errorf("after one was read: %v", err)
		}
		go func() { blocked <- st.Create(t.Context(), CreateRequest{Key: []byte("a")}) }()
		synctest.Wait()
		st.Close()
		st.Close()
		if err := <-blocked; !errors.Is(err, ErrClosed) {
			t.Errorf("after close: got %v", err)
		}
	})
}

// TestProgressNotifyOfManyWatches: more notifications than the queue holds all arrive.
func TestProgressNotifyOfManyWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScenario(t, Options{QueueResponses: 5, QueueControls: 500, ProgressInterval: time.Nanosecond})
		defer s.close()
		st := s.stream("main")
		if st.interval < minProgressInterval || st.interval > minProgressInterval*11/10 {
			t.Errorf("interval %v", st.interval)
		}
		time.Sleep(10 * st.interval) // ticks that nobody looked at are not made up for
		const n = 100
		for range n {
			if err := st.Create(t.Context(), CreateRequest{Key: []byte("a"), ProgressNotify: true}); err != nil {
				t.Fatal(err)
			}
		}
		seen := map[int64]int{}
		for range 3 * n {
			r, err := st.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !r.Created {
				seen[r.WatchID]++
			}
		}
		for id := range int64(n) {
			if seen[id] != 2 {
				t.Errorf("watch %d: %d notifications in two ticks", id, seen[id])
			}
		}
	})
}

// TestHistoryFails: a failure ends what met it, with its cause.
func TestHistoryFails(t *testing.T) {
	broken := errors.New("disk on fire")
	h := newHistory()
	h.commit("a=1")
	hub := New(h, Options{})
	h.fail = broken
	st := hub.NewStream()
	defer st.Close()
	if err := st.Create(t.Context(), CreateRequest{Key: []byte("a"), Start: 2}); err != nil {
		t.Fatal(err)
	}
	if r, err := st.Next(t.Context()); err != nil || !r.Created {
		t.Fatalf("got %v, %v", r, err)
	}
	if _, err := st.Next(t.Context()); !errors.Is(err, broken) {
		t.Errorf("stream: got %v", err)
	}
	h.fail = ErrCompacted // without a compaction that explains it
	if _, err := st.Next(t.Context()); !errors.Is(err, ErrCompacted) {
		t.Errorf("stream: got %v", err)
	}
	h.fail = broken
	h.commit("a=1")
	hub.Publish(nil, 3)
	if err := hub.Run(t.Context()); !errors.Is(err, broken) {
		t.Errorf("hub: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := st.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("next: got %v", err)
	}
}

// fanOut returns a hub with watchers spread over streams, their created responses read.
func fanOut(tb testing.TB, streams, watches int, req func(i int) CreateRequest) (*Hub, *history, []*Stream) {
	h := newHistory()
	hub := New(h, Options{})
	var opened []*Stream
	for i := range streams {
		st := hub.NewStream()
		opened = append(opened, st)
		for j := range watches {
			if err := st.Create(context.Background(), req(i*watches+j)); err != nil {
				tb.Fatal(err)
			}
			if _, err := st.Next(context.Background()); err != nil {
				tb.Fatal(err)
			}
		}
	}
	return hub, h, opened
}

// step publishes one event and reads every response it made.
func step(tb testing.TB, hub *Hub, events []Event, rev int64, streams []*Stream, each int) {
	events[0].Main = rev
	hub.Publish(events, rev)
	if err := hub.drain(context.Background()); err != nil {
		tb.Fatal(err)
	}
	for _, st := range streams {
		for range each {
			if r, err := st.Next(context.Background()); err != nil || r.Revision != rev {
				tb.Fatalf("got %v, %v", r, err)
			}
		}
	}
}

func onePrefix(int) CreateRequest { return CreateRequest{Key: []byte("k"), End: []byte("l")} }

func ownKey(i int) CreateRequest { return CreateRequest{Key: fmt.Appendf(nil, "k%06d", i)} }

var fanOuts = []struct {
	name             string
	streams, watches int
	request          func(i int) CreateRequest
	receivers, each  int // how many streams get how many responses an event
}{
	{"1000 streams of one prefix", 1000, 1, onePrefix, 1000, 1},
	{"1 stream with 100 watches of one prefix", 1, 100, onePrefix, 1, 100},
	{"100000 single keys", 100, 1000, ownKey, 1, 1},
}

// TestFanOutDoesNotCopy: what a watcher costs does not grow with the event, and nothing is allocated for
// it. The allowance is for the ring and the dispatch as a whole.
func TestFanOutDoesNotCopy(t *testing.T) {
	for _, f := range fanOuts {
		t.Run(f.name, func(t *testing.T) {
			hub, h, streams := fanOut(t, f.streams, f.watches, f.request)
			rev := h.current
			allocs := testing.AllocsPerRun(100, func() {
				rev++
				events := []Event{{Key: []byte("k000000"), KV: []byte("v")}}
				step(t, hub, events, rev, streams[:f.receivers], f.each)
			})
			if allocs > 12 {
				t.Errorf("%.0f allocations an event for %d watchers", allocs, f.receivers*f.each)
			}
		})
	}
}

// BenchmarkFanOut measures an event from Publish to Next; ns/watcher is what one more watcher costs.
func BenchmarkFanOut(b *testing.B) {
	for _, f := range fanOuts {
		b.Run(f.name, func(b *testing.B) {
			hub, h, streams := fanOut(b, f.streams, f.watches, f.request)
			rev := h.current
			b.ReportAllocs()
			for b.Loop() {
				rev++
				step(b, hub, []Event{{Key: []byte("k000000"), KV: []byte("v")}}, rev, streams[:f.receivers], f.each)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*f.receivers*f.each), "ns/watcher")
		})
	}
}
