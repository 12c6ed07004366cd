package robustness

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// reopenAfter is how long a watcher waits before it asks anew for a watch that was cancelled.
const reopenAfter = 50 * time.Millisecond

// watcher watches everything, or the keys with a prefix, from the first revision on, through one member or several. It
// holds that it is told of each revision once, whole and in order, also over lost connections.
type watcher struct {
	name      string
	prefix    string // "" = everything
	etcd      *clientv3.Client
	journal   *journal
	chronicle *chronicle
	// hears returns false when it need not be told of the end: who would tell it is gone. It may be nil.
	hears func() bool

	next    atomic.Int64 // revision that it has not been told of
	changes []change     // of a watcher with a prefix; read when it has ended
}

// change is an event of a watcher with a prefix, and what was there before, as it was told.
type change struct {
	event
	mod         int64
	before      string
	beforeKnown bool // the event came with what was there before
}

func newWatcher(name, prefix string, etcd *clientv3.Client, j *journal, c *chronicle) *watcher {
	w := &watcher{name: name, prefix: prefix, etcd: etcd, journal: j, chronicle: c}
	w.next.Store(2) // a store begins at revision 1, without a key
	return w
}

// run watches until ctx ends.
func (w *watcher) run(ctx context.Context) {
	for ctx.Err() == nil {
		watching, cancel := context.WithCancel(ctx)
		w.watch(watching)
		cancel()
		pause(ctx, reopenAfter)
	}
}

// watch watches until the watch is cancelled.
func (w *watcher) watch(ctx context.Context) {
	options := []clientv3.OpOption{clientv3.WithRev(w.next.Load()), clientv3.WithProgressNotify()}
	key := w.prefix
	if w.prefix == "" {
		key = "\x00"
		options = append(options, clientv3.WithFromKey())
	} else {
		options = append(options, clientv3.WithPrefix(), clientv3.WithPrevKV())
	}
	for resp := range w.etcd.Watch(clientv3.WithRequireLeader(ctx), key, options...) {
		if err := resp.Err(); err != nil {
			if ctx.Err() == nil {
				w.cancelled(resp, err)
			}
			return
		}
		w.take(resp)
	}
}

func (w *watcher) cancelled(resp clientv3.WatchResponse, err error) {
	if resp.CompactRevision > 0 {
		w.chronicle.wrongf("%s: its watch from %d is compacted at %d; nothing above what all have been told was", w.name,
			w.next.Load(), resp.CompactRevision)
	}
	w.journal.failed(err)
}

// take checks and notes what a response tells.
func (w *watcher) take(resp clientv3.WatchResponse) {
	at := w.journal.now()
	next := w.next.Load()
	first := next
	for from := 0; from < len(resp.Events); {
		revision := resp.Events[from].Kv.ModRevision
		to := from
		var events []event
		for ; to < len(resp.Events) && resp.Events[to].Kv.ModRevision == revision; to++ {
			events = append(events, eventOf(resp.Events[to]))
			if w.prefix != "" {
				w.note(resp.Events[to])
			}
		}
		switch {
		case revision < next:
			w.chronicle.wrongf("%s was told of revision %d after %d", w.name, revision, next-1)
		case w.prefix == "" && revision > next:
			w.chronicle.wrongf("%s was told of revision %d and not of %d", w.name, revision, next)
		case revision > resp.Header.Revision:
			w.chronicle.wrongf("%s was told of revision %d from a store at %d", w.name, revision, resp.Header.Revision)
		}
		if w.prefix == "" {
			w.chronicle.add(revision, events, at, w.name)
			w.journal.saw(revision)
		}
		next = max(next, revision+1)
		from = to
	}
	// A notice of progress promises that nothing up to its revision is to come.
	if resp.IsProgressNotify() {
		if w.prefix == "" && resp.Header.Revision >= first {
			w.chronicle.wrongf("%s was told that it knows of revision %d, it has heard up to %d", w.name, resp.Header.Revision, first-1)
		}
		next = max(next, resp.Header.Revision+1)
	}
	w.next.Store(next)
}

func (w *watcher) note(e *clientv3.Event) {
	c := change{event: eventOf(e), mod: e.Kv.ModRevision, beforeKnown: e.PrevKv != nil}
	if c.beforeKnown {
		c.before = string(e.PrevKv.Value)
	}
	w.changes = append(w.changes, c)
}

// check holds a watcher with a prefix, which has ended, against the past: it was told of exactly what happened there.
func (w *watcher) check(p *past) []string {
	var wrong complaints
	at := 0
	for revision := int64(2); revision <= p.last; revision++ {
		t := p.revisions[revision]
		if t == nil {
			continue
		}
		for _, e := range t.events {
			if !strings.HasPrefix(e.key, w.prefix) {
				continue
			}
			if at == len(w.changes) || w.changes[at].mod != revision || w.changes[at].event != e {
				wrong.addf("%s was not told of %v at revision %d, its change %d", w.name, e, revision, at)
				return wrong
			}
			before := p.at(e.key, revision-1)
			if got := w.changes[at]; got.beforeKnown != before.present || got.before != before.value {
				wrong.addf("%s was told of %v at revision %d that %q was there before, but %q was", w.name, e, revision, got.before, before.value)
			}
			at++
		}
	}
	if at < len(w.changes) && w.changes[at].mod <= p.last {
		wrong = append(wrong, fmt.Sprintf("%s was told of %v at revision %d, which did not happen", w.name, w.changes[at].event, w.changes[at].mod))
	}
	return wrong
}
