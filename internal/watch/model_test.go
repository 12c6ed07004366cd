package watch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// expectation is what the test knows of one watch: what it asked for and what it was given.
type expectation struct {
	req      CreateRequest
	from     int64 // lowest revision it must be given
	header   int64 // highest header so far
	got      []Event
	canceled bool
	lost     int64 // the compaction that ended it, 0 if none
}

// client is a stream and a reader that checks, response by response, what can be checked at once.
type client struct {
	stream *Stream
	pause  int // responses between pauses, 0 for a reader that never pauses

	mu       sync.Mutex
	requests []CreateRequest // sent, not answered
	watches  map[int64]*expectation
	ended    []*expectation
	progress int
}

func (c *client) read(ctx context.Context) error {
	for n := 1; ; n++ {
		r, err := c.stream.Next(ctx)
		if err != nil {
			if errors.Is(err, ErrClosed) || ctx.Err() != nil {
				return nil
			}
			return err
		}
		if err := c.check(r); err != nil {
			return err
		}
		if c.pause > 0 && n%c.pause == 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

func (c *client) check(r Response) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Created {
		req := c.requests[0]
		c.requests = c.requests[1:]
		from := req.Start
		if from == 0 {
			from = r.Revision + 1
		}
		if c.watches[r.WatchID] != nil {
			return fmt.Errorf("watch %d created twice", r.WatchID)
		}
		c.watches[r.WatchID] = &expectation{req: req, from: from, header: r.Revision}
		return nil
	}
	if r.WatchID == NoWatch {
		c.progress++
		for id, w := range c.watches {
			if w.lost == 0 && r.Revision < w.header {
				return fmt.Errorf("progress at %d after watch %d had %d", r.Revision, id, w.header)
			}
			w.header = max(w.header, r.Revision)
		}
		return nil
	}
	w := c.watches[r.WatchID]
	switch {
	case w == nil:
		return fmt.Errorf("response for the unknown watch %d: %s", r.WatchID, format(r))
	case r.CompactRevision != 0:
		w.lost = r.CompactRevision
		return nil
	case r.Canceled:
		w.canceled = true
		delete(c.watches, r.WatchID)
		c.ended = append(c.ended, w)
		return nil
	case w.lost != 0:
		return fmt.Errorf("watch %d: response after its end: %s", r.WatchID, format(r))
	case r.Revision < w.header:
		return fmt.Errorf("watch %d: header goes back from %d to %d", r.WatchID, w.header, r.Revision)
	case len(r.Events) == 0:
		return fmt.Errorf("watch %d: empty response", r.WatchID)
	case r.Events[0].Main <= w.header && len(w.got) > 0 && w.got[len(w.got)-1].Main == r.Events[0].Main:
		return fmt.Errorf("watch %d: revision %d in two responses", r.WatchID, r.Events[0].Main)
	case r.Events[len(r.Events)-1].Main > r.Revision:
		return fmt.Errorf("watch %d: event above the header: %s", r.WatchID, format(r))
	}
	w.header = r.Revision
	w.got = append(w.got, r.Events...)
	return nil
}

// verify compares a watch with the model: exactly the matching events from w.from on, in order; all of
// them if whole is set, else a prefix of them.
func (w *expectation) verify(all []Event, whole bool) error {
	span, _ := newSpan(w.req.Key, w.req.End)
	i := 0
	for _, e := range all {
		wanted := (e.Delete && !w.req.NoDelete) || (!e.Delete && !w.req.NoPut)
		if e.Main < w.from || !wanted || !span.contains(e.Key) {
			continue
		}
		if i == len(w.got) {
			if whole {
				return fmt.Errorf("start %d: event %d/%d is missing after %d", w.from, e.Main, e.Sub, i)
			}
			return nil
		}
		if g := w.got[i]; g.Main != e.Main || g.Sub != e.Sub || string(g.KV) != string(e.KV) {
			return fmt.Errorf("start %d: event %d is %d/%d, want %d/%d", w.from, i, g.Main, g.Sub, e.Main, e.Sub)
		}
		i++
	}
	if i != len(w.got) {
		return fmt.Errorf("start %d: %d events more than there are", w.from, len(w.got)-i)
	}
	return nil
}

// write commits random transactions; it publishes turns of several, now and then leaves one to a jump.
func write(rnd *rand.Rand, h *history, hub *Hub, revisions int) (all []Event) {
	for n := 0; n < revisions; {
		var turn []Event
		for range 1 + rnd.IntN(4) {
			var changes []string
			for range 1 + rnd.IntN(3) {
				key := fmt.Sprintf("k%d", rnd.IntN(12))
				if rnd.IntN(4) == 0 {
					changes = append(changes, "-"+key)
				} else {
					changes = append(changes, key+"="+strings.Repeat("v", rnd.IntN(100)))
				}
			}
			turn = append(turn, h.commit(changes...)...)
			n++
		}
		all = append(all, turn...)
		switch rnd.IntN(40) {
		case 0: // left out: the next turn jumps
		case 1:
			hub.Publish(nil, turn[len(turn)-1].Main)
		default:
			hub.Publish(turn, turn[len(turn)-1].Main)
		}
		if rnd.IntN(10) == 0 {
			time.Sleep(time.Duration(rnd.IntN(500)) * time.Microsecond)
		}
	}
	hub.Publish(nil, h.current)
	return all
}

func (c *client) churn(rnd *rand.Rand, h *history, steps int) error {
	ctx := context.Background()
	for range steps {
		var err error
		switch rnd.IntN(10) {
		case 0, 1, 2, 3, 4:
			req := CreateRequest{
				Key: fmt.Appendf(nil, "k%d", rnd.IntN(12)), NoPut: rnd.IntN(8) == 0, NoDelete: rnd.IntN(8) == 0,
			}
			switch rnd.IntN(3) {
			case 0:
				req.Key, req.End = []byte("k"), []byte("l")
			case 1:
				req.End = []byte{0}
			}
			current, _ := h.Revisions()
			switch rnd.IntN(4) {
			case 0:
				req.Start = max(1, current-rnd.Int64N(400))
			case 1:
				req.Start = current + rnd.Int64N(5)
			}
			c.mu.Lock()
			c.requests = append(c.requests, req)
			c.mu.Unlock()
			err = c.stream.Create(ctx, req)
		case 5, 6:
			c.mu.Lock()
			id := int64(-99)
			if len(c.watches) > 6 {
				for id = range c.watches {
					break
				}
			}
			c.mu.Unlock()
			err = c.stream.Cancel(ctx, id)
		case 7:
			err = c.stream.Progress(ctx)
		default:
			time.Sleep(time.Duration(rnd.IntN(1500)) * time.Microsecond)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// TestAgainstModel writes, reads fast and slowly, creates, cancels and compacts at once. Every watch must
// see exactly the model's events, in order, once. Time is the bubble's: it moves while all goroutines
// sleep or wait, so a slow reader is slow against the writer on any machine.
func TestAgainstModel(t *testing.T) {
	seeds := uint64(8)
	if testing.Short() {
		seeds = 4
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testAgainstModel(t, seed) })
		})
	}
}

