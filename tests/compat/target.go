package compat

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/dolmen-io/dolmen/tests/harness"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Intervals of the members of a cluster: leadership should not move when the machine is busy for a second.
const (
	heartbeat = 100 * time.Millisecond
	election  = 3 * time.Second
)

// comparisons is how often one is made at most: again only if leadership moved and there was a difference.
const comparisons = 4

// target is what one side of a comparison runs: a server that stands alone, or a cluster of three, of which the
// comparison talks to one.
type target struct {
	t       *testing.T
	role    role
	server  *harness.Server   // who is talked to
	cluster *harness.Cluster  // nil for a server that stands alone
	members []*harness.Server // in the order of memberNames; nil for a server that stands alone
	ids     []uint64          // of members
	conns   []*grpc.ClientConn
	moves   bool     // leadership moves because the scenario wants it
	term    uint64   // when the comparison began, or the members were last started
	aliases []string // what is shown instead of what, in pairs
	names   *strings.Replacer
}

// memberNames are what members of a cluster are shown as: the leader, a follower, which is the one that is talked to if one is,
// and the other follower.
var memberNames = []string{"leader", "follower", "other"}

// startTarget starts what a comparison in a role talks to.
func startTarget(t *testing.T, kind harness.Kind, where role, opts harness.Options) *target {
	t.Helper()
	opts.NoFsync = true
	if where == alone {
		return &target{t: t, server: harness.Start(t, kind, opts)}
	}
	g := &target{t: t, role: where, cluster: harness.StartCluster(t, kind, len(memberNames),
		harness.ClusterOptions{Options: opts, Heartbeat: heartbeat, Election: election})}
	g.members = slices.Clone(g.cluster.Members)
	g.dial()
	led := g.settle(nil)
	g.members[0], g.members[led] = g.members[led], g.members[0]
	g.conns[0], g.conns[led] = g.conns[led], g.conns[0]
	g.server = g.members[0]
	if where == follower {
		g.server = g.members[1]
	}
	g.name()
	return g
}

// Dial opens a connection to the member that is talked to.
func (g *target) Dial() *grpc.ClientConn { return g.server.Dial() }

func (g *target) dial() {
	for _, c := range g.conns {
		c.Close()
	}
	g.conns = nil
	for _, m := range g.members {
		g.conns = append(g.conns, m.Dial())
	}
}

// statuses asks every member, nil if one does not answer.
func (g *target) statuses(ctx context.Context) []*pb.StatusResponse {
	ctx, cancel := context.WithTimeout(ctx, answerDeadline)
	defer cancel()
	if out := g.statusesAs(ctx); out != nil {
		return out
	}
	return g.statusesAs(g.admin(ctx))
}

func (g *target) statusesAs(ctx context.Context) []*pb.StatusResponse {
	var out []*pb.StatusResponse
	for _, c := range g.conns {
		st, err := pb.NewMaintenanceClient(c).Status(ctx, &pb.StatusRequest{})
		if err != nil {
			return nil
		}
		out = append(out, st)
	}
	return out
}

// admin is a context of root's, if there are users.
func (g *target) admin(ctx context.Context) context.Context {
	login, err := pb.NewAuthClient(g.conns[0]).Authenticate(ctx, &pb.AuthenticateRequest{Name: "root", Password: password("root")})
	if err != nil {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "token", login.Token)
}

// settle waits until all members agree on who leads, and moves leadership to wanted unless that is nil. It returns the leader's
// place among the members.
func (g *target) settle(wanted *uint64) (led int) {
	g.t.Helper()
	deadline := time.Now().Add(startDeadline)
	for time.Now().Before(deadline) {
		all := g.statuses(g.t.Context())
		led := slices.IndexFunc(all, func(st *pb.StatusResponse) bool { return st.Header.MemberId == all[0].Leader })
		agreed := led >= 0 && !slices.ContainsFunc(all, func(st *pb.StatusResponse) bool {
			return st.Leader != all[0].Leader || st.RaftTerm != all[0].RaftTerm
		})
		if agreed && (wanted == nil || *wanted == all[0].Leader) {
			g.term = all[0].RaftTerm
			return led
		}
		if agreed {
			ctx, cancel := context.WithTimeout(g.admin(g.t.Context()), answerDeadline)
			_, err := pb.NewMaintenanceClient(g.conns[led]).MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: *wanted})
			cancel()
			if err != nil {
				g.t.Logf("%s: move leadership back: %v", g.cluster.Kind, err)
			}
			continue
		}
		<-time.After(pollInterval)
	}
	g.t.Errorf("%s: the members did not agree on a leader within %v", g.cluster.Kind, startDeadline)
	return 0
}

const startDeadline = time.Minute

// name takes note of what is shown by name.
func (g *target) name() {
	for i, st := range g.statuses(g.t.Context()) {
		name, id := memberNames[i], st.Header.MemberId
		g.ids = append(g.ids, id)
		if i == 0 {
			g.aliases = append(g.aliases, numbers(st.Header.ClusterId, "cluster")...)
		}
		own := fmt.Sprintf("m%d", slices.Index(g.cluster.Members, g.members[i]))
		g.aliases = append(append(g.aliases, numbers(id, name)...), shownAs(g.members[i], own, name)...)
	}
	g.names = strings.NewReplacer(g.aliases...)
}

