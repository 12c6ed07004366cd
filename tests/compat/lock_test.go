package compat

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/tests/harness"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func lock(name string, lease int64) *v3lockpb.LockRequest {
	return &v3lockpb.LockRequest{Name: []byte(name), Lease: lease}
}

func unlock(key string) *v3lockpb.UnlockRequest { return &v3lockpb.UnlockRequest{Key: []byte(key)} }

func grant(id int64) *pb.LeaseGrantRequest { return &pb.LeaseGrantRequest{ID: id, TTL: 1000} }

// pending is a call under way. Its transcript is written when it is taken up again.
type pending struct {
	req    proto.Message
	cancel context.CancelFunc
	done   chan struct{}
	resp   proto.Message
	err    error
}

func (r *Recorder) begin(req proto.Message) *pending { return r.beginWithin(answerDeadline, req) }

// beginWithin is begin with another patience.
func (r *Recorder) beginWithin(patience time.Duration, req proto.Message) *pending {
	ctx, cancel := context.WithTimeout(r.ctx, patience)
	p := &pending{req: req, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.resp, p.err = invoke(ctx, r.conn, req)
	}()
	return p
}

func (r *Recorder) end(p *pending) {
	<-p.done
	p.cancel()
	r.notef("> (waited) %s", r.text.render(p.req))
	if status.Code(p.err) == codes.DeadlineExceeded { // the text is of the client or of the server, whoever is first
		r.notef("! no answer in time")
		return
	}
	if p.err != nil {
		r.notef("! %s", renderError(p.err))
		return
	}
	r.notef("< %s", r.text.render(p.resp))
}

// keys waits until n keys have the prefix.
func (r *Recorder) keys(prefix string, n int64) {
	r.until("the keys are as expected", func() bool {
		resp, err := pb.NewKVClient(r.conn).Range(r.ctx, &pb.RangeRequest{
			Key: []byte(prefix), RangeEnd: []byte(prefix + "\xff"), CountOnly: true,
		})
		return err == nil && resp.Count == n
	})
}

func TestLock(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.DoAll(grant(10), grant(11), grant(12))
		r.DoAll(lock("a", 10), get(all, all), lock("a", 10), lock("", 10), lock("b/c", 10), lock("\x00\xff", 11))
		r.DoAll(lock("a", 99), unlock(""), unlock("nothing"), unlock("b/c/a"), unlock("b/c/a"))

		second := r.begin(lock("a", 11))
		r.keys("a/", 2)
		r.Do(unlock("a/a"))
		r.end(second)
		r.Do(get(all, all))

		given := r.begin(lock("a", 12))
		r.keys("a/", 2)
		given.cancel() // leaves no key
		r.end(given)
		r.keys("a/", 1)
		r.Do(get(all, all))

		lost := r.begin(lock("a", 12))
		r.keys("a/", 2)
		r.DoAll(&pb.LeaseRevokeRequest{ID: 12}, unlock("a/b"))
		r.end(lost)
		r.Do(get(all, all))
	})
}

// TestLockWithoutLease: the server grants one and tells its id only in the key.
func TestLockWithoutLease(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		resp, err := v3lockpb.NewLockClient(r.conn).Lock(r.ctx, lock("free", 0))
		if err != nil {
			r.fatalf("lock: %v", err)
		}
		leases, err := pb.NewLeaseClient(r.conn).LeaseLeases(r.ctx, &pb.LeaseLeasesRequest{})
		if err != nil || len(leases.Leases) != 1 {
			r.fatalf("list leases: %v, %v", leases, err)
		}
		ttl, err := pb.NewLeaseClient(r.conn).LeaseTimeToLive(r.ctx, &pb.LeaseTimeToLiveRequest{ID: leases.Leases[0].ID, Keys: true})
		r.notef("revision %d, granted %d, attached %v, %v", resp.Header.Revision, ttl.GetGrantedTTL(),
			len(ttl.GetKeys()) == 1 && string(ttl.GetKeys()[0]) == string(resp.Key) && strings.HasPrefix(string(resp.Key), "free/"), err)
		r.Do(&pb.RangeRequest{Key: []byte("free/"), RangeEnd: []byte("free0"), CountOnly: true})

		ctx, cancel := context.WithTimeout(r.ctx, time.Second)
		defer cancel()
		_, err = v3lockpb.NewLockClient(r.conn).Lock(ctx, lock("free", 0))
		r.notef("waited in vain: %v", err != nil)
		r.keys("free/", 1)
	})
}

func TestElection(t *testing.T) {
	campaign := func(lease int64, value string) *v3electionpb.CampaignRequest {
		return &v3electionpb.CampaignRequest{Name: []byte("e"), Lease: lease, Value: []byte(value)}
	}
	leader := func(key string, rev, lease int64) *v3electionpb.LeaderKey {
		return &v3electionpb.LeaderKey{Name: []byte("e"), Key: []byte(key), Rev: rev, Lease: lease}
	}
	proclaim := func(l *v3electionpb.LeaderKey, value string) *v3electionpb.ProclaimRequest {
		return &v3electionpb.ProclaimRequest{Leader: l, Value: []byte(value)}
	}
	resign := func(l *v3electionpb.LeaderKey) *v3electionpb.ResignRequest {
		return &v3electionpb.ResignRequest{Leader: l}
	}
	who := &v3electionpb.LeaderRequest{Name: []byte("e")}
	compare(t, harness.Options{}, func(r *Recorder) {
		r.DoAll(grant(10), grant(11), who, campaign(99, "x"), proclaim(nil, "x"), resign(nil))
		r.DoAll(campaign(10, "one"), who, campaign(10, "one"), campaign(10, "two"), who, get(all, all))
		first := leader("e/a", 2, 10)
		r.DoAll(proclaim(first, "three"), proclaim(leader("e/a", 3, 10), "no"), proclaim(leader("e/b", 2, 10), "no"),
			proclaim(leader("e/a", 2, 99), "no"), proclaim(leader("", 0, 10), "no"), who)

		second := r.begin(campaign(11, "next"))
		r.keys("e/", 2)
		r.DoAll(who, resign(leader("e/a", 77, 10)), resign(first))
		r.end(second)
		r.DoAll(who, resign(first), proclaim(first, "no"), get(all, all))

		waits := r.begin(campaign(10, "waits"))
		r.keys("e/", 2)
		waits.cancel()
		r.end(waits)
		r.keys("e/", 1)
		r.Do(get(all, all))
	})
}

func TestObserve(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		ctx, cancel := context.WithTimeout(r.ctx, answerDeadline)
		defer cancel()
		stream, err := v3electionpb.NewElectionClient(r.conn).Observe(ctx, &v3electionpb.LeaderRequest{Name: []byte("e")})
		if err != nil {
			r.fatalf("observe: %v", err)
		}
		next := func() {
			resp, err := stream.Recv()
			if err != nil {
				r.notef("! %s", renderError(err))
				return
			}
			r.notef("< %s", r.text.render(resp))
		}
		r.Do(grant(10))
		r.Do(put("e", "is beside it"))
		for _, value := range []string{"one", "two"} {
			r.Do(&v3electionpb.CampaignRequest{Name: []byte("e"), Lease: 10, Value: []byte(value)})
			next()
		}
		r.DoAll(del("e/a", ""), grant(11))
		r.Do(&v3electionpb.CampaignRequest{Name: []byte("e"), Lease: 11, Value: []byte("three")})
		next()
		cancel()
		if _, err := stream.Recv(); !errors.Is(err, context.Canceled) {
			r.notef("! %s", renderError(err))
		}
	})
}
