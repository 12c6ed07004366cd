package state

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/auth"
	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/memory"
	"github.com/dolmen-io/dolmen/internal/lease"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/mvcc"
	"github.com/dolmen-io/dolmen/internal/watch"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

var testConfig = Config{MinTTL: 2, MaxLearners: 1}

func openEngine(t testing.TB) engine.Engine {
	eng, err := memory.Open(t.TempDir(), memory.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, eng.Close()) })
	return eng
}

func open(t testing.TB, eng engine.Engine) *State {
	s, err := Open(eng, testConfig)
	require.NoError(t, err)
	return s
}

// scenario is one state over a memory engine that a file of commands drives.
type scenario struct {
	t     *testing.T
	eng   engine.Engine
	state *State
	pins  map[string]*View
}

// TestScenarios runs testdata. The commands are:
//
//	apply                   a turn; each line of input is an entry: an InternalRaftRequest as prototext, "empty", or
//	                        "conf <kind> <id> <context as JSON>"; "as <user> <revision> " before a request says who asks
//	range key=a [end=b] [rev=n]     read the newest view
//	history from=n          the events up to the newest revision
//	pin name=x, unpin name=x        hold a view, let it go
//	pinned name=x key=a [end=b] [rev=n]  read a held view
//	remove limit=n          a step of compaction
//	reopen                  a new state from the engine's content, leases first
//	leases, members, alarms the tables
//	check user=u            whether u may run the read-only transaction of the input
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		eng := openEngine(t)
		s := &scenario{t: t, eng: eng, state: open(t, eng), pins: map[string]*View{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.t = t
			return s.run(d)
		})
	})
}

func (s *scenario) run(d *datadriven.TestData) string {
	switch d.Cmd {
	case "apply":
		return s.apply(d.Input)
	case "range":
		v := s.state.View()
		defer v.Release()
		return readView(v, d)
	case "history":
		return s.history(int64(number(d, "from")))
	case "pin":
		s.pins[text(d, "name")] = s.state.View()
		return ""
	case "unpin":
		s.pins[text(d, "name")].Release()
		return ""
	case "pinned":
		return readView(s.pins[text(d, "name")], d)
	case "remove":
		r, err := s.state.RemoveSome(number(d, "limit"), true)
		require.NoError(s.t, err)
		return fmt.Sprintf("removed %d finished %d waiting %v due %v\n", r.Removed, r.Finished, r.Waiting, s.state.RemovalDue())
	case "reopen":
		s.state = open(s.t, s.eng)
		return formatApplied(s.state.Applied()) + formatLeases(s.state.LoadedLeases())
	}
	return s.table(d)
}

func (s *scenario) table(d *datadriven.TestData) string {
	v := s.state.View()
	defer v.Release()
	var b strings.Builder
	switch d.Cmd {
	case "leases":
		for _, c := range open(s.t, s.eng).LoadedLeases() {
			fmt.Fprintf(&b, "%d ttl %d remaining %d keys %v\n", c.Lease.ID, c.Lease.TTL, c.Lease.Remaining, s.state.Leases().Keys(c.Lease.ID))
		}
	case "members":
		b.WriteString(formatMembers(v.Members.Members()))
		fmt.Fprintf(&b, "version %q downgrade %+v\n", v.Members.Version(), v.Members.Downgrade())
	case "check":
		// A transaction that only reads, as its own member checks it.
		req := &pb.TxnRequest{}
		require.NoError(s.t, prototext.Unmarshal([]byte(d.Input), req))
		fmt.Fprintln(&b, v.CheckTxn(v.Auth.Identity(text(d, "user")), req))
	case "alarms":
		for _, a := range v.Alarms.Alarms {
			fmt.Fprintf(&b, "%d %v\n", a.Member, a.Type)
		}
	default:
		d.Fatalf(s.t, "unknown command %q", d.Cmd)
	}
	return b.String()
}

