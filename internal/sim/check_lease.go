package sim

import (
	"time"

	"github.com/dolmen-io/dolmen/internal/lease"
	"github.com/dolmen-io/dolmen/internal/state"
)

// leaseCheck holds that no lease and no key on one goes before its time: from the moment at which a client asked for
// it, or for its renewal, with success, for as long as it lives on the fastest clock there is. And what a leader says
// about leases is taken from it only in the term that it leads.
type leaseCheck struct {
	*world
	leases map[int64]*leaseFacts
	said   map[uint64]saying // by request
	newest uint64            // index looked at
	there  int               // leases that the newest state has
}

// leaseFacts is what is known of a lease.
type leaseFacts struct {
	until time.Duration // it must live till then
	free  bool          // its client has asked to revoke it
	there bool          // granted, and not revoked
	gone  bool
	end   time.Duration // when it went
}

// saying is what a leader has proposed about leases.
type saying struct {
	member string
	term   uint64
}

func newLeaseCheck(w *world) leaseCheck {
	return leaseCheck{world: w, leases: map[int64]*leaseFacts{}, said: map[uint64]saying{}}
}

func (c *leaseCheck) of(id int64) *leaseFacts {
	if c.leases[id] == nil {
		c.leases[id] = &leaseFacts{}
	}
	return c.leases[id]
}

// asked is told before a lease is asked for.
func (c *leaseCheck) asked(id int64) { c.of(id) }

// alive is told when a client has learned that its lease lives for ttl seconds since it asked.
func (c *leaseCheck) alive(id, ttl int64, asked time.Duration) {
	f := c.of(id)
	f.until = max(f.until, asked+time.Duration(ttl)*time.Second*100/(100+maxSkew))
	if f.gone && f.end < f.until && !f.free {
		c.violated("leases", "lease %d was kept alive until %v, it has gone at %v", id, f.until, f.end)
	}
}

// missed is told when a client has learned that its lease is gone.
func (c *leaseCheck) missed(id int64) {
	if f := c.of(id); c.now < f.until && !f.free {
		c.violated("leases", "a client is told that lease %d is gone, it lives until %v", id, f.until)
	}
}

// letGo is told before a client revokes its lease.
func (c *leaseCheck) letGo(id int64) { c.of(id).free = true }

// proposed is told what a leader proposes.
func (c *leaseCheck) proposed(m *member, request, term uint64) {
	c.said[request] = saying{m.name, term}
}

// left returns how many leases there are.
func (c *leaseCheck) left() int { return c.there }

// applied looks at each turn that brings something new.
func (c *leaseCheck) applied(m *member, last uint64, turn *state.Turn) {
	if last <= c.newest {
		return
	}
	c.newest = last
	for _, change := range turn.Leases {
		c.changed(m, change)
	}
	for _, e := range turn.Events {
		if !e.Delete {
			continue
		}
		for id, f := range c.leases { // at most one has the key
			if leaseKey(id) == string(e.Key) && c.now < f.until && !f.free {
				c.violated("leases", "%s deletes %s of a lease that lives until %v", m.name, e.Key, f.until)
			}
		}
	}
}

// entry compares the term in which a request is in the log with that of the leader that has proposed it for itself.
func (c *leaseCheck) entry(request, term uint64) {
	if s, ours := c.said[request]; ours && s.term != term {
		c.violated("leases", "what %s said about leases as leader of term %d is in the log in term %d", s.member, s.term, term)
	}
}

func (c *leaseCheck) changed(m *member, change lease.Change) {
	f := c.of(change.Lease.ID)
	switch change.Kind {
	case lease.Granted:
		if !f.there && !f.gone {
			f.there = true
			c.there++
		}
	case lease.Revoked:
		if f.gone {
			return
		}
		if f.there {
			c.there--
		}
		f.there, f.gone, f.end = false, true, c.now
		if !f.free {
			c.result.Expired++
		}
		if c.now < f.until && !f.free {
			c.violated("leases", "%s revokes lease %d, which lives until %v", m.name, change.Lease.ID, f.until)
		}
	case lease.Checkpointed:
	}
}
