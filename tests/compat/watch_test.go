package compat

import (
	"fmt"
	"strings"
	"testing"

	"github.com/dolmen-io/dolmen/tests/harness"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

func watchAll(from int64) *pb.WatchCreateRequest {
	return &pb.WatchCreateRequest{Key: []byte(all), RangeEnd: []byte(all), StartRevision: from}
}

func watchKey(key, end string, id int64) *pb.WatchCreateRequest {
	return &pb.WatchCreateRequest{Key: []byte(key), RangeEnd: bytesOrNil(end), WatchId: id}
}

func TestWatchCreate(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.DoAll(put("a", "1"), put("b", "1"))
		w := r.Watch()
		w.Created(watchKey("a", "", 0))
		w.Created(watchKey("a", "", 0))
		w.Created(watchKey("a", "", 3)) // the counter skips it later
		w.Created(watchKey("a", "", 0))
		w.Created(watchKey("a", "", 0))
		w.Created(watchKey("a", "", 3))
		w.Created(watchKey("a", "", -1))
		w.Created(watchKey("a", "", -7))
		w.Created(watchKey("a", "", -7))
		w.Created(watchKey("a", "", 1<<62))
		w.Created(watchKey("b", "a", 0))
		w.Created(watchKey("b", "b", 0))
		w.Created(watchKey("b", "b", 3))
		w.Created(watchKey("b", "a", 100))
		w.Created(watchKey("b", "c", 100))
		w.Created(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: -1})
		w.Created(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: -1, WatchId: 200})
		w.Created(&pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("a"), StartRevision: -1})
		w.Created(watchKey("a", "", 200))
		w.Created(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 1000})
		w.Created(&pb.WatchCreateRequest{Key: []byte("a"), Filters: []pb.WatchCreateRequest_FilterType{9}})
	})
}

// TestWatchEmptyKey: an empty key stands for the smallest one.
func TestWatchEmptyKey(t *testing.T) {
	for _, end := range []string{"", all, "b"} {
		t.Run(fmt.Sprintf("end=%q", end), func(t *testing.T) {
			compare(t, harness.Options{}, func(r *Recorder) {
				w := r.Watch()
				w.Created(watchKey("", end, 5))
				r.DoAll(put("a", "1"), put("b", "1"), put("\x00", "1"))
				if w.Recv(); end == all {
					w.RecvAll(2)
				} else if end == "b" {
					w.Recv()
				}
			})
		})
	}
}

// TestWatchLive covers events of every kind of write, one watch a stream so that their order is defined.
func TestWatchLive(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.Do(&pb.LeaseGrantRequest{ID: 7, TTL: 1000})
		r.DoAll(put("a", "0"), putLease("b", "0", 7))
		watches := []*pb.WatchCreateRequest{
			watchAll(0),
			{Key: []byte(all), RangeEnd: []byte(all), PrevKv: true},
			{Key: []byte("a"), PrevKv: true, ProgressNotify: true},
			{Key: []byte("a"), RangeEnd: []byte("c"), Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}},
			{Key: []byte("a"), RangeEnd: []byte("c"), PrevKv: true, Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NODELETE}},
			{Key: []byte(all), RangeEnd: []byte(all), Filters: []pb.WatchCreateRequest_FilterType{
				pb.WatchCreateRequest_NODELETE, pb.WatchCreateRequest_NOPUT}},
			{Key: []byte("b"), RangeEnd: []byte(all), Fragment: true},
		}
		streams := make([]*Watcher, len(watches))
		for i, req := range watches {
			streams[i] = r.Watch()
			streams[i].Created(req)
		}
		r.DoAll(
			put("a", "1"), put("b", "1"), put("c", "1"),
			txn(put("a", "2"), del("b", ""), put("c", "2")),
			&pb.PutRequest{Key: []byte("a"), IgnoreValue: true},
			txn(del("a", all), put("b", "3")), // b twice in one revision
			putLease("b", "4", 7), putLease("d", "4", 7),
			&pb.LeaseRevokeRequest{ID: 7},
			del("none", ""), txn(del("none", "")),
			put("a", "5"), txn(put("a", "6"), txn(put("b", "6"))), del("a", all),
		)
		for i, w := range streams {
			r.notef("stream %d", i)
			w.RecvProgress()
		}
	})
}

