package compat

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Step is one operation of a sequence that two servers run side by side. As text it is one line:
//
//	Put @u1 key:"a" value:"1"
//	& Range @u2 key:"b" revision:1000000000
//	WatchCreate @u1 A key:"a" prev_kv:true
//	Settle
//
// A sequence says nothing about answers. So that steps keep their meaning when others are removed, revisions may be
// relative: see relativeTo.
type Step struct {
	Op     string
	User   string        // whose token goes with the request, if that user ever logged in; "" = none
	Joined bool          // runs at once with the step before, if both may: see leads and follows
	Stream string        // which watch stream, for Watch*; it keeps the token with which it was opened
	Req    proto.Message // nil for Settle, Restart and Signed
}

// Operations that are not unary calls.
const (
	opRangeStream = "RangeStream"
	opKeepAlive   = "LeaseKeepAlive"
	opWatchCreate = "WatchCreate"
	opWatchCancel = "WatchCancel"
	opSettle      = "Settle"  // wait until every watch has had its events and compare them
	opRestart     = "Restart" // kill both servers and start them again; watches end
	opLogin       = "Login"   // Authenticate, and keep the token for the user's further steps
	opSigned      = "Signed"  // as the first step: tokens are signed, and hold the revision of users and roles
)

// newRequest returns an empty request for an operation, nil if it has none, and whether the operation exists.
func newRequest(operation string) (req proto.Message, known bool) {
	switch operation {
	case opRangeStream:
		return new(pb.RangeRequest), true
	case opKeepAlive:
		return new(pb.LeaseKeepAliveRequest), true
	case opLogin:
		return new(pb.AuthenticateRequest), true
	case opWatchCreate:
		return new(pb.WatchCreateRequest), true
	case opWatchCancel:
		return new(pb.WatchCancelRequest), true
	case opSettle, opRestart, opSigned:
		return nil, true
	}
	for _, m := range etcdRPCs() {
		if m.unary() && strings.HasSuffix(m.path, "/"+operation) {
			return m.input.New().Interface(), true
		}
	}
	return nil, false
}

func (s Step) hasStream() bool { return s.Op == opWatchCreate || s.Op == opWatchCancel }

// leads reports whether other requests may run at once with this one: it changes at most keys, and at most the newest
// revision.
func (s Step) leads() bool {
	switch s.Op {
	case "Put", "DeleteRange", "Txn", "Range":
		return true
	}
	return s.follows()
}

// follows reports whether the answer does not depend on a change of keys at the same time, but for the store's revision
// in its header, and changes nothing itself.
func (s Step) follows() bool {
	switch s.Op {
	case "UserGet", "UserList", "RoleGet", "RoleList", "AuthStatus", opLogin, "MemberList":
		return true
	case "Range", opRangeStream:
		r := s.Req.(*pb.RangeRequest).GetRevision()
		return r > currentBase-relativeReach && r <= currentBase
	}
	return false
}

func (s Step) String() string {
	var parts []string
	if s.Joined {
		parts = append(parts, "&")
	}
	parts = append(parts, s.Op)
	if s.User != "" {
		parts = append(parts, "@"+s.User)
	}
	if s.hasStream() {
		parts = append(parts, s.Stream)
	}
	if s.Req != nil {
		text := prototext.MarshalOptions{}.Format(s.Req)
		parts = append(parts, strings.Join(strings.Fields(text), " "))
	}
	return strings.TrimSpace(strings.Join(parts, " "))
}

// parseStep reads what String writes.
func parseStep(line string) (Step, error) {
	var s Step
	rest := strings.TrimSpace(line)
	word := func() (w string) {
		w, rest, _ = strings.Cut(rest, " ")
		rest = strings.TrimSpace(rest)
		return w
	}
	if s.Op = word(); s.Op == "&" {
		s.Joined, s.Op = true, word()
	}
	req, known := newRequest(s.Op)
	if !known {
		return Step{}, fmt.Errorf("unknown operation %q", s.Op)
	}
	s.Req = req
	if strings.HasPrefix(rest, "@") {
		s.User = word()[1:]
	}
	if s.hasStream() {
		s.Stream = word()
	}
	if req == nil {
		return s, nil
	}
	if err := prototext.Unmarshal([]byte(rest), req); err != nil {
		return Step{}, fmt.Errorf("request of %s: %w", s.Op, err)
	}
	return s, nil
}

// parseSteps reads a sequence; empty lines and lines that begin with # are ignored.
func parseSteps(r io.Reader) ([]Step, error) {
	var steps []Step
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 4<<20)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		s, err := parseStep(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		steps = append(steps, s)
	}
	return steps, lines.Err()
}

func formatSteps(steps []Step) string {
	var b strings.Builder
	for _, s := range steps {
		fmt.Fprintln(&b, s)
	}
	return b.String()
}

// Revisions near these two stand for ones relative to the store's: currentBase-3 is the current revision less three,
// compactedBase+1 the one after the compacted revision. Real sequences stay far below both.
const (
	currentBase   = 1_000_000_000
	compactedBase = 2_000_000_000
	relativeReach = 100_000_000
)

// relativeTo returns req with its relative revisions replaced by real ones.
func relativeTo(current, compacted int64, req proto.Message) proto.Message {
	req = proto.Clone(req)
	rewrite(req.ProtoReflect(), func(fd protoreflect.FieldDescriptor, v protoreflect.Value) protoreflect.Value {
		if fd.Kind() != protoreflect.Int64Kind || !strings.HasSuffix(string(fd.Name()), "revision") {
			return v
		}
		switch n := v.Int(); {
		case n > currentBase-relativeReach && n < currentBase+relativeReach:
			return protoreflect.ValueOfInt64(current + n - currentBase)
		case n > compactedBase-relativeReach && n < compactedBase+relativeReach:
			return protoreflect.ValueOfInt64(compacted + n - compactedBase)
		}
		return v
	})
	return req
}
