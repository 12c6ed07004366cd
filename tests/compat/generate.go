package compat

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// generator makes a sequence of steps from a seed. It looks at no answers, so that a sequence exists before it runs;
// keys, leases and watch ids are few, so that operations meet each other.
type generator struct {
	rng    *rand.Rand
	n      int // values written so far, which makes them unique
	later  []due
	authOn bool // as far as the generator knows
	signed bool // tokens are
}

// due is a step that comes when others have passed.
type due struct {
	in   int
	step Step
}

var (
	someKeys  = []string{"a", "aa", "ab", "b", "ba", "c", "d", "e", "\x00", "\xff"}
	leaseIDs  = []int64{1, 2, 3, 4, 5}
	streamSet = []string{"A", "B", "C"}
)

// futureStream takes the watches that start in the future: until then no progress can be asked for on their stream.
const futureStream = "F"

// generate returns steps steps and a closing part that makes both servers show all they hold. Of four seeds one leaves
// auth off, and one signs tokens.
func generate(seed uint64, steps int, restarts bool) []Step {
	g := &generator{rng: rand.New(rand.NewPCG(seed, 0xd01e)), signed: seed%4 == 2}
	out := make([]Step, 0, steps)
	if g.signed {
		out = append(out, Step{Op: opSigned})
	}
	if seed%4 != 3 {
		out = append(out, g.population()...)
	}
	for len(out) < steps {
		for i := range g.later {
			g.later[i].in--
		}
		if i := slices.IndexFunc(g.later, func(d due) bool { return d.in <= 0 }); i >= 0 {
			out = append(out, g.later[i].step)
			g.later = slices.Delete(g.later, i, i+1)
			continue
		}
		out = append(out, g.together(restarts)...)
	}
	return append(out, closing()...)
}

// together draws a step, and sometimes some that run at once with it.
func (g *generator) together(restarts bool) []Step {
	steps := []Step{g.step(restarts)}
	if !steps[0].leads() || !g.chance(15) {
		return steps
	}
	for range 1 + g.rng.IntN(5) {
		if s := g.follower(); s.follows() {
			s.Joined = true
			steps = append(steps, s)
		}
	}
	return steps
}

