package compat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/tests/harness"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// side is one of the two servers of a pair.
type side struct {
	server *harness.Server
	conn   *grpc.ClientConn
	ctx    context.Context // of the watch streams; ends with a restart
	cancel context.CancelFunc
	logs   map[string]*watchLog
}

// pair runs steps on etcd and on the subject and compares after each. It knows of the stores what etcd's answers tell.
type pair struct {
	t         *testing.T
	oracle    *side
	subject   *side
	current   int64 // revision
	compacted int64
	watches   map[string]map[int64]*liveWatch // by stream and id
}

type liveWatch struct{ start int64 }

// difference is where the two servers part.
type difference struct{ want, got string }

func (d *difference) Error() string {
	return fmt.Sprintf("- etcd:    %s\n+ subject: %s", d.want, d.got)
}

// newPair starts etcd and a server of the given kind, which may get further flags.
func newPair(t *testing.T, kind harness.Kind, args ...string) *pair {
	t.Helper()
	start := func(kind harness.Kind, args ...string) *side {
		s := &side{server: harness.Start(t, kind, harness.Options{NoFsync: true, Args: args})}
		s.connect(t.Context())
		return s
	}
	return &pair{t: t, oracle: start(harness.Etcd), subject: start(kind, args...),
		current: 1, compacted: -1, watches: map[string]map[int64]*liveWatch{}}
}

func (s *side) connect(ctx context.Context) {
	s.conn = s.server.Dial()
	s.ctx, s.cancel = context.WithCancel(ctx)
	s.logs = map[string]*watchLog{}
}

// close ends both servers and removes their data.
func (p *pair) close() {
	for _, s := range []*side{p.oracle, p.subject} {
		s.cancel()
		s.conn.Close()
		s.server.Discard()
	}
}

// run runs the steps until one shows a difference, and returns its index and what differed.
func (p *pair) run(steps []Step) (index int, err error) {
	for i, s := range steps {
		if err := p.step(s); err != nil {
			for _, side := range []*side{p.oracle, p.subject} {
				if last, died := side.server.Died(); died {
					err = fmt.Errorf("%w\n%s died:\n%s", err, side.server.Kind, last)
				}
			}
			return i, err
		}
	}
	return 0, nil
}

func (p *pair) step(s Step) error {
	switch s.Op {
	case opSettle:
		return p.settleAll()
	case opRestart:
		return p.restart()
	case opWatchCreate:
		return p.createWatch(s.Stream, relativeTo(p.current, p.compacted, s.Req).(*pb.WatchCreateRequest))
	case opWatchCancel:
		return p.cancelWatch(s.Stream, s.Req.(*pb.WatchCancelRequest).WatchId)
	case "Compact":
		// What a watch still has to read must not be compacted on one side only.
		if err := p.settleAll(); err != nil {
			return err
		}
	}
	req := relativeTo(p.current, p.compacted, s.Req)
	resp, err := p.both(func(side *side) (proto.Message, error) { return side.call(s.Op, req) })
	if err != nil {
		return err
	}
	p.learn(req, resp)
	return nil
}

// both runs f on the two sides at once and returns the oracle's answer, nil if both answered the same error.
func (p *pair) both(f func(*side) (proto.Message, error)) (proto.Message, error) {
	type answer struct {
		resp proto.Message
		err  error
	}
	other := make(chan answer, 1)
	go func() {
		resp, err := f(p.subject)
		other <- answer{resp, err}
	}()
	resp, err := f(p.oracle)
	got := <-other
	if err == nil && got.err == nil && proto.Equal(resp, got.resp) {
		return resp, nil
	}
	var text renderer
	show := func(a answer) string {
		if a.err != nil {
			return renderError(a.err)
		}
		return text.render(a.resp)
	}
	if w, g := show(answer{resp, err}), show(got); w != g {
		return nil, &difference{w, g}
	}
	if status.Code(err) == codes.Unavailable {
		return nil, fmt.Errorf("both servers are gone: %w", err)
	}
	if err != nil {
		return nil, nil // the same error
	}
	return resp, nil
}

// bothAnswer is both for what must not fail.
func (p *pair) bothAnswer(f func(*side) (proto.Message, error)) (proto.Message, error) {
	failed := make(chan error, 2)
	resp, err := p.both(func(s *side) (proto.Message, error) {
		resp, err := f(s)
		if err != nil {
			failed <- fmt.Errorf("%s: %w", s.server.Kind, err)
		}
		return resp, err
	})
	if err == nil && len(failed) > 0 {
		return nil, <-failed
	}
	return resp, err
}

// learn takes the store's revisions from an answer of the oracle.
func (p *pair) learn(req, resp proto.Message) {
	if h, ok := resp.(interface{ GetHeader() *pb.ResponseHeader }); ok && resp != nil {
		p.current = max(p.current, h.GetHeader().GetRevision())
	}
	if c, ok := req.(*pb.CompactionRequest); ok && resp != nil {
		p.compacted = c.Revision
	}
}

// call makes one request other than a watch.
func (s *side) call(operation string, req proto.Message) (proto.Message, error) {
	ctx, cancel := context.WithTimeout(s.ctx, answerDeadline)
	defer cancel()
	switch operation {
	case opRangeStream:
		return rangeStream(ctx, s.conn, req.(*pb.RangeRequest))
	case opKeepAlive:
		stream, err := pb.NewLeaseClient(s.conn).LeaseKeepAlive(ctx)
		if err != nil {
			return nil, err
		}
		if err := stream.Send(req.(*pb.LeaseKeepAliveRequest)); err != nil {
			return nil, err
		}
		return stream.Recv()
	}
	return invoke(ctx, s.conn, req)
}

