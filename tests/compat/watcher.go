package compat

import (
	"context"
	"errors"
	"io"
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
	switch {
	case !ok:
		w.r.notef("! no watch response within %v", answerDeadline)
	case errors.Is(a.err, io.EOF):
		w.r.notef("! end of stream")
	case a.err != nil:
		w.r.notef("! %s", renderError(a.err))
	default:
		w.r.notef("< %s", w.r.text.render(a.resp))
	}
	return a.resp
}

// RecvAll records n answers.
func (w *Watcher) RecvAll(n int) {
	for range n {
		w.Recv()
	}
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