// closing writes past every future start, then reads the whole store at many revisions.
func closing() []Step {
	var out []Step
	unary := func(name string, req proto.Message) { out = append(out, Step{Op: name, User: "root", Req: req}) }
	unary(opLogin, &pb.AuthenticateRequest{Name: "root", Password: password("root")})
	unary("Alarm", &pb.AlarmRequest{})
	for _, member := range alarmMembers {
		unary("Alarm", &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: member, Alarm: pb.AlarmType_NOSPACE})
		unary("Alarm", &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: member, Alarm: pb.AlarmType_CORRUPT})
	}
	for i := range 6 {
		unary("Put", &pb.PutRequest{Key: []byte("closing"), Value: fmt.Append(nil, i)})
	}
	out = append(out, Step{Op: opSettle})
	for back := range int64(30) {
		unary("Range", &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: currentBase - back*back})
	}
	unary(opRangeStream, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	unary("LeaseLeases", &pb.LeaseLeasesRequest{})
	for _, id := range leaseIDs {
		unary("LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
	}
	out = append(out, Step{Op: opWatchCreate, User: "root", Stream: "Z", Req: &pb.WatchCreateRequest{
		Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: compactedBase + 1, PrevKv: true}}, Step{Op: opSettle})
	unary("AuthStatus", &pb.AuthStatusRequest{})
	unary("UserList", &pb.AuthUserListRequest{})
	unary("RoleList", &pb.AuthRoleListRequest{})
	for _, name := range append(someUsers, "root") {
		unary("UserGet", &pb.AuthUserGetRequest{Name: name})
	}
	for _, name := range someRoles {
		unary("RoleGet", &pb.AuthRoleGetRequest{Role: name})
	}
	return out
}

// step draws one step and who makes it; the weights are chances in a thousand.
func (g *generator) step(restarts bool) Step {
	s := g.operationOf(restarts)
	if s.User == "" && s.Req != nil {
		s.User = g.user(50)
	}
	return s
}

func (g *generator) operationOf(restarts bool) Step {
	draw := g.rng.IntN(1000)
	for _, choice := range []struct {
		weight int
		make   func() Step
	}{
		{1, func() Step {
			if restarts {
				if !g.signed {
					g.logins()
				}
				return Step{Op: opRestart}
			}
			return Step{Op: opSettle}
		}},
		{9, func() Step { return Step{Op: opSettle} }},
		{15, func() Step { return Step{Op: "Compact", Req: g.compaction()} }},
		{20, func() Step { return Step{Op: "LeaseGrant", Req: g.grant()} }},
		{15, func() Step { return Step{Op: "LeaseRevoke", Req: &pb.LeaseRevokeRequest{ID: g.lease()}} }},
		{15, func() Step { return Step{Op: opKeepAlive, Req: &pb.LeaseKeepAliveRequest{ID: g.lease()}} }},
		{20, func() Step {
			return Step{Op: "LeaseTimeToLive", Req: &pb.LeaseTimeToLiveRequest{ID: g.lease(), Keys: g.chance(80)}}
		}},
		{10, func() Step { return Step{Op: "LeaseLeases", Req: &pb.LeaseLeasesRequest{}} }},
		{30, g.watchCreate},
		{15, func() Step {
			return Step{Op: opWatchCancel, Stream: g.stream(), Req: &pb.WatchCancelRequest{WatchId: g.rng.Int64N(12)}}
		}},
		{4, g.alarm},
		{100, g.administration},
		{10, func() Step { return Step{Op: "MemberList", Req: &pb.MemberListRequest{Linearizable: g.chance(50)}} }},
		{150, func() Step { return Step{Op: "Range", Req: g.read()} }},
		{25, func() Step { return Step{Op: opRangeStream, Req: g.streamRead()} }},
		{75, func() Step { return Step{Op: "DeleteRange", Req: g.deletion()} }},
		{225, func() Step { return Step{Op: "Put", Req: g.write()} }},
		{1000, func() Step { return Step{Op: "Txn", Req: g.txn(2)} }},
	} {
		if draw < choice.weight {
			return choice.make()
		}
		draw -= choice.weight
	}
	return Step{Op: opSettle}
}

// chance is true in percent of a hundred draws.
func (g *generator) chance(percent int) bool { return g.rng.IntN(100) < percent }

func (g *generator) key() []byte {
	if g.chance(1) {
		return nil
	}
	return []byte(someKeys[g.rng.IntN(len(someKeys))])
}

// interval returns a key and, mostly, nothing or an end; sometimes the end is before the key.
func (g *generator) interval() (key, end []byte) {
	switch key = g.key(); g.rng.IntN(10) {
	case 0:
		return key, []byte{0}
	case 1:
		return []byte{0}, []byte{0}
	case 2, 3, 4:
		end = g.key()
		if string(end) < string(key) && g.chance(80) {
			key, end = end, key
		}
		return key, end
	}
	return key, nil
}

// revision draws around the borders that matter: current, compacted, and none.
func (g *generator) revision() int64 {
	switch g.rng.IntN(8) {
	case 0:
		return currentBase - g.rng.Int64N(4)
	case 1, 2:
		return currentBase - g.rng.Int64N(40)
	case 3:
		return compactedBase + g.rng.Int64N(5) - 2
	case 4:
		return compactedBase + g.rng.Int64N(30)
	case 5:
		return currentBase + g.rng.Int64N(3)
	case 6:
		return g.rng.Int64N(20)
	}
	return -g.rng.Int64N(3)
}

func (g *generator) maybeRevision(percent int) int64 {
	if g.chance(percent) {
		return g.revision()
	}
	return 0
}

func (g *generator) lease() int64 {
	if g.chance(4) {
		return 99 // never granted
	}
	return leaseIDs[g.rng.IntN(len(leaseIDs))]
}

// grant gives every id a time to live of its own, so that their order by remaining time is defined.
func (g *generator) grant() *pb.LeaseGrantRequest {
	id := leaseIDs[g.rng.IntN(len(leaseIDs))]
	seconds := 100_000 + 10_000*id
	if g.chance(3) {
		seconds = 9_000_000_001
	}
	return &pb.LeaseGrantRequest{ID: id, TTL: seconds}
}

func (g *generator) compaction() *pb.CompactionRequest {
	revision := currentBase - g.rng.Int64N(60)
	switch g.rng.IntN(6) {
	case 0:
		revision = compactedBase + g.rng.Int64N(3) - 1
	case 1:
		revision = currentBase + g.rng.Int64N(3) - 1
	}
	return &pb.CompactionRequest{Revision: revision, Physical: g.chance(50)}
}

func (g *generator) read() *pb.RangeRequest {
	key, end := g.interval()
	r := &pb.RangeRequest{Key: key, RangeEnd: end, Revision: g.maybeRevision(35),
		Serializable: g.chance(30), KeysOnly: g.chance(20), CountOnly: g.chance(10)}
	if g.chance(40) {
		r.Limit = g.rng.Int64N(6) - 1
		if g.chance(5) {
			r.Limit = math.MaxInt64
		}
	}
	if g.chance(40) {
		r.SortOrder = pb.RangeRequest_SortOrder(g.rng.IntN(3))
		r.SortTarget = pb.RangeRequest_SortTarget(g.rng.IntN(5))
	}
	if g.chance(20) {
		r.MinModRevision, r.MaxModRevision = g.maybeRevision(50), g.maybeRevision(50)
		r.MinCreateRevision, r.MaxCreateRevision = g.maybeRevision(50), g.maybeRevision(50)
	}
	if g.chance(1) {
		r.SortOrder = 7
	}
	return r
}

// streamRead leaves out the orders that etcd's stream refuses or garbles, mostly.
func (g *generator) streamRead() *pb.RangeRequest {
	r := g.read()
	if r.SortTarget != pb.RangeRequest_KEY && r.SortOrder == pb.RangeRequest_NONE {
		r.SortTarget = pb.RangeRequest_KEY
	}
	return r
}

func (g *generator) value() []byte {
	g.n++
	if g.chance(30) {
		return fmt.Append(nil, g.rng.IntN(3)) // equal values, for compares and sorting
	}
	return fmt.Append(nil, "v", g.n)
}

func (g *generator) write() *pb.PutRequest {
	r := &pb.PutRequest{Key: g.key(), Value: g.value(), PrevKv: g.chance(30)}
	if g.chance(25) {
		r.Lease = g.lease()
	}
	if g.chance(8) {
		r.IgnoreValue = true
		if g.chance(90) {
			r.Value = nil
		}
	}
	if g.chance(8) {
		r.IgnoreLease = true
		if g.chance(90) {
			r.Lease = 0
		}
	}
	return r
}

func (g *generator) deletion() *pb.DeleteRangeRequest {
	key, end := g.interval()
	return &pb.DeleteRangeRequest{Key: key, RangeEnd: end, PrevKv: g.chance(40)}
}

func (g *generator) stream() string {
	if g.chance(20) {
		return futureStream
	}
	return streamSet[g.rng.IntN(len(streamSet))]
}

func (g *generator) watchCreate() Step {
	key, end := g.interval()
	r := &pb.WatchCreateRequest{Key: key, RangeEnd: end, PrevKv: g.chance(50), Fragment: g.chance(30), ProgressNotify: g.chance(20)}
	if g.chance(50) {
		r.WatchId = g.rng.Int64N(12)
	}
	for _, f := range []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT, pb.WatchCreateRequest_NODELETE} {
		if g.chance(12) {
			r.Filters = append(r.Filters, f)
		}
	}
	stream := g.stream()
	switch {
	case stream == futureStream:
		// The previous value is read when the event is sent; nothing says when that is on a stream without progress.
		r.StartRevision, r.PrevKv = currentBase+1+g.rng.Int64N(5), false
	case g.chance(25):
		r.StartRevision = min(g.revision(), currentBase)
		if r.StartRevision > 0 && r.StartRevision < currentBase-relativeReach {
			r.StartRevision = compactedBase - 1 // small numbers may lie in the future
		}
	case g.chance(15):
		r.StartRevision = compactedBase + g.rng.Int64N(4) - 2
	}
	return Step{Op: opWatchCreate, Stream: stream, Req: r}
}