// rangeStream returns the chunks of a streamed range merged, which is the answer of the plain one.
func rangeStream(ctx context.Context, conn *grpc.ClientConn, req *pb.RangeRequest) (proto.Message, error) {
	stream, err := pb.NewKVClient(conn).RangeStream(ctx, req)
	if err != nil {
		return nil, err
	}
	merged := new(pb.RangeResponse)
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return merged, nil
		}
		if err != nil {
			return nil, err
		}
		proto.Merge(merged, resp.RangeResponse)
	}
}

func (p *pair) createWatch(stream string, req *pb.WatchCreateRequest) error {
	resp, err := p.bothAnswer(func(s *side) (proto.Message, error) {
		if s.logs[stream] == nil {
			log, err := openWatchLog(s.ctx, s.conn)
			if err != nil {
				return nil, err
			}
			s.logs[stream] = log
		}
		return s.logs[stream].create(req)
	})
	if err != nil {
		return err
	}
	created := resp.(*pb.WatchResponse)
	if created.Canceled {
		return nil
	}
	if req.StartRevision > 0 && req.StartRevision < p.compacted {
		return p.endCompacted(stream, created.WatchId)
	}
	if p.watches[stream] == nil {
		p.watches[stream] = map[int64]*liveWatch{}
	}
	p.watches[stream][created.WatchId] = &liveWatch{start: req.StartRevision}
	return nil
}

// endCompacted waits for the cancellation of a watch that starts below the compacted revision, and frees its id.
func (p *pair) endCompacted(stream string, id int64) error {
	for _, end := range []func(*watchLog) (*pb.WatchResponse, error){
		func(w *watchLog) (*pb.WatchResponse, error) { return w.awaitCanceled(id) },
		func(w *watchLog) (*pb.WatchResponse, error) { return w.cancel(id) },
	} {
		if _, err := p.bothAnswer(func(s *side) (proto.Message, error) { return end(s.logs[stream]) }); err != nil {
			return err
		}
	}
	return nil
}

// cancelWatch cancels a watch if there is one: an unknown id is not answered.
func (p *pair) cancelWatch(stream string, id int64) error {
	if p.watches[stream][id] == nil {
		return nil
	}
	settled, err := p.settle(stream)
	if err != nil {
		return err
	}
	_, err = p.bothAnswer(func(s *side) (proto.Message, error) { return s.logs[stream].cancel(id) })
	if err != nil {
		return err
	}
	delete(p.watches[stream], id)
	want, got := p.oracle.logs[stream].take(id), p.subject.logs[stream].take(id)
	if !settled {
		return nil // events may have been on their way
	}
	return compareEvents(stream, id, want, got)
}

func (p *pair) settleAll() error {
	for _, stream := range slices.Sorted(maps.Keys(p.watches)) {
		if _, err := p.settle(stream); err != nil {
			return err
		}
	}
	return nil
}

// settle waits for the events of all watches of a stream and compares them. A stream with a watch that starts in the
// future cannot be asked for progress yet; it is left for later. It writes first: a progress notification that tells the
// new revision was not on its way before.
func (p *pair) settle(stream string) (settled bool, err error) {
	watches := p.watches[stream]
	if len(watches) == 0 {
		return true, nil
	}
	for _, w := range watches {
		if w.start > p.current {
			return false, nil
		}
	}
	mark := &pb.PutRequest{Key: []byte("settled")}
	resp, err := p.bothAnswer(func(s *side) (proto.Message, error) { return s.call("Put", mark) })
	if err != nil {
		return false, err
	}
	p.learn(mark, resp)
	_, err = p.bothAnswer(func(s *side) (proto.Message, error) { return nil, s.logs[stream].settle(p.current) })
	if err != nil {
		return false, fmt.Errorf("stream %s with watches %v: %w", stream, slices.Sorted(maps.Keys(watches)), err)
	}
	for id := range watches {
		err := compareEvents(stream, id, p.oracle.logs[stream].take(id), p.subject.logs[stream].take(id))
		if err != nil {
			return false, err
		}
	}
	if w, g := p.oracle.logs[stream].unexpectedCancel(), p.subject.logs[stream].unexpectedCancel(); w != g {
		return false, &difference{"cancellation on stream " + stream + ": " + w, g}
	}
	return true, nil
}

func compareEvents(stream string, id int64, want, got []string) error {
	if diff := diffLines(want, got); diff != "" {
		return &difference{
			want: fmt.Sprintf("watch %d on stream %s had %d events", id, stream, len(want)),
			got:  fmt.Sprintf("%d events:\n%s", len(got), strings.TrimRight(diff, "\n")),
		}
	}
	return nil
}

func (p *pair) restart() error {
	if err := p.settleAll(); err != nil {
		return err
	}
	for _, s := range []*side{p.oracle, p.subject} {
		s.cancel()
		s.conn.Close()
		s.server.Kill()
		s.server.Restart()
		s.connect(p.t.Context())
	}
	p.watches = map[string]map[int64]*liveWatch{}
	return nil
}
