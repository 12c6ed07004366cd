package compat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/tests/harness"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// side is one of the two servers of a pair.
type side struct {
	*target
	conn   *grpc.ClientConn
	ctx    context.Context // of the watch streams; ends with a restart
	cancel context.CancelFunc
	logs   map[string]*watchLog

	mu     sync.Mutex
	tokens map[string]string // by user; of the last login, whether it still holds or not
}

// pair runs steps on etcd and on the subject and compares after each. It knows of the stores what etcd's answers tell.
type pair struct {
	t         *testing.T
	oracle    *side
	subject   *side
	current   int64 // revision
	compacted int64
	watches   map[string]map[int64]*liveWatch // by stream and id
	alarmed   bool                            // alarms may be on
	signed    bool                            // tokens are

	counts struct {
		sync.Mutex
		answers, errors int
	}
}

type liveWatch struct{ start int64 }

// difference is where the two servers part.
type difference struct{ want, got string }

func (d *difference) Error() string {
	return fmt.Sprintf("- etcd:    %s\n+ subject: %s", d.want, d.got)
}

// newPair starts etcd and a server of the given kind, which may get further flags, or a cluster of each. With signed
// tokens, these are made with a secret that both know.
func newPair(t *testing.T, where role, kind harness.Kind, signed bool, args ...string) *pair {
	t.Helper()
	common := []string{cheapPasswords}
	if signed {
		secret := secretFile(t)
		common = append(common, "--auth-token=jwt,sign-method=HS256,ttl=10h,priv-key="+secret)
	}
	start := func(kind harness.Kind, args ...string) *side {
		s := &side{target: startTarget(t, kind, where, harness.Options{Args: append(args, common...)}),
			tokens: map[string]string{badUser: "nonsense.1"}}
		s.connect(t.Context())
		return s
	}
	return &pair{t: t, oracle: start(harness.Etcd), subject: start(kind, args...), signed: signed,
		current: 1, compacted: -1, watches: map[string]map[int64]*liveWatch{}}
}

