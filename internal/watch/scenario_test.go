package watch

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
)

// scenario drives one hub by the commands of a file, in a bubble with its own time.
type scenario struct {
	t       *testing.T
	history *history
	hub     *Hub
	streams map[string]*Stream
	stop    context.CancelFunc
	failed  error
}

func newScenario(t *testing.T, opts Options) *scenario {
	s := &scenario{t: t, history: newHistory(), streams: map[string]*Stream{}}
	s.hub = New(s.history, opts)
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	go func() { s.failed = s.hub.Run(ctx) }()
	return s
}

func (s *scenario) close() {
	for _, st := range s.streams {
		st.Close()
	}
	s.stop()
	synctest.Wait()
	if s.failed != nil {
		s.t.Error(s.failed)
	}
	if st := s.hub.Stats(); st.Streams != 0 || st.Watchers != 0 || st.Slow != 0 || st.Pending != 0 {
		s.t.Errorf("after close: %+v", st)
	}
	if n := len(s.hub.mu.index.keys) + len(s.hub.mu.index.ranges); n != 0 || s.hub.mu.index.tree.root != nil {
		s.t.Errorf("after close the index holds %d spans", n)
	}
}

func (s *scenario) stream(name string) *Stream {
	st := s.streams[name]
	if st == nil {
		st = s.hub.NewStream()
		s.streams[name] = st
	}
	return st
}

// recv reads what the stream has within some time, at most limit responses.
func (s *scenario) recv(st *Stream, limit int, within time.Duration) string {
	ctx, cancel := context.WithCancel(context.Background())
	var b strings.Builder
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range limit {
			r, err := st.Next(ctx)
			if err != nil {
				if ctx.Err() == nil {
					fmt.Fprintf(&b, "error: %v\n", err)
				}
				return
			}
			b.WriteString(format(r))
		}
	}()
	time.Sleep(within)
	synctest.Wait()
	cancel()
	<-done
	if b.Len() == 0 {
		return "nothing\n"
	}
	return b.String()
}

func format(r Response) string {
	var b strings.Builder
	fmt.Fprintf(&b, "id=%d rev=%d", r.WatchID, r.Revision)
	for _, f := range []struct {
		on   bool
		name string
	}{{r.Created, "created"}, {r.Canceled, "canceled"}, {r.PrevKV, "prevkv"}, {r.Fragment, "fragment"}} {
		if f.on {
			b.WriteString(" " + f.name)
		}
	}
	if r.CompactRevision != 0 {
		fmt.Fprintf(&b, " compacted=%d", r.CompactRevision)
	}
	if r.Reason != "" {
		fmt.Fprintf(&b, " %q", r.Reason)
	}
	for _, e := range r.Events {
		if e.Delete {
			fmt.Fprintf(&b, " %d/%d:-%s", e.Main, e.Sub, e.Key)
		} else {
			fmt.Fprintf(&b, " %d/%d:%s=%s", e.Main, e.Sub, e.Key, e.KV)
		}
		if r.PrevKV && e.Prev != nil {
			fmt.Fprintf(&b, "(%s)", e.Prev)
		}
	}
	return b.String() + "\n"
}

func scan[T any](t *testing.T, d *datadriven.TestData, name string, v T) T {
	if d.HasArg(name) {
		d.ScanArgs(t, name, &v)
	}
	return v
}

// bytesOf reads a key; \0 stands for the zero byte.
func bytesOf(s string) []byte { return []byte(strings.ReplaceAll(s, `\0`, "\x00")) }

func (s *scenario) run(d *datadriven.TestData) string {
	ctx := context.Background()
	st := s.stream(scan(s.t, d, "stream", "main"))
	var err error
	switch d.Cmd {
	case "commit", "commit-late":
		for line := range strings.Lines(d.Input) {
			events := s.history.commit(strings.Fields(line)...)
			if d.Cmd == "commit" {
				s.hub.Publish(events, s.history.current)
				synctest.Wait()
			}
		}
		return fmt.Sprintf("revision %d\n", s.history.current)
	case "publish": // what commit-late left out, as after a received snapshot
		rev := scan(s.t, d, "rev", int64(0))
		if rev == 0 {
			s.hub.Publish(nil, s.history.current)
		} else {
			s.hub.Publish(s.history.revisions[rev], rev)
		}
		synctest.Wait()
	case "compact":
		s.history.compact(scan(s.t, d, "rev", int64(0)))
	case "create":
		err = st.Create(ctx, CreateRequest{
			ID: scan(s.t, d, "id", int64(0)), Start: scan(s.t, d, "start", int64(0)),
			Key: bytesOf(scan(s.t, d, "key", "")), End: bytesOf(scan(s.t, d, "end", "")),
			NoPut: d.HasArg("noput"), NoDelete: d.HasArg("nodelete"),
			PrevKV: d.HasArg("prevkv"), Fragment: d.HasArg("fragment"), ProgressNotify: d.HasArg("notify"),
		})
	case "refuse":
		err = st.Refuse(ctx, "etcdserver: permission denied")
	case "cancel":
		err = st.Cancel(ctx, scan(s.t, d, "id", int64(0)))
	case "progress":
		err = st.Progress(ctx)
	case "close":
		st.Close()
	case "recv":
		within, err := time.ParseDuration(scan(s.t, d, "within", "0s"))
		if err != nil {
			d.Fatalf(s.t, "%v", err)
		}
		return s.recv(st, scan(s.t, d, "limit", 1000), within)
	case "stats":
		return fmt.Sprintf("%+v reads=%d\n", s.hub.Stats(), s.history.reads)
	default:
		d.Fatalf(s.t, "unknown command %s", d.Cmd)
	}
	if err != nil {
		return err.Error() + "\n"
	}
	return ""
}

func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		opts := Options{}
		if strings.Contains(path, "small") {
			opts = Options{
				RingBytes: 4 * (eventOverhead + 16), QueueResponses: 2, BatchRevisions: 3,
				QueueControls: 4, StreamWatches: 3,
			}
		}
		synctest.Test(t, func(t *testing.T) {
			s := newScenario(t, opts)
			defer s.close()
			datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string { return s.run(d) })
		})
	})
}
