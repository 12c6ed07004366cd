package compat

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/tests/harness"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Places of members in a target.
const (
	theLeader = iota
	theFollower
	theOther
)

// at makes requests of another member than the one that is talked to.
func (r *Recorder) at(member int, reqs ...proto.Message) {
	own := r.conn
	r.conn = r.conns[member]
	r.notef("at the %s:", memberNames[member])
	r.DoAll(reqs...)
	r.conn = own
}

// leads waits until every member says that one of them leads, and makes the term of that the one that others are shown
// relative to.
func (r *Recorder) leads(member int) {
	r.moves = true
	r.until("the "+memberNames[member]+" leads", func() bool {
		all := r.statuses(r.ctx)
		return len(all) > 0 && !slices.ContainsFunc(all, func(st *pb.StatusResponse) bool {
			return st.Leader != r.ids[member] || st.RaftTerm != all[0].RaftTerm
		})
	})
	if all := r.statuses(r.ctx); len(all) > 0 {
		r.term = all[0].RaftTerm
	}
}

// TestLeadership: who says that who leads, and who may give leadership to whom.
func TestLeadership(t *testing.T) {
	compareMembers(t, quick, harness.Options{}, func(r *Recorder) {
		r.awaitStorageVersion()
		ids := r.ids
		for member := range ids {
			r.at(member, &pb.StatusRequest{}, members, &pb.MemberListRequest{Linearizable: true})
		}
		moves := func() {
			r.DoAll(&pb.MoveLeaderRequest{TargetID: 99}, &pb.MoveLeaderRequest{})
		}
		moves()
		r.at(theFollower, &pb.MoveLeaderRequest{TargetID: ids[theFollower]}, &pb.MoveLeaderRequest{TargetID: ids[theLeader]})
		r.at(theLeader, &pb.MoveLeaderRequest{TargetID: ids[theLeader]}, &pb.MoveLeaderRequest{TargetID: ids[theOther]})
		r.leads(theOther)
		moves()
		r.DoAll(put("a", "1"), get("a", ""), &pb.StatusRequest{})
		r.at(theOther, &pb.MoveLeaderRequest{TargetID: ids[theLeader]})
		r.leads(theLeader)
		r.DoAll(put("a", "2"), get("a", ""), &pb.StatusRequest{})
	})
}

// TestTokensOfOtherMembers: a token that one member gave holds at each.
func TestTokensOfOtherMembers(t *testing.T) {
	compareMembers(t, quick, harness.Options{Args: []string{cheapPasswords}}, func(r *Recorder) {
		w := newRealm(r)
		for giver := range w.ids {
			for _, user := range []string{"reader", "root"} {
				own := w.conn
				w.conn = w.conns[giver]
				c := w.loginAs(user, password(user))
				w.conn = own
				for member := range w.ids {
					c.name, c.conn = user+" of "+memberNames[giver]+" at "+memberNames[member], w.conns[member]
					w.does(c, get("a", ""), put("a", "1"), userGet("reader"), &pb.StatusRequest{}, ttl(leaseOfB), &pb.LeaseLeasesRequest{},
						&pb.RangeRequest{Key: []byte("a"), Serializable: true})
				}
			}
		}
	})
}

// TestWritesOfOtherMembers: what is written at one member is read at each, and the watches of each tell of it.
func TestWritesOfOtherMembers(t *testing.T) {
	compareMembers(t, slow, harness.Options{}, func(r *Recorder) {
		w := r.Watch()
		w.Created(watchAll(0))
		r.Do(grant(7))
		for writer := range r.ids {
			r.at(writer, put("a", memberNames[writer]), putLease("b", "1", 7), txn(del("a", ""), put("c", "1")))
			w.RecvAll(3)
			w.RecvProgress()
			for reader := range r.ids {
				r.at(reader, get(all, all), ttl(7), &pb.LeaseTimeToLiveRequest{ID: 8}, &pb.MemberListRequest{Linearizable: true}, hashKV(0))
			}
		}
		r.at(theOther, &pb.LeaseRevokeRequest{ID: 7})
		w.Recv()
		r.DoAll(get(all, all), ttl(7), compactPhysically(5))
		for member := range r.ids {
			r.at(member, get(all, all), &pb.RangeRequest{Key: []byte("a"), Revision: 4}, &pb.LeaseLeasesRequest{})
		}
	})
}