// secretFile is a file whose name has none of the characters that --auth-token is split at, as a test's name may.
func secretFile(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "compat")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "secret")
	if err := os.WriteFile(path, []byte("known to both"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (s *side) connect(ctx context.Context) {
	s.conn = s.Dial()
	s.ctx, s.cancel = context.WithCancel(ctx)
	s.logs = map[string]*watchLog{}
}

// close ends both servers and removes their data.
func (p *pair) close() {
	for _, s := range []*side{p.oracle, p.subject} {
		s.cancel()
		s.conn.Close()
		s.discard()
	}
}

// run runs the steps until one shows a difference, and returns its index and what differed.
func (p *pair) run(steps []Step) (index int, err error) {
	for i := 0; i < len(steps); {
		n := i + 1
		for steps[i].leads() && n < len(steps) && steps[n].Joined && steps[n].follows() {
			n++
		}
		at := i
		if n == i+1 {
			err = p.step(steps[i])
		} else {
			at, err = p.together(steps[i:n])
			at += i
		}
		if err != nil {
			for _, side := range []*side{p.oracle, p.subject} {
				if last, died := side.died(); died {
					err = fmt.Errorf("%w\n%s", err, last)
				}
			}
			return at, err
		}
		i = n
	}
	return 0, nil
}

func (p *pair) step(s Step) error {
	switch s.Op {
	case opSettle:
		return p.settleAll()
	case opRestart:
		return p.restart()
	case opSigned:
		return nil // was looked at when the servers were started
	case opWatchCreate:
		return p.createWatch(s, relativeTo(p.current, p.compacted, s.Req).(*pb.WatchCreateRequest))
	case opWatchCancel:
		return p.cancelWatch(s.Stream, s.Req.(*pb.WatchCancelRequest).WatchId)
	case "Compact":
		// What a watch still has to read must not be compacted on one side only.
		if err := p.settleAll(); err != nil {
			return err
		}
	}
	s.Req = relativeTo(p.current, p.compacted, s.Req)
	resp, err := p.both(func(side *side) (proto.Message, error) { return side.call(s, side.known()) })
	if err != nil {
		return err
	}
	p.learn(s.Req, resp)
	return nil
}

// together runs steps at once, on each side, and compares their answers without the revisions of their headers but for
// the first, which alone may change keys.
func (p *pair) together(steps []Step) (index int, err error) {
	errs := make([]error, len(steps))
	var first proto.Message
	var running sync.WaitGroup
	current, compacted := p.current, p.compacted
	oracle, subject := p.oracle.known(), p.subject.known() // a login among them is for later steps
	for i, s := range steps {
		s.Req = relativeTo(current, compacted, s.Req)
		if r, ok := s.Req.(*pb.RangeRequest); ok && i > 0 {
			r.Revision = max(r.Revision, 1) // below, it would mean the newest
		}
		running.Go(func() {
			resp, err := p.both(func(side *side) (proto.Message, error) {
				tokens := oracle
				if side == p.subject {
					tokens = subject
				}
				resp, err := side.call(s, tokens)
				if h, ok := resp.(interface{ GetHeader() *pb.ResponseHeader }); ok && err == nil && i > 0 && h.GetHeader() != nil {
					h.GetHeader().Revision = 0
				}
				return resp, err
			})
			if errs[i] = err; i == 0 {
				first = resp
			}
		})
	}
	running.Wait()
	for i, err := range errs {
		if err != nil {
			return i, err
		}
	}
	p.learn(steps[0].Req, first)
	return 0, nil
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
	p.count(err)
	if err == nil && got.err == nil && proto.Equal(resp, got.resp) {
		return resp, nil
	}
	show := func(s *side, a answer) string {
		if a.err != nil {
			return s.rename(renderError(a.err))
		}
		text := renderer{target: s.target}
		return text.render(a.resp)
	}
	if w, g := show(p.oracle, answer{resp, err}), show(p.subject, got); w != g {
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

func (p *pair) count(err error) {
	p.counts.Lock()
	defer p.counts.Unlock()
	if err == nil {
		p.counts.answers++
	} else {
		p.counts.errors++
	}
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
	switch r := req.(type) {
	case *pb.CompactionRequest:
		if resp != nil {
			p.compacted = r.Revision
		}
	case *pb.AlarmRequest:
		p.alarmed = p.alarmed || r.Action == pb.AlarmRequest_ACTIVATE
	}
}

// badUser is a user whose token nobody made.
const badUser = "bad"

// known returns the tokens of all users who logged in.
func (s *side) known() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.tokens)
}

// as adds a user's token, if there is one.
func as(ctx context.Context, tokens map[string]string, user string) context.Context {
	if t, ok := tokens[user]; ok {
		return metadata.AppendToOutgoingContext(ctx, "token", t)
	}
	return ctx
}

// call makes the request of a step other than a watch, with its user's token.
func (s *side) call(step Step, tokens map[string]string) (proto.Message, error) {
	ctx, cancel := context.WithTimeout(s.ctx, answerDeadline)
	defer cancel()
	ctx = as(ctx, tokens, step.User)
	switch req := step.Req; step.Op {
	case opRangeStream:
		return rangeStream(ctx, s.conn, req.(*pb.RangeRequest))
	case opLogin:
		resp, err := invoke(ctx, s.conn, req)
		if err == nil {
			s.mu.Lock()
			s.tokens[req.(*pb.AuthenticateRequest).Name] = resp.(*pb.AuthenticateResponse).Token
			s.mu.Unlock()
		}
		return resp, err
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
	return invoke(ctx, s.conn, step.Req)
}

// administer makes a request that a sequence does not hold, as root if auth is on.
func (s *side) administer(req proto.Message) (proto.Message, error) {
	ctx, cancel := context.WithTimeout(s.ctx, answerDeadline)
	defer cancel()
	login, err := pb.NewAuthClient(s.conn).Authenticate(ctx, &pb.AuthenticateRequest{Name: "root", Password: password("root")})
	if err == nil {
		ctx = metadata.AppendToOutgoingContext(ctx, "token", login.Token)
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

func (p *pair) restart() error {
	if err := p.settleAll(); err != nil {
		return err
	}
	for _, s := range []*side{p.oracle, p.subject} {
		s.cancel()
		s.conn.Close()
		s.restart(true)
		s.connect(p.t.Context())
		if !p.signed {
			// A restart ends tokens; but in etcd one that is younger than its backend's last commit lives on.
			s.tokens = map[string]string{badUser: s.tokens[badUser]}
		}
	}
	p.watches = map[string]map[int64]*liveWatch{}
	return nil
}
