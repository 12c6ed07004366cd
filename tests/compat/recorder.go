package compat

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/tests/harness"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// answerDeadline is how long a scenario waits for one answer before its transcript says that none came.
const answerDeadline = 15 * time.Second

// chosenLease is the number under which a transcript shows the first lease id that a server chose; the next counts on.
const chosenLease = 500_000

// chosenMember is the same for members.
const chosenMember = 600_000

var showTranscript = flag.Bool("transcript", false, "show etcd's transcript of each scenario")

// Recorder runs one scenario against one server and writes its transcript. A scenario uses it from one goroutine.
type Recorder struct {
	*target
	conn     *grpc.ClientConn
	ctx      context.Context
	text     renderer
	lines    []string
	failures []string // of the scenario itself
}

// compare runs the scenario against etcd and against the subject at the same time, each on a fresh server or, as -endpoint says, on a
// member of a fresh cluster, and fails with the differing steps unless the transcripts are equal.
func compare(t *testing.T, opts harness.Options, scenario func(*Recorder)) {
	t.Helper()
	t.Parallel()
	if !leftOut(t) {
		compareIn(t, chosenRole(t), opts, scenario)
	}
}

// compareIn is compare in one role. If leadership moved by itself, a difference says nothing, and all is done again.
func compareIn(t *testing.T, where role, opts harness.Options, scenario func(*Recorder)) {
	t.Helper()
	for range comparisons - 1 {
		recorders := record(t, where, opts, scenario)
		if !undecided(recorders) {
			report(t, recorders)
			return
		}
		t.Logf("once more: leadership moved, and something differed")
		for _, r := range recorders {
			r.discard()
		}
	}
	report(t, record(t, where, opts, scenario))
}

// record runs the scenario on both sides and returns what etcd's said and what the subject's did.
func record(t *testing.T, where role, opts harness.Options, scenario func(*Recorder)) []*Recorder {
	t.Helper()
	kinds := []harness.Kind{harness.Etcd, harness.Subject()}
	recorders := make([]*Recorder, len(kinds))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i, kind := range kinds {
		g := startTarget(t, kind, where, opts)
		recorders[i] = &Recorder{target: g, conn: g.Dial(), ctx: ctx, text: renderer{aliases: map[int64]int64{}, target: g}}
	}
	done := make(chan struct{})
	for _, r := range recorders {
		go func() {
			defer func() { done <- struct{}{} }() // also after fatal
			scenario(r)
		}()
	}
	for range recorders {
		<-done
	}
	return recorders
}

// differences are what is wrong with a comparison.
func differences(recorders []*Recorder) []string {
	out := slices.Concat(recorders[0].failures, recorders[1].failures)
	if diff := diffLines(recorders[0].lines, recorders[1].lines); diff != "" {
		out = append(out, fmt.Sprintf("etcd (-) and %s (+) differ:\n%s", harness.Subject(), diff))
	}
	if len(recorders[0].lines) == 0 {
		out = append(out, "the scenario recorded nothing")
	}
	return out
}

// undecided reports whether a comparison says nothing.
func undecided(recorders []*Recorder) bool {
	return len(differences(recorders)) > 0 && (recorders[0].moved() || recorders[1].moved())
}

func report(t *testing.T, recorders []*Recorder) {
	t.Helper()
	if *showTranscript {
		t.Log(strings.Join(recorders[0].lines, "\n"))
	}
	for _, text := range differences(recorders) {
		t.Error(text)
	}
}

// Do makes a unary call, records request and answer, and returns the answer, nil after an error.
func (r *Recorder) Do(req proto.Message) proto.Message {
	ctx, cancel := context.WithTimeout(r.ctx, answerDeadline)
	defer cancel()
	return r.DoContext(ctx, req)
}

// DoContext is Do with a context of the caller's.
func (r *Recorder) DoContext(ctx context.Context, req proto.Message) proto.Message {
	path, _ := method(req)
	r.notef("> %s %s", path[strings.LastIndex(path, "/")+1:], r.text.render(req))
	resp, err := invoke(ctx, r.conn, req)
	if err != nil {
		r.notef("! %s", renderError(err))
		return nil
	}
	if grant, ok := resp.(*pb.LeaseGrantResponse); ok && req.(*pb.LeaseGrantRequest).ID == 0 {
		r.notef("the server chose a positive id: %v", grant.ID > 0)
		r.text.aliases[grant.ID] = int64(chosenLease + len(r.text.aliases))
	}
	if add, ok := resp.(*pb.MemberAddResponse); ok {
		if r.text.members == nil {
			r.text.members = map[uint64]uint64{}
		}
		r.text.members[add.Member.ID] = uint64(chosenMember + len(r.text.members))
	}
	r.notef("< %s", r.text.render(resp))
	return resp
}