func testAgainstModel(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 0))
	h := newHistory()
	hub := New(h, Options{
		RingBytes: []int{1, 5_000, 100_000, 1 << 20}[seed%4], QueueResponses: 1 + rnd.IntN(20),
		QueueBytes: 2000 + rnd.IntN(4000), QueueControls: 4, BatchRevisions: 1 + rnd.IntN(50),
		BatchBytes: 20_000,
	})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	runs := make(chan error, 1)
	go func() { runs <- hub.Run(ctx) }()
	var clients []*client
	var readers, churners sync.WaitGroup
	for i := range 6 {
		c := &client{stream: hub.NewStream(), watches: map[int64]*expectation{}, pause: []int{0, 0, 3, 20}[i%4]}
		clients = append(clients, c)
		readers.Go(func() {
			if err := c.read(ctx); err != nil {
				t.Error(err)
				c.stream.Close()
			}
		})
		rnd := rand.New(rand.NewPCG(seed, uint64(i)+10))
		churners.Go(func() {
			if err := c.churn(rnd, h, 300); err != nil {
				t.Error(err)
			}
		})
	}
	stopCompacting := make(chan struct{})
	var compacting sync.WaitGroup
	compacting.Go(func() {
		for {
			select {
			case <-stopCompacting:
				return
			case <-time.After(5 * time.Millisecond):
				current, _ := h.Revisions()
				h.compact(current - 300)
			}
		}
	})
	all := write(rnd, h, hub, 2000)
	churners.Wait()
	close(stopCompacting)
	compacting.Wait()
	time.Sleep(time.Hour) // the slowest reader is through, and everyone waits for more
	synctest.Wait()
	for _, c := range clients {
		c.stream.Close()
	}
	readers.Wait()
	given := 0
	for i, c := range clients {
		for id, w := range c.watches {
			given += len(w.got)
			if err := w.verify(all, w.lost == 0); err != nil {
				t.Errorf("client %d watch %d: %v", i, id, err)
			}
		}
		for _, w := range c.ended {
			if err := w.verify(all, false); err != nil {
				t.Errorf("client %d, cancelled watch: %v", i, err)
			}
		}
	}
	if given == 0 {
		t.Error("no watch was given any event")
	}
	cancel()
	if err := <-runs; err != nil {
		t.Error(err)
	}
	if st := hub.Stats(); st.Streams != 0 || st.Watchers != 0 || st.Slow != 0 || st.Pending != 0 {
		t.Errorf("after close: %+v", st)
	}
}
