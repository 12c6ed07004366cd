package sim

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"time"

	"github.com/dolmen-io/dolmen/internal/watch"
)

const watcherCount = 3

// watcher is a client that watches a range. When its member goes, it goes on at another one from where it was. It
// holds that it is given every event of its range, once and in order: what the history has from its next revision on.
type watcher struct {
	*world
	number  int
	prefix  string
	next    int64 // the lowest revision that it was not given
	checked int   // index into the history of the first event that it may still be given
	at      *member
	stream  *watch.Stream
}

func (w *world) startWatchers() {
	for i := range watcherCount {
		x := &watcher{world: w, number: i, prefix: []string{"data/", "lease/", ""}[i%3], next: 2}
		w.watches = append(w.watches, x)
		w.after(w.between(0, time.Second), x.poll)
	}
}

// lost notes that the member is gone.
func (x *watcher) lost() { x.stream, x.at = nil, nil }

// poll reads what there is, and now and then goes to another member.
func (x *watcher) poll() {
	x.after(x.between(time.Millisecond, 50*time.Millisecond), x.poll)
	if x.stream != nil && x.chance(1) && !x.settled {
		x.leave()
	}
	if x.stream == nil {
		x.resume()
		return
	}
	if x.now < x.at.paused {
		return
	}
	for x.failure == nil && x.stream != nil {
		r, err := x.stream.Next(&oneRound{reads: true})
		switch {
		case errors.Is(err, context.Canceled):
			return
		case err != nil:
			x.violated("failure", "%s ends a watch: %v", x.at.name, err)
			return
		}
		x.got(r)
	}
}

func (x *watcher) leave() {
	delete(x.at.streams, x)
	x.stream.Close()
	x.lost()
}

// resume watches from the next revision on, at any member.
func (x *watcher) resume() {
	m := x.someMember()
	if !m.up || m.gone || x.now < m.paused {
		return
	}
	x.at, x.stream = m, m.hub.NewStream()
	m.streams[x] = true
	req := watch.CreateRequest{Key: []byte(x.prefix), End: []byte{0}, Start: x.next}
	if x.prefix != "" {
		end := []byte(x.prefix)
		end[len(end)-1]++
		req.End = end
	}
	if err := x.stream.Create(context.Background(), req); err != nil {
		x.violated("failure", "%s refuses a watch: %v", m.name, err)
	}
}

// got checks a response.
func (x *watcher) got(r watch.Response) {
	switch {
	case r.CompactRevision > 0:
		// What was compacted it can never have; it goes on behind.
		if r.CompactRevision <= x.next {
			x.violated("watch", "watcher %d wants revision %d and is told that %d was compacted", x.number, x.next, r.CompactRevision)
		}
		x.note("watcher %d misses revisions %d to %d", x.number, x.next, r.CompactRevision-1)
		x.next = r.CompactRevision
		x.leave()
	case r.Canceled:
		x.violated("watch", "watcher %d is refused: %s", x.number, r.Reason)
	}
	for i := range r.Events {
		x.event(&r.Events[i])
	}
	if n := len(r.Events); n > 0 {
		x.note("watcher %d is given %d events up to %d by %s", x.number, n, r.Events[n-1].Main, x.at.name)
		x.next = r.Events[n-1].Main + 1
	}
}

// event checks that e is the next one of the range.
func (x *watcher) event(e *watch.Event) {
	want := x.expected()
	x.result.Watched++
	switch {
	case want == nil:
		x.violated("watch", "watcher %d is given %s of revision %d, there is nothing from %d on", x.number, e.Key, e.Main, x.next)
	case want.Main != e.Main || want.Sub != e.Sub || want.Delete != e.Delete || !bytes.Equal(want.Key, e.Key) || !bytes.Equal(want.KV, e.KV):
		x.violated("watch", "watcher %d is given %s of revision %d.%d, the next is %s of revision %d.%d", x.number, e.Key, e.Main, e.Sub,
			want.Key, want.Main, want.Sub)
	}
	x.checked++
}

// expected moves on to the next event of the range in the history, nil if there is none.
func (x *watcher) expected() *watch.Event {
	all := x.revisions.events
	for ; x.checked < len(all); x.checked++ {
		e := &all[x.checked]
		if e.Main >= x.next && strings.HasPrefix(string(e.Key), x.prefix) {
			return e
		}
	}
	return nil
}

// done says whether the watcher was given everything.
func (x *watcher) done() bool { return x.expected() == nil }

// finish holds that nothing is missing.
func (x *watcher) finish() {
	if e := x.expected(); e != nil {
		x.violated("watch", "watcher %d was never given %s of revision %d", x.number, e.Key, e.Main)
	}
}
