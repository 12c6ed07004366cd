package compat

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/dolmen-io/dolmen/tests/harness"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func ttl(id int64) *pb.LeaseTimeToLiveRequest { return &pb.LeaseTimeToLiveRequest{ID: id, Keys: true} }

func TestLeaseGrant(t *testing.T) {
	grant := func(id, seconds int64) *pb.LeaseGrantRequest { return &pb.LeaseGrantRequest{ID: id, TTL: seconds} }
	compare(t, harness.Options{}, func(r *Recorder) {
		r.DoAll(grant(1, 1000), grant(1, 1000), grant(1, 2000), grant(2, 9_000_000_000), grant(3, 9_000_000_001),
			grant(1, 9_000_000_001), grant(4, 1<<62), grant(-5, 1000), grant(-5, 1000), grant(1<<62, 1000))
		if resp, ok := r.Do(grant(0, 3000)).(*pb.LeaseGrantResponse); ok {
			r.DoAll(ttl(resp.ID), putLease("a", "1", resp.ID), get("a", ""))
		}
		for _, id := range []int64{1, 2, 3, -5, 1 << 62, 0, 99} {
			r.DoAll(ttl(id), &pb.LeaseTimeToLiveRequest{ID: id})
		}
	})
}

// TestLeaseMinimumTTL: what is too short is raised, with the default election timeout and with the tests' short one.
func TestLeaseMinimumTTL(t *testing.T) {
	body := func(r *Recorder) {
		for i, seconds := range []int64{-1, 0, 1, 2, 3} {
			r.Do(&pb.LeaseGrantRequest{ID: int64(i + 1), TTL: seconds})
		}
	}
	runScenarios(t, []scenario{
		{name: "short election timeout", body: body},
		{name: "default election timeout", body: body,
			opts: harness.Options{Args: []string{"--heartbeat-interval=100", "--election-timeout=1000"}}},
	})
}

func TestLeaseList(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.Do(&pb.LeaseLeasesRequest{})
		for _, id := range []int64{5, 3, 9, 1} {
			r.Do(&pb.LeaseGrantRequest{ID: id, TTL: 1000 + 100*id})
		}
		r.Do(&pb.LeaseLeasesRequest{})
		r.DoAll(&pb.LeaseRevokeRequest{ID: 3}, &pb.LeaseLeasesRequest{})
	})
}

func TestLeaseAttachAndRevoke(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		w := r.Watch()
		w.Created(watchAll(0))
		r.DoAll(&pb.LeaseGrantRequest{ID: 1, TTL: 1000}, &pb.LeaseGrantRequest{ID: 2, TTL: 1000})
		r.DoAll(putLease("c", "1", 1), putLease("a", "1", 1), putLease("b", "1", 1), putLease("d", "1", 2), ttl(1), ttl(2))
		r.DoAll(putLease("b", "2", 2), put("c", "2"), del("d", ""), ttl(1), ttl(2))
		r.DoAll(&pb.PutRequest{Key: []byte("a"), Value: []byte("3"), IgnoreLease: true}, ttl(1))
		r.DoAll(txn(putLease("e", "1", 1), putLease("f", "1", 1), del("b", "")), ttl(1), ttl(2))
		r.DoAll(&pb.LeaseRevokeRequest{ID: 1}, ttl(1), get(all, all), &pb.LeaseRevokeRequest{ID: 1}, &pb.LeaseRevokeRequest{ID: 2},
			&pb.LeaseRevokeRequest{}, &pb.LeaseRevokeRequest{ID: -1}, putLease("a", "1", 1))
		r.DoAll(&pb.LeaseGrantRequest{ID: 1, TTL: 1000}, ttl(1), get(all, all)) // nothing comes back with the id
		w.RecvAll(9)
	})
}

// TestLeaseExpiry waits for real leases to end: their keys go in one revision, in key order.
func TestLeaseExpiry(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		w := r.Watch()
		w.Created(&pb.WatchCreateRequest{Key: []byte(all), RangeEnd: []byte(all), PrevKv: true})
		r.DoAll(&pb.LeaseGrantRequest{ID: 1, TTL: 1}, &pb.LeaseGrantRequest{ID: 2, TTL: 1000})
		r.Do(txn(putLease("c", "1", 1), putLease("a", "1", 1), putLease("b", "1", 2)))
		w.RecvAll(2)
		r.DoAll(get(all, all), ttl(1), &pb.LeaseLeasesRequest{}, &pb.LeaseRevokeRequest{ID: 1}, putLease("a", "1", 1))
	})
}

func TestLeaseKeepAlive(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.DoAll(&pb.LeaseGrantRequest{ID: 1, TTL: 1000}, &pb.LeaseGrantRequest{ID: 2, TTL: 1}, put("a", "1"))
		ctx, cancel := context.WithTimeout(r.ctx, answerDeadline)
		defer cancel()
		stream, err := pb.NewLeaseClient(r.conn).LeaseKeepAlive(ctx)
		if err != nil {
			r.fatalf("open keep-alive stream: %v", err)
		}
		recv := func() {
			resp, err := stream.Recv()
			switch {
			case errors.Is(err, io.EOF):
				r.notef("! end of stream")
			case err != nil:
				r.notef("! %s", renderError(err))
			default:
				r.notef("< %s", r.text.render(resp))
			}
		}
		for _, id := range []int64{1, 2, 99, 0, -1, 1} {
			r.notef("> KeepAlive %d", id)
			if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
				r.fatalf("send keep-alive: %v", err)
			}
			recv()
		}
		// Renewed more often than it lives, a lease of one second is there after two.
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for range 10 {
			<-tick.C
			if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: 2}); err != nil {
				r.fatalf("send keep-alive: %v", err)
			}
			recv()
		}
		if err := stream.CloseSend(); err != nil {
			r.fatalf("half-close: %v", err)
		}
		recv()
	})
}