// TestWatchCatchUp starts watches at every revision of a history.
func TestWatchCatchUp(t *testing.T) {
	history := []proto.Message{
		put("a", "1"), put("b", "1"), txn(put("a", "2"), put("b", "2"), put("c", "2")), del("b", ""), put("a", "3"),
		txn(del("a", all), put("b", "3")), put("c", "4"), del("c", ""), put("a", "5"),
	}
	const last = 10
	each := func(r *Recorder, from int64, waiting []*Watcher) []*Watcher {
		for _, req := range []*pb.WatchCreateRequest{
			watchAll(from),
			{Key: []byte(all), RangeEnd: []byte(all), StartRevision: from, PrevKv: true},
			{Key: []byte("a"), StartRevision: from, PrevKv: true},
			{Key: []byte("a"), RangeEnd: []byte("c"), StartRevision: from, Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NODELETE}},
		} {
			w := r.Watch()
			w.Created(req)
			waiting = append(waiting, w)
		}
		return waiting
	}
	// etcd catches up every 100 ms: all are created before the first is looked at.
	drain := func(waiting []*Watcher) {
		for _, w := range waiting {
			w.Recv()
			w.Abort()
		}
	}
	compare(t, harness.Options{}, func(r *Recorder) {
		r.DoAll(history...)
		var waiting []*Watcher
		for from := int64(1); from <= last; from++ {
			waiting = each(r, from, waiting)
		}
		drain(waiting)
		for _, at := range []int64{3, 4, 7, last} {
			r.Do(&pb.CompactionRequest{Revision: at, Physical: true})
			waiting = nil
			for from := max(1, at-2); from <= last; from++ {
				waiting = each(r, from, waiting)
			}
			drain(waiting)
		}
	})
}

// TestWatchCompacted: the watch is created, then cancelled; the stream and its other watches go on.
func TestWatchCompacted(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.DoAll(put("a", "1"), put("a", "2"), put("a", "3"), compact(3))
		w := r.Watch()
		w.Created(watchKey("a", "", 0))
		w.Created(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 2, WatchId: 9})
		w.Recv() // the cancellation
		// The id stays taken until the client cancels it too, and no progress is told until then.
		w.Recv0(func() { w.Progress() })
		w.Created(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 1, WatchId: 9})
		w.Cancel(9)
		w.Recv()
		w.Created(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 1, WatchId: 9})
		w.Recv()
		w.Created(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 3, WatchId: 10})
		w.Recv()
		r.Do(put("a", "4"))
		w.RecvAll(2)
		w.Cancel(0)
		w.Recv()
	})
}

// TestWatchFuture: nothing is delivered below the start revision, and no progress told.
func TestWatchFuture(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.Do(put("a", "1"))
		w := r.Watch()
		w.Created(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 3})
		w.Recv0(func() { w.Progress() })
		r.DoAll(put("a", "2"))
		w.Recv()
		w.Progress()
		w.Recv()
		w.Created(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 6})
		w.Recv0(func() { w.Progress() })
		r.DoAll(put("a", "3"), put("a", "4"))
		w.RecvAll(2)
		w.Cancel(0)
		w.Recv()
		r.DoAll(put("b", "5"), put("a", "6"))
		w.Recv()
		w.Progress()
		w.Recv()
	})
}

func TestWatchCancel(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.DoAll(put("a", "1"), put("a", "2"))
		w := r.Watch()
		w.Created(watchKey("a", "", 0))
		w.Created(watchKey("a", "", 5))
		w.Recv0(func() { w.Cancel(77); w.Cancel(-1); w.Empty() })
		w.Cancel(5)
		w.Recv()
		w.Recv0(func() { w.Cancel(5) })
		w.Created(watchKey("a", "", 5)) // the id is free again
		w.Cancel(0)
		w.Recv()
		w.Created(watchKey("a", "", 0)) // assigned ids are not given twice
		r.Do(put("a", "3"))
		w.RecvAll(2)
	})
}

