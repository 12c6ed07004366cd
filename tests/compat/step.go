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
//	Put key:"a" value:"1"
//	WatchCreate A key:"a" prev_kv:true
//	Settle
//
// A sequence says nothing about answers. So that steps keep their meaning when others are removed, revisions may be
// relative: see relativeTo.
type Step struct {
	Op     string
	Stream string        // which watch stream, for Watch*
	Req    proto.Message // nil for Settle and Restart
}

// Operations that are not unary calls.
const (
	opRangeStream = "RangeStream"
	opKeepAlive   = "LeaseKeepAlive"
	opWatchCreate = "WatchCreate"
	opWatchCancel = "WatchCancel"
	opSettle      = "Settle"  // wait until every watch has had its events and compare them
	opRestart     = "Restart" // kill both servers and start them again; watches end
)

// newRequest returns an empty request for an operation, nil if it has none, and whether the operation exists.
func newRequest(operation string) (req proto.Message, known bool) {
	switch operation {
	case "Range", opRangeStream:
		return new(pb.RangeRequest), true
	case "Put":
		return new(pb.PutRequest), true
	case "DeleteRange":
		return new(pb.DeleteRangeRequest), true
	case "Txn":
		return new(pb.TxnRequest), true
	case "Compact":
		return new(pb.CompactionRequest), true
	case "LeaseGrant":
		return new(pb.LeaseGrantRequest), true
	case "LeaseRevoke":
		return new(pb.LeaseRevokeRequest), true
	case "LeaseTimeToLive":
		return new(pb.LeaseTimeToLiveRequest), true
	case "LeaseLeases":
		return new(pb.LeaseLeasesRequest), true
	case opKeepAlive:
		return new(pb.LeaseKeepAliveRequest), true
	case "HashKV":
		return new(pb.HashKVRequest), true
	case opWatchCreate:
		return new(pb.WatchCreateRequest), true
	case opWatchCancel:
		return new(pb.WatchCancelRequest), true
	case opSettle, opRestart:
		return nil, true
	}
	return nil, false
}

func (s Step) hasStream() bool { return s.Op == opWatchCreate || s.Op == opWatchCancel }

func (s Step) String() string {
	parts := []string{s.Op}
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
	name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	req, known := newRequest(name)
	if !known {
		return Step{}, fmt.Errorf("unknown operation %q", name)
	}
	s := Step{Op: name, Req: req}
	if s.hasStream() {
		s.Stream, rest, _ = strings.Cut(strings.TrimSpace(rest), " ")
	}
	if req == nil {
		return s, nil
	}
	if err := prototext.Unmarshal([]byte(rest), req); err != nil {
		return Step{}, fmt.Errorf("request of %s: %w", name, err)
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