// DoAll makes the calls in order.
func (r *Recorder) DoAll(reqs ...proto.Message) {
	for _, req := range reqs {
		r.Do(req)
	}
}

// Stream makes a RangeStream call and records its chunks merged, as their sizes are the server's business, and which
// of them carried a header.
func (r *Recorder) Stream(req *pb.RangeRequest) {
	ctx, cancel := context.WithTimeout(r.ctx, answerDeadline)
	defer cancel()
	r.notef("> RangeStream %s", r.text.render(req))
	stream, err := pb.NewKVClient(r.conn).RangeStream(ctx, req)
	if err != nil {
		r.notef("! %s", renderError(err))
		return
	}
	merged, headers, messages := new(pb.RangeResponse), 0, 0
	lastHasHeader := false
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			r.notef("! after %d keys: %s", len(merged.Kvs), renderError(err))
			return
		}
		messages++
		lastHasHeader = resp.RangeResponse.GetHeader() != nil
		if lastHasHeader {
			headers++
		}
		proto.Merge(merged, resp.RangeResponse)
	}
	r.notef("< %s (headers %d, in the last message %v, one message %v)", r.text.render(merged), headers, lastHasHeader, messages == 1)
}

// WithMetadata returns the scenario's context with outgoing metadata.
func (r *Recorder) WithMetadata(pairs ...string) context.Context {
	return metadata.AppendToOutgoingContext(r.ctx, pairs...)
}

// silent records that no answer came in time. A scenario that waits for what etcd does not send is wrong itself.
func (r *Recorder) silent() {
	r.notef("! no answer within %v", answerDeadline)
	if r.server.Kind == harness.Etcd {
		r.failures = append(r.failures, fmt.Sprintf("the scenario waits for an answer that etcd does not send; last steps:\n%s",
			strings.Join(r.lines[max(0, len(r.lines)-8):], "\n")))
	}
}

func (r *Recorder) notef(format string, args ...any) {
	r.lines = append(r.lines, r.rename(fmt.Sprintf(format, args...)))
}

// fatalf ends the scenario.
func (r *Recorder) fatalf(format string, args ...any) {
	r.failures = append(r.failures, fmt.Sprintf("%s: "+format, append([]any{r.server}, args...)...))
	runtime.Goexit()
}

// restart ends the server and starts it again on its data; in a cluster, every member.
func (r *Recorder) restart(kill bool) {
	r.conn.Close()
	r.target.restart(kill)
	r.conn = r.Dial()
}

var shownDifferences = flag.Int("differences", 12, "how many differences of a scenario to show")

const shownContext = 2

// diffLines lists where two transcripts differ, with the lines that led there. Transcripts of one scenario have the
// same shape, so lines are compared one to one.
func diffLines(want, got []string) string {
	var b strings.Builder
	differences := 0
	line := func(lines []string, i int) string {
		if i < len(lines) {
			return lines[i]
		}
		return "(end of transcript)"
	}
	for i := range max(len(want), len(got)) {
		w, g := line(want, i), line(got, i)
		if w == g {
			continue
		}
		if differences++; differences > *shownDifferences {
			continue
		}
		for j := max(0, i-shownContext); j < i; j++ {
			fmt.Fprintf(&b, "  %s\n", line(want, j))
		}
		fmt.Fprintf(&b, "- %s\n+ %s\n\n", w, g)
	}
	if differences > *shownDifferences {
		fmt.Fprintf(&b, "and %d further lines\n", differences-*shownDifferences)
	}
	return b.String()
}

// until waits for a condition that a server reaches in the background.
func (r *Recorder) until(what string, reached func() bool) {
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	deadline := time.NewTimer(answerDeadline)
	defer deadline.Stop()
	for !reached() {
		select {
		case <-poll.C:
		case <-deadline.C:
			r.notef("! within %v it was not reached that %s", answerDeadline, what)
			return
		}
	}
	r.notef("reached: %s", what)
}
