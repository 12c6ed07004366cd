package compat

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// watchLog is a watch stream of the random comparison. One goroutine receives and sorts what comes into a log per
// watch: how events are spread over responses depends on timing, their sequence does not.
type watchLog struct {
	stream  pb.Watch_WatchClient
	changed chan struct{} // holds a token when something came since it was last taken

	mu struct {
		sync.Mutex
		created  []*pb.WatchResponse
		events   map[int64][]string
		canceled map[int64]*pb.WatchResponse
		progress int64 // highest revision of a progress notification
		err      error // why the stream ended
	}
}

func openWatchLog(ctx context.Context, conn *grpc.ClientConn) (*watchLog, error) {
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		return nil, fmt.Errorf("open watch stream: %w", err)
	}
	w := &watchLog{stream: stream, changed: make(chan struct{}, 1)}
	w.mu.events = map[int64][]string{}
	w.mu.canceled = map[int64]*pb.WatchResponse{}
	go w.receive() // ends with the stream's context
	return w, nil
}

func (w *watchLog) receive() {
	for {
		resp, err := w.stream.Recv()
		w.record(resp, err)
		select {
		case w.changed <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

func (w *watchLog) record(resp *pb.WatchResponse, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err != nil:
		w.mu.err = err
	case resp.Created:
		w.mu.created = append(w.mu.created, resp)
	case resp.Canceled:
		w.mu.canceled[resp.WatchId] = resp
	case resp.WatchId == -1:
		w.mu.progress = max(w.mu.progress, resp.Header.GetRevision())
	default:
		var text renderer
		for _, e := range resp.Events {
			w.mu.events[resp.WatchId] = append(w.mu.events[resp.WatchId], text.render(e))
		}
	}
}

var errSilent = errors.New("nothing came within " + answerDeadline.String())

// await waits until reached is true; reached runs with the lock held. Every pollInterval it calls again, which may be nil.
func (w *watchLog) await(reached func() bool, again func() error) error {
	deadline := time.NewTimer(answerDeadline)
	defer deadline.Stop()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for {
		w.mu.Lock()
		ok, err := reached(), w.mu.err
		w.mu.Unlock()
		if ok {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the watch stream ended: %s", renderError(err))
		}
		select {
		case <-w.changed:
		case <-poll.C:
			if again != nil {
				if err := again(); err != nil {
					return err
				}
			}
		case <-deadline.C:
			return errSilent
		}
	}
}

const pollInterval = 5 * time.Millisecond

// create makes a watch and returns the server's answer.
func (w *watchLog) create(req *pb.WatchCreateRequest) (*pb.WatchResponse, error) {
	if err := w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: req}}); err != nil {
		return nil, fmt.Errorf("create watch: %w", err)
	}
	if err := w.await(func() bool { return len(w.mu.created) > 0 }, nil); err != nil {
		return nil, fmt.Errorf("create watch: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	resp := w.mu.created[0]
	w.mu.created = w.mu.created[1:]
	return resp, nil
}

// cancel ends a watch that exists and returns the server's answer.
func (w *watchLog) cancel(id int64) (*pb.WatchResponse, error) {
	err := w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{
		CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
	if err != nil {
		return nil, fmt.Errorf("cancel watch %d: %w", id, err)
	}
	return w.awaitCanceled(id)
}

// awaitCanceled waits for the end of a watch and returns what the server said.
func (w *watchLog) awaitCanceled(id int64) (*pb.WatchResponse, error) {
	if err := w.await(func() bool { return w.mu.canceled[id] != nil }, nil); err != nil {
		return nil, fmt.Errorf("watch %d is canceled: %w", id, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	resp := w.mu.canceled[id]
	delete(w.mu.canceled, id)
	return resp, nil
}

// settle waits until every watch of the stream has had the events up to revision. All of them must have been created
// with a start revision at or below it. A server drops a progress request while a watch catches up, hence the repeats.
func (w *watchLog) settle(revision int64) error {
	ask := func() error {
		return w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
	}
	if err := ask(); err != nil {
		return fmt.Errorf("ask for progress: %w", err)
	}
	if err := w.await(func() bool { return w.mu.progress >= revision }, ask); err != nil {
		return fmt.Errorf("progress to revision %d: %w", revision, err)
	}
	return nil
}

// take returns the events of a watch since the last take.
func (w *watchLog) take(id int64) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	events := slices.Clone(w.mu.events[id])
	delete(w.mu.events, id)
	return events
}

// unexpectedCancel returns a cancellation that nobody asked for, "" if there is none.
func (w *watchLog) unexpectedCancel() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var text renderer
	for _, resp := range w.mu.canceled {
		return text.render(resp)
	}
	return ""
}
