package sim

import (
	"errors"
	"fmt"
	"time"

	"github.com/dolmen-io/dolmen/internal/lease"
	"github.com/dolmen-io/dolmen/internal/state"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// heldLease is the lease that a client keeps alive for a while, with a key on it.
type heldLease struct {
	id       int64
	keyed    bool
	renewals int // still to come
}

func leaseKey(id int64) string { return fmt.Sprintf("lease/%d", id) }

// useLease takes the next step in the life of the client's lease: grant, key, keep-alives, and then the client revokes
// it or lets it run out.
func (c *client) useLease() {
	switch {
	case c.settled:
		c.lease, c.busy = heldLease{}, false
	case c.lease.id == 0:
		c.grant()
	case !c.lease.keyed:
		c.putKey()
	case c.lease.renewals > 0:
		c.lease.renewals--
		c.keepAlive()
	case c.chance(30):
		c.revoke()
	default:
		c.lease = heldLease{}
		c.done()
	}
}

func (c *client) grant() {
	id, ttl, invoked := int64(c.id()), 2+c.rng.Int64N(5), c.now
	c.leases.asked(id)
	c.call(func(m *member, reply func(func())) {
		m.propose(&pb.InternalRaftRequest{LeaseGrant: &pb.LeaseGrantRequest{ID: id, TTL: ttl}}, func(r state.Result, err error) {
			reply(func() {
				if err = errors.Join(err, r.Err); err != nil {
					return
				}
				c.result.Operations++
				c.lease = heldLease{id: id, renewals: c.rng.IntN(12)}
				c.leases.alive(id, r.Response.(state.LeaseResponse).TTL, invoked)
			})
		})
	}, func() { c.result.Unknown++ })
}

func (c *client) putKey() {
	id := c.lease.id
	put := &pb.PutRequest{Key: []byte(leaseKey(id)), Value: []byte("held"), Lease: id}
	c.call(func(m *member, reply func(func())) {
		m.propose(&pb.InternalRaftRequest{Put: put}, func(r state.Result, err error) {
			reply(func() {
				switch {
				case errors.Is(r.Err, lease.ErrNotFound):
					c.leases.missed(id)
					c.lease = heldLease{}
				case err == nil && r.Err == nil:
					c.result.Operations++
					c.lease.keyed = true
				}
			})
		})
	}, func() { c.result.Unknown++ })
}

// keepAlive asks a member, which asks the leader.
func (c *client) keepAlive() {
	id, invoked := c.lease.id, c.now
	c.call(func(m *member, reply func(func())) {
		leader := c.byID(m.node.Status().Lead)
		if leader == nil || leader != m && c.net.lost(m.id, leader.id) {
			return
		}
		answer := func(ttl int64, err error) {
			if leader != m && c.net.lost(leader.id, m.id) {
				return
			}
			reply(func() { c.keptAlive(id, ttl, invoked, err) })
		}
		c.after(c.net.delay(), func() { leader.in(0, func() { leader.renew(id, answer) }) })
	}, func() { c.result.Unknown++ })
}

func (c *client) keptAlive(id, ttl int64, invoked time.Duration, err error) {
	c.note("client %d: keep lease %d alive: %d, %v", c.number, id, ttl, err)
	switch {
	case err == nil:
		c.result.Operations++
		c.leases.alive(id, ttl, invoked)
	case errors.Is(err, lease.ErrNotFound):
		c.leases.missed(id)
		c.lease = heldLease{}
	}
}

func (c *client) revoke() {
	id := c.lease.id
	c.lease = heldLease{}
	c.leases.letGo(id)
	c.call(func(m *member, reply func(func())) {
		m.propose(&pb.InternalRaftRequest{LeaseRevoke: &pb.LeaseRevokeRequest{ID: id}}, func(_ state.Result, err error) {
			reply(func() {
				if err == nil {
					c.result.Operations++
				}
			})
		})
	}, func() { c.result.Unknown++ })
}
