package compat

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Watcher is one watch stream of a scenario.
type Watcher struct {
	r       *Recorder
	stream  pb.Watch_WatchClient
	cancel  context.CancelFunc
	answers chan watchAnswer
}

type watchAnswer struct {
	resp *pb.WatchResponse
	err  error
}

// Watch opens a watch stream; it ends with the scenario.
func (r *Recorder) Watch() *Watcher { return r.WatchContext(r.ctx) }

// WatchContext opens a watch stream whose context the scenario controls.
func (r *Recorder) WatchContext(parent context.Context) *Watcher {
	ctx, cancel := context.WithCancel(parent)
	stream, err := pb.NewWatchClient(r.conn).Watch(ctx)
	if err != nil {
		cancel()
		r.fatalf("open watch stream: %v", err)
	}
	w := &Watcher{r: r, stream: stream, cancel: cancel, answers: make(chan watchAnswer, 1)}
	go func() {
		for {
			resp, err := stream.Recv()
			select {
			case w.answers <- watchAnswer{resp, err}:
			case <-r.ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return w
}

// Create asks for a watch without waiting for the answer.
func (w *Watcher) Create(req *pb.WatchCreateRequest) {
	w.send("create", &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: req}})
}

// Created asks for a watch and records the next answer.
func (w *Watcher) Created(req *pb.WatchCreateRequest) *pb.WatchResponse {
	w.Create(req)
	return w.Recv()
}

// Cancel asks to cancel a watch without waiting for the answer.
func (w *Watcher) Cancel(id int64) {
	w.send("cancel", &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{
		CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
}

// Progress asks for a progress notification.
func (w *Watcher) Progress() {
	w.send("progress", &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{
		ProgressRequest: &pb.WatchProgressRequest{}}})
}

// Empty sends a request without content.
func (w *Watcher) Empty() { w.send("empty", &pb.WatchRequest{}) }

// CloseSend ends the client's half of the stream.
func (w *Watcher) CloseSend() {
	w.r.notef("> Watch half-close")
	if err := w.stream.CloseSend(); err != nil {
		w.r.fatalf("half-close watch stream: %v", err)
	}
}

// Abort cancels the stream's context.
func (w *Watcher) Abort() {
	w.r.notef("> Watch abort")
	w.cancel()
}

func (w *Watcher) send(what string, req *pb.WatchRequest) {
	w.r.notef("> Watch %s %s", what, w.r.text.render(req))
	if err := w.stream.Send(req); err != nil && !errors.Is(err, io.EOF) {
		w.r.fatalf("send on watch stream: %v", err)
	}
}

// Recv records the next answer and returns it, nil if the stream ended or nothing came in time.
func (w *Watcher) Recv() *pb.WatchResponse {
	a, ok := w.next()
	if !ok {
		w.r.silent()
		return nil
	}
	w.r.notef("%s", w.show(a))
	return a.resp
}

// RecvAll records n answers, sorted by watch: between watches of a stream no order is promised.
func (w *Watcher) RecvAll(n int) {
	answers := make([]watchAnswer, 0, n)
	for range n {
		a, ok := w.next()
		if !ok {
			w.r.silent()
			break
		}
		answers = append(answers, a)
	}
	slices.SortStableFunc(answers, func(a, b watchAnswer) int {
		return cmp.Compare(a.resp.GetWatchId(), b.resp.GetWatchId())
	})
	for _, a := range answers {
		w.r.notef("%s", w.show(a))
	}
}

// RecvProgress asks for progress and records all answers up to the progress notification. All watches of the stream
// must have caught up.
func (w *Watcher) RecvProgress() {
	w.Progress()
	for resp := w.Recv(); resp != nil && resp.WatchId != -1; {
		resp = w.Recv()
	}
}

func (w *Watcher) show(a watchAnswer) string {
	switch {
	case errors.Is(a.err, io.EOF):
		return "! end of stream"
	case a.err != nil:
		return "! " + renderError(a.err)
	}
	return "< " + w.r.text.render(a.resp)
}

func (w *Watcher) next() (watchAnswer, bool) {
	timeout := time.NewTimer(answerDeadline)
	defer timeout.Stop()
	select {
	case a := <-w.answers:
		return a, true
	case <-timeout.C:
		return watchAnswer{}, false
	}
}

// Recv0 records that what quiet sends is not answered: it creates and cancels a watch of its own afterwards, whose
// answers come next if nothing else does.
func (w *Watcher) Recv0(quiet func()) {
	quiet()
	w.Created(&pb.WatchCreateRequest{Key: []byte("nobody writes this"), WatchId: barrierID})
	w.Cancel(barrierID)
	w.Recv()
}

// barrierID is the watch id of Recv0.
const barrierID = 1_000_000