// entries makes entries that follow the applied one. Odd ones come encoded, even ones decoded, as from
// other members and from this one; both must have the same effect.
func entries(t testing.TB, after Applied, lines []string) []Entry {
	es := make([]Entry, len(lines))
	term := max(after.Term, 1)
	for i, line := range lines {
		if line == "empty" {
			term++
		}
		e := &es[i]
		e.Index, e.Term = after.Index+1+uint64(i), term
		if line == "empty" {
			continue
		}
		if rest, ok := strings.CutPrefix(line, "conf "); ok {
			e.Conf = confChange(t, rest, e.Index)
			continue
		}
		header := &pb.RequestHeader{ID: e.Index}
		if rest, ok := strings.CutPrefix(line, "as "); ok {
			_, err := fmt.Sscan(rest, &header.Username, &header.AuthRevision)
			require.NoError(t, err, line)
			line = strings.SplitN(rest, " ", 3)[2]
		}
		req := &pb.InternalRaftRequest{}
		require.NoError(t, prototext.Unmarshal([]byte(line), req), line)
		req.Header = header
		if e.Index%2 == 0 {
			e.Request = req
			continue
		}
		var err error
		e.Data, err = proto.Marshal(req)
		require.NoError(t, err)
	}
	return es
}

func confChange(t testing.TB, line string, id uint64) *raftpb.ConfChange {
	part := strings.SplitN(line, " ", 3)
	kind, ok := map[string]raftpb.ConfChangeType{
		"add": raftpb.ConfChangeAddNode, "learner": raftpb.ConfChangeAddLearnerNode,
		"remove": raftpb.ConfChangeRemoveNode, "update": raftpb.ConfChangeUpdateNode,
	}[part[0]]
	require.True(t, ok, line)
	node, err := strconv.ParseUint(part[1], 10, 64)
	require.NoError(t, err)
	cc := &raftpb.ConfChange{Id: proto.Uint64(id), Type: kind.Enum(), NodeId: proto.Uint64(node)}
	if len(part) == 3 {
		cc.Context = []byte(part[2])
	}
	return cc
}

func (s *scenario) apply(input string) string {
	turn, err := s.state.Apply(entries(s.t, s.state.Applied(), strings.Split(input, "\n")))
	if err != nil {
		return "failure: " + err.Error() + "\n"
	}
	var b strings.Builder
	for _, o := range turn.Outcomes {
		fmt.Fprintf(&b, "#%d %s\n", o.ID, formatResult(o.Result))
	}
	for _, e := range turn.Events {
		b.WriteString(formatEvent(e))
	}
	b.WriteString(formatLeases(turn.Leases))
	for _, c := range turn.Auth {
		fmt.Fprintf(&b, "  auth change %d %s\n", c.Kind, c.Login.User)
	}
	for _, c := range turn.Confs {
		fmt.Fprintf(&b, "conf %v %d rejected %v\n", c.GetType(), c.GetNodeId(), c.Rejected)
	}
	return b.String() + formatApplied(turn.View.Applied)
}

func readView(v *View, d *datadriven.TestData) string {
	o := mvcc.RangeOptions{Key: []byte(text(d, "key")), Revision: int64(number(d, "rev"))}
	if end := text(d, "end"); end != "" {
		o.End = []byte(end)
	}
	res, err := v.KV.Range(o)
	if err != nil {
		return err.Error() + "\n"
	}
	return formatRange(&res) + "\n"
}

func (s *scenario) history(from int64) string {
	var b strings.Builder
	current, _ := s.state.Revisions()
	err := s.state.Events(from, current, []byte{0}, []byte{0}, func(e watch.Event) bool {
		b.WriteString(formatEvent(e))
		return true
	})
	if err != nil {
		fmt.Fprintln(&b, err)
	}
	return b.String()
}

// text returns an argument, or "" if it is not given.
func text(d *datadriven.TestData, key string) string {
	for _, arg := range d.CmdArgs {
		if arg.Key == key {
			return arg.Vals[0]
		}
	}
	return ""
}

// number returns an argument that is a number, or 0 if it is not given.
func number(d *datadriven.TestData, key string) int {
	n, _ := strconv.Atoi(text(d, key))
	return n
}

