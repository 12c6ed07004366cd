package concurrency

import (
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Observe sends who is elected now, and then each change: another leader, another value, nobody (the zero
// Leader). A receiver that is slower than the changes gets the newest and misses those between; they
// are not queued. The channel is closed when ctx or the session ends, or when the store cannot be read
// any more; a caller whose ctx and session have not ended observes again.
func (e *Election) Observe(ctx context.Context) (<-chan Leader, error) {
	leader, revision, err := e.read(ctx)
	if err != nil {
		return nil, fmt.Errorf("observe %q: %w", e.prefix, err)
	}
	o := &observation{election: e, out: make(chan Leader), leader: leader, revision: revision, fresh: true}
	ctx, done := e.session.join(ctx)
	go func() {
		defer close(o.out)
		defer done()
		o.run(ctx)
	}()
	return o.out, nil
}

// observation is what one Observe knows.
type observation struct {
	election *Election
	out      chan Leader
	leader   Leader
	revision int64 // up to which leader is right
	fresh    bool  // leader was not sent yet
}

func leaderOf(kv *mvccpb.KeyValue) Leader {
	return Leader{Key: string(kv.Key), Value: string(kv.Value), Token: kv.CreateRevision, Revision: kv.ModRevision}
}

func (o *observation) run(ctx context.Context) {
	for o.follow(ctx) {
		leader, revision, err := o.election.read(ctx)
		if err != nil {
			return
		}
		o.see(leader)
		o.revision = revision
	}
}

func (o *observation) see(leader Leader) {
	o.fresh = o.fresh || leader != o.leader
	o.leader = leader
}

// follow watches the leader's key, or all if there is no leader, and sends what it sees. It returns true
// when somebody else may be elected.
func (o *observation) follow(ctx context.Context) bool {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	key, opts := o.leader.Key, []clientv3.OpOption{clientv3.WithRev(o.revision + 1)}
	if key == "" {
		key, opts = o.election.prefix, append(opts, clientv3.WithPrefix(), clientv3.WithFilterDelete())
	}
	events := o.election.session.client.Watch(ctx, key, opts...)
	for {
		var out chan<- Leader
		if o.fresh {
			out = o.out
		}
		select {
		case <-ctx.Done():
			return false
		case out <- o.leader:
			o.fresh = false
		case resp, ok := <-events:
			if !ok {
				return false
			}
			if err := resp.Err(); err != nil {
				return unlessStale(err) == nil
			}
			if o.changed(resp.Events) {
				return true
			}
		}
	}
}

// changed takes in events, up to one after which somebody else may be elected.
func (o *observation) changed(events []*clientv3.Event) bool {
	for _, ev := range events {
		if o.leader.Token == 0 || ev.Type == clientv3.EventTypeDelete {
			return true
		}
		o.see(leaderOf(ev.Kv))
	}
	return false
}