// steady waits until the members have been connected for so long that they may be reconfigured, which shows when a
// member can be added.
func (r *Recorder) steady() {
	cluster := pb.NewClusterClient(r.conn)
	r.until("members can be added", func() bool {
		resp, err := cluster.MemberAdd(r.ctx, add(true, "http://127.0.0.9:9"))
		if err == nil {
			_, err = cluster.MemberRemove(r.ctx, &pb.MemberRemoveRequest{ID: resp.Member.ID})
		}
		return err == nil
	})
}

// TestReconfigurationOfThree: which changes are refused, by whomever they are asked of.
func TestReconfigurationOfThree(t *testing.T) {
	compareMembers(t, slow, harness.Options{}, func(r *Recorder) {
		r.awaitStorageVersion()
		r.steady()
		list := &pb.MemberListRequest{Linearizable: true}
		r.DoAll(add(true, r.peerURL()), add(false, r.peerURL()), add(false, "nonsense"),
			&pb.MemberRemoveRequest{ID: 99}, &pb.MemberUpdateRequest{ID: 99, PeerURLs: []string{"http://127.0.0.2:7"}},
			&pb.MemberPromoteRequest{ID: 99}, &pb.MemberPromoteRequest{ID: r.ids[theOther]})
		learner := r.added(add(true, "http://127.0.0.2:7"))
		r.DoAll(list, add(true, "http://127.0.0.3:7"), add(false, "http://127.0.0.2:7", "http://127.0.0.2:6"), &pb.MemberPromoteRequest{ID: learner},
			&pb.MemberUpdateRequest{ID: learner, PeerURLs: []string{r.peerURL()}},
			&pb.MemberUpdateRequest{ID: learner, PeerURLs: []string{"http://127.0.0.2:8"}}, list)
		r.at(theLeader, &pb.MoveLeaderRequest{TargetID: learner})
		r.DoAll(&pb.MemberRemoveRequest{ID: learner}, &pb.MemberRemoveRequest{ID: learner}, list)
		voter := r.added(add(false, "http://127.0.0.3:7"))
		r.DoAll(list, add(false, "http://127.0.0.4:7"), add(true, "http://127.0.0.4:8"), &pb.MemberPromoteRequest{ID: voter},
			&pb.MemberRemoveRequest{ID: r.ids[theOther]}, put("a", "1"), &pb.MemberRemoveRequest{ID: voter}, list, put("a", "2"))
	})
}

// TestLearnerEndpoint: what a learner answers, and what it does when it has its vote.
func TestLearnerEndpoint(t *testing.T) {
	compareMembers(t, slow, harness.Options{}, func(r *Recorder) {
		r.awaitStorageVersion()
		r.steady()
		r.DoAll(put("a", "1"), grant(7))
		r.notef("> add a learner and start it")
		learner := r.join()
		w := &realm{Recorder: r}
		list := matrix(r.peerURL())
		c := caller{name: "at the learner", conn: learner.conn}
		for _, m := range append(etcdRPCs(), healthRPCs()...) {
			reqs := list[m.path]
			if len(reqs) == 0 {
				reqs = attempts(m.input.New().Interface())
			}
			w.as(c, m, reqs[0].req)
		}
		w.does(c, &pb.RangeRequest{Key: []byte("a"), Serializable: true}, txn(&pb.RangeRequest{Key: []byte("a"), Serializable: true}))
		own := r.server
		r.server = learner.server
		for _, path := range []string{"/health", "/health?serializable=true", "/readyz", "/readyz?verbose", "/livez", "/readyz/non_learner", "/version"} {
			r.fetch(http.MethodGet, path)
		}
		r.post("/v3/kv/range", `{"key":"YQ=="}`, "/v3/kv/range", `{"key":"YQ==","serializable":true}`, "/v3/kv/put", `{"key":"YQ=="}`, "/v3/maintenance/status", `{}`)
		r.server = own
		r.until("the learner has its vote", func() bool {
			_, err := pb.NewClusterClient(r.conn).MemberPromote(r.ctx, &pb.MemberPromoteRequest{ID: learner.id})
			return err == nil
		})
		r.DoAll(&pb.MemberPromoteRequest{ID: learner.id}, members)
		r.until("it knows", func() bool {
			st, err := pb.NewMaintenanceClient(learner.conn).Status(r.ctx, &pb.StatusRequest{})
			return err == nil && !st.IsLearner
		})
		w.does(c, &pb.StatusRequest{}, get("a", ""), put("a", "2"), get("a", ""))
	})
}