func TestWatchProgress(t *testing.T) {
	runScenarios(t, []scenario{
		{name: "manual", body: func(r *Recorder) {
			r.DoAll(put("a", "1"), put("b", "2"))
			w := r.Watch()
			w.Recv0(func() { w.Progress() }) // no watch yet
			w.Created(watchKey("a", "", 0))
			w.Created(watchKey("b", "", 0))
			for range 3 {
				w.Progress()
				w.Recv()
				r.Do(put("c", "1"))
			}
			r.Do(put("a", "2"))
			w.Recv()
			w.Progress()
			w.Recv()
			w.Cancel(0)
			w.Recv()
			w.Cancel(1)
			w.Recv()
			w.Progress()
			w.Created(watchKey("z", "", 9))
		}},
		{name: "periodic", opts: harness.Options{Args: []string{"--watch-progress-notify-interval=300ms"}}, body: func(r *Recorder) {
			r.DoAll(put("a", "1"), put("b", "2"))
			w := r.Watch()
			req := watchKey("a", "", 4)
			req.ProgressNotify = true
			w.Created(req)
			w.Created(watchKey("b", "", 5))
			w.RecvAll(3)
		}},
	})
}

// TestWatchFragments writes revisions around the size at which responses are split.
func TestWatchFragments(t *testing.T) {
	big := func(n, size int) *pb.TxnRequest {
		reqs := make([]proto.Message, n)
		for i := range reqs {
			reqs[i] = put(fmt.Sprintf("k%02d", i), strings.Repeat("v", size))
		}
		return txn(reqs...)
	}
	compare(t, harness.Options{}, func(r *Recorder) {
		whole, split := r.Watch(), r.Watch()
		whole.Created(watchAll(0))
		split.Created(&pb.WatchCreateRequest{Key: []byte(all), RangeEnd: []byte(all), Fragment: true, PrevKv: true})
		r.DoAll(big(10, 100), big(3, 400_000), big(14, 100_000), big(2, 700_000))
		whole.RecvAll(4)
		recvFragments(split, 4)
		for _, fragment := range []bool{false, true} {
			late := r.Watch()
			late.Created(&pb.WatchCreateRequest{Key: []byte("k00"), RangeEnd: []byte("k05"), StartRevision: 2, Fragment: fragment})
			recvFragments(late, 1)
		}
	})
}

// recvFragments receives n whole responses, each of which may come in pieces.
func recvFragments(w *Watcher, n int) {
	for range n {
		for resp := w.Recv(); resp.GetFragment(); {
			resp = w.Recv()
		}
	}
}

func TestWatchStreamEnd(t *testing.T) {
	runScenarios(t, []scenario{
		{name: "half-close", body: func(r *Recorder) {
			w := r.Watch()
			w.Created(watchAll(0))
			w.CloseSend()
			r.DoAll(put("a", "1"), put("a", "2"))
			w.RecvAll(2)
		}},
		{name: "abort", body: func(r *Recorder) {
			w := r.Watch()
			w.Created(watchAll(0))
			w.Abort()
			w.Recv()
			r.Do(put("a", "1"))
		}},
		{name: "hasleader", body: func(r *Recorder) {
			w := r.WatchContext(r.WithMetadata("hasleader", "true", "client-api-version", "3.7"))
			w.Created(watchAll(0))
			r.Do(put("a", "1"))
			w.Recv()
		}},
	})
}

// TestWatchManyOnOneStream: each watch gets each of its events once.
func TestWatchManyOnOneStream(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		w := r.Watch()
		for i := range 50 {
			w.Created(watchKey(fmt.Sprintf("k%02d", i), "", int64(i+1)))
		}
		for i := range 50 {
			r.Do(put(fmt.Sprintf("k%02d", 49-i), "v"))
			w.Recv()
		}
	})
}

// TestWatchLongHistory: catching up takes more than one response.
func TestWatchLongHistory(t *testing.T) {
	const writes = 2500
	compare(t, harness.Options{}, func(r *Recorder) {
		for i := range writes {
			r.Do(put("a", fmt.Sprint(i)))
		}
		w := r.Watch()
		w.Created(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 2})
		for got := 0; got < writes; {
			resp := w.Recv()
			if resp == nil {
				return
			}
			got += len(resp.Events)
		}
	})
}