// numbers are an id as the protocol's texts have it, and what is shown for it.
func numbers(id uint64, name string) []string {
	return []string{strconv.FormatUint(id, 10), "id-of-" + name, strconv.FormatUint(id, 16), "hex-of-" + name}
}

// follows reports whether a member of a cluster is not the one that leads.
func (g *target) follows(id uint64) bool { return g != nil && g.cluster != nil && id != g.ids[0] }

// extension is by how many seconds a new leader makes leases live longer.
func (g *target) extension() int64 {
	if g == nil || g.cluster == nil {
		return 0 // less than one
	}
	return int64(election / time.Second)
}

// self is the id of the member that is talked to.
func (g *target) self() uint64 { return g.ids[slices.Index(g.members, g.server)] }

// peerURL is what the member that is talked to advertises to others.
func (g *target) peerURL() string {
	if g.cluster == nil {
		return harness.AdvertisedPeer
	}
	return g.server.PeerURL()
}

var termText = regexp.MustCompile(`(raft_term:|raftTerm:|"raft_term":"|"raftTerm":")([0-9]+)`)

// rename returns a text with the ids, names and addresses of members that depend on the run replaced by their roles, and terms
// relative to the one when the comparison began. Nothing is replaced for a server that stands alone, which has the
// same on both sides.
func (g *target) rename(text string) string {
	if g == nil || g.cluster == nil {
		return text
	}
	text = g.names.Replace(text)
	return termText.ReplaceAllStringFunc(text, func(found string) string {
		parts := termText.FindStringSubmatch(found)
		term, err := strconv.ParseUint(parts[2], 10, 64)
		if err != nil {
			return found
		}
		return fmt.Sprintf("%sstart%+d", parts[1], int64(term-g.term))
	})
}

// moved reports whether leadership by itself is not where it was when the comparison began.
func (g *target) moved() bool {
	if g.cluster == nil || g.moves {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerDeadline)
	defer cancel()
	all := g.statuses(ctx)
	return len(all) == 0 || slices.ContainsFunc(all, func(st *pb.StatusResponse) bool {
		return st.Leader != g.ids[0] || st.RaftTerm != g.term
	})
}

// restart ends every member, killed or told to stop, and starts all again on their data. The same member leads again.
func (g *target) restart(kill bool) {
	end := (*harness.Server).Stop
	if kill {
		end = (*harness.Server).Kill
	}
	if g.cluster == nil {
		end(g.server)
		g.server.Restart()
		return
	}
	for _, m := range g.members {
		end(m)
	}
	for i := range g.cluster.Members {
		g.cluster.Begin(i)
	}
	for i := range g.cluster.Members {
		g.cluster.Await(i)
	}
	g.dial()
	g.settle(&g.ids[0])
}

// died returns the last lines of a member that ended by itself.
func (g *target) died() (last string, died bool) {
	for _, m := range append(slices.Clone(g.members), g.server) {
		if last, died := m.Died(); died {
			return fmt.Sprintf("%s died:\n%s", m, last), true
		}
	}
	return "", false
}

// discard ends all members and removes their data.
func (g *target) discard() {
	for _, c := range g.conns {
		c.Close()
	}
	if g.cluster == nil {
		g.server.Discard()
		return
	}
	for _, m := range g.members {
		m.Discard()
	}
}

// size is how many members there are at the start.
func (g *target) size() int { return max(1, len(g.members)) }

// joined is a member that a scenario has added.
type joined struct {
	id     uint64
	server *harness.Server
	conn   *grpc.ClientConn
}

// join adds a learner, starts it and waits until it has told the cluster its name. It is shown as "learner".
func (r *Recorder) join() joined {
	i, url := r.cluster.Prepare()
	added, err := pb.NewClusterClient(r.conn).MemberAdd(r.ctx, add(true, url))
	if err != nil {
		r.fatalf("add a learner: %v", err)
	}
	r.cluster.Restart(i)
	j := joined{id: added.Member.ID, server: r.cluster.Members[i]}
	j.conn = j.server.Dial()
	r.aliases = append(r.aliases, shownAs(j.server, fmt.Sprintf("m%d", i), "learner")...)
	r.aliases = append(r.aliases, numbers(j.id, "learner")...)
	r.names = strings.NewReplacer(r.aliases...)
	r.until("the learner is known and up to date", func() bool {
		members, err := pb.NewClusterClient(r.conn).MemberList(r.ctx, &pb.MemberListRequest{})
		if err != nil || slices.ContainsFunc(members.Members, func(m *pb.Member) bool { return m.Name == "" }) {
			return false
		}
		st, err := pb.NewMaintenanceClient(j.conn).Status(r.ctx, &pb.StatusRequest{})
		own, err2 := pb.NewMaintenanceClient(r.conn).Status(r.ctx, &pb.StatusRequest{})
		return err == nil && err2 == nil && st.Leader == own.Leader && st.RaftAppliedIndex >= own.RaftAppliedIndex && st.StorageVersion == own.StorageVersion
	})
	return j
}

// shownAs are the addresses and the name of a member, and what is shown for them.
func shownAs(m *harness.Server, own, name string) []string {
	return []string{m.PeerURL(), "http://peer." + name, m.Endpoint(), "client." + name,
		`name:"` + own + `"`, `name:"` + name + `"`, `"name":"` + own + `"`, `"name":"` + name + `"`}
}