// abandon kills the members that the scenario does not talk to, and waits until nobody leads.
func (r *Recorder) abandon() {
	r.notef("> kill the other members")
	r.moves = true
	for _, m := range r.members {
		if m != r.server {
			m.Kill()
		}
	}
	r.until("nobody leads", func() bool {
		st, err := pb.NewMaintenanceClient(r.conn).Status(r.ctx, &pb.StatusRequest{})
		return err == nil && st.Leader == 0
	})
}

// rejoin starts the members again that abandon killed, and waits until all have a leader.
func (r *Recorder) rejoin() {
	r.notef("> start the other members")
	var began []int
	for i, m := range r.cluster.Members {
		if m != r.server {
			r.cluster.Begin(i)
			began = append(began, i)
		}
	}
	for _, i := range began {
		r.cluster.Await(i)
	}
	r.until("one leads", func() bool {
		st, err := pb.NewMaintenanceClient(r.conn).Status(r.ctx, &pb.StatusRequest{})
		return err == nil && st.Leader != 0
	})
}

// withoutLeader is what requests get that wait for a leader in vain. A member tries for 11 seconds, twice the election timeout and five;
// etcd takes all reads together that have come meanwhile, and lets those wait that come later.
const withoutLeader = 30 * time.Second

// TestWithoutLeader: what a member answers whose majority is gone, how it ends the streams of those who asked for a leader,
// and that nothing it has refused happens when the others are back.
func TestWithoutLeader(t *testing.T) {
	compareMembers(t, slow, harness.Options{}, func(r *Recorder) {
		r.awaitStorageVersion()
		r.DoAll(put("a", "1"), grant(7), putLease("b", "1", 7))
		demanding := r.WithMetadata("hasleader", "true")
		ending, staying := r.WatchContext(demanding), r.Watch()
		ending.Created(watchAll(0))
		staying.Created(watchAll(0))
		r.abandon()
		var waiting []*pending
		for _, req := range []proto.Message{
			put("refused", "1"), get("a", ""), txn(get("a", "")), txn(put("refused", "1")), del("a", ""), compact(2), grant(8), &pb.LeaseRevokeRequest{ID: 7},
			ttl(7), ttl(99), &pb.MemberListRequest{Linearizable: true}, alarmRequest(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE),
			add(true, "http://127.0.0.2:7"), &pb.MemberRemoveRequest{ID: r.ids[theOther]}, &pb.MemberPromoteRequest{ID: 99},
			&pb.MemberUpdateRequest{ID: 99, PeerURLs: []string{"http://127.0.0.2:7"}}, &pb.MoveLeaderRequest{TargetID: r.ids[theOther]},
			downgrade(pb.DowngradeRequest_VALIDATE, "3.6"), downgrade(pb.DowngradeRequest_CANCEL, ""), userAdd("refused"),
			&pb.AuthenticateRequest{Name: "root"}, authStatus, &pb.AuthEnableRequest{}, lock("refused", 7),
		} {
			waiting = append(waiting, r.beginWithin(withoutLeader, req))
		}
		renewal := rpcByPath(pb.Lease_LeaseKeepAlive_FullMethodName)
		_, err := first(r.ctx, r.conn, renewal, &pb.LeaseKeepAliveRequest{ID: 7})
		r.notef("keep alive: %s", renderError(err))
		for _, req := range []proto.Message{put("refused", "1"), get("a", ""), &pb.RangeRequest{Key: []byte("a"), Serializable: true}, &pb.StatusRequest{}, members} {
			r.DoContext(demanding, req)
		}
		r.DoAll(&pb.StatusRequest{}, &pb.RangeRequest{Key: []byte("a"), Serializable: true}, txn(&pb.RangeRequest{Key: []byte("a"), Serializable: true}),
			members, &pb.LeaseLeasesRequest{}, hashKV(0), &pb.HashRequest{}, &pb.DefragmentRequest{})
		ending.Recv()
		late := r.WatchContext(demanding)
		late.Recv()
		staying.Created(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 2})
		staying.Recv()
		for _, p := range waiting {
			r.end(p)
		}
		for _, path := range []string{"/health", "/health?serializable=true", "/readyz", "/livez", "/livez/serializable_read", "/readyz/linearizable_read"} {
			r.fetch(http.MethodGet, path)
		}
		r.rejoin()
		r.DoAll(get(all, all), ttl(7), ttl(8), put("a", "2"), get("a", ""))
		staying.RecvAll(2)
	})
}