func formatResult(r Result) string {
	if r.Err != nil {
		return fmt.Sprintf("rejected: %v", r.Err)
	}
	head := fmt.Sprintf("rev %d", r.Revision)
	switch res := r.Response.(type) {
	case nil:
		return head
	case *PutResponse:
		return head + formatPut(res)
	case *DeleteResponse:
		return head + formatDelete(res)
	case *TxnResponse:
		return head + " " + formatTxn(res)
	case mvcc.RangeResult:
		return head + " " + formatRange(&res)
	case LeaseResponse:
		return fmt.Sprintf("%s lease %d ttl %d", head, res.ID, res.TTL)
	case AlarmResponse:
		return fmt.Sprintf("%s alarms %v", head, res.Alarms)
	case AuthStatusResponse:
		return fmt.Sprintf("%s enabled %v auth revision %d", head, res.Enabled, res.Revision)
	case auth.Login:
		return fmt.Sprintf("%s login %s revision %d token %s.%d", head, res.User, res.Revision, res.Prefix, res.Index)
	case NamesResponse:
		return fmt.Sprintf("%s names %v", head, res.Names)
	case PermissionsResponse:
		for _, p := range res.Permissions {
			head += fmt.Sprintf(" %d[%q,%q)", p.Access, p.Key, p.End)
		}
		return head
	case MembersResponse:
		return fmt.Sprintf("%d members", len(res.Members))
	}
	return fmt.Sprintf("unknown response %T", r.Response)
}

func formatPut(r *PutResponse) string {
	if r.Prev == nil {
		return ""
	}
	return " prev " + formatKV(r.Prev)
}

func formatDelete(r *DeleteResponse) string {
	s := fmt.Sprintf(" deleted %d", r.Deleted)
	for _, kv := range r.Prev {
		s += " " + formatKV(kv)
	}
	return s
}

func formatTxn(r *TxnResponse) string {
	parts := make([]string, len(r.Ops))
	for i, op := range r.Ops {
		switch {
		case op.Put != nil:
			parts[i] = fmt.Sprintf("put@%d%s", op.Revision, formatPut(op.Put))
		case op.Delete != nil:
			parts[i] = fmt.Sprintf("delete@%d%s", op.Revision, formatDelete(op.Delete))
		case op.Range != nil:
			parts[i] = fmt.Sprintf("range@%d %s", op.Range.Revision, formatRange(op.Range))
		case op.Txn != nil:
			parts[i] = formatTxn(op.Txn)
		default:
			parts[i] = "nothing"
		}
	}
	return fmt.Sprintf("%v[%s]", r.Succeeded, strings.Join(parts, "; "))
}

func formatRange(r *mvcc.RangeResult) string {
	s := fmt.Sprintf("count %d", r.Count)
	for _, kv := range r.KVs {
		s += " " + formatKV(kv)
	}
	return s
}

// formatKV gives "key=value/create.mod.version", with "!lease" behind it if there is one.
func formatKV(b []byte) string {
	kv, err := mvcc.DecodeKeyValue(b)
	if err != nil {
		return err.Error()
	}
	s := fmt.Sprintf("%s=%s/%d.%d.%d", kv.Key, kv.Value, kv.Create, kv.Mod, kv.Ver)
	if kv.LeaseID != 0 {
		s += fmt.Sprintf("!%d", kv.LeaseID)
	}
	return s
}

func formatEvent(e watch.Event) string {
	kind := "put"
	if e.Delete {
		kind = "delete"
	}
	s := fmt.Sprintf("  event %d.%d %s %s", e.Main, e.Sub, kind, formatKV(e.KV))
	if e.Prev != nil {
		s += " prev " + formatKV(e.Prev)
	}
	return s + "\n"
}

func formatLeases(changes []lease.Change) string {
	var b strings.Builder
	for _, c := range changes {
		kind := map[lease.ChangeKind]string{lease.Granted: "granted", lease.Revoked: "revoked", lease.Checkpointed: "checkpoint"}[c.Kind]
		fmt.Fprintf(&b, "  lease %d %s ttl %d remaining %d\n", c.Lease.ID, kind, c.Lease.TTL, c.Lease.Remaining)
	}
	return b.String()
}

func formatMembers(ms []membership.Member) string {
	var b strings.Builder
	for _, m := range ms {
		fmt.Fprintf(&b, "%d %q peers %v clients %v learner %v\n", m.ID, m.Name, m.PeerURLs, m.ClientURLs, m.IsLearner)
	}
	return b.String()
}

func formatApplied(a Applied) string {
	return fmt.Sprintf("applied %d term %d voters %v learners %v\n", a.Index, a.Term, a.Conf.GetVoters(), a.Conf.GetLearners())
}
