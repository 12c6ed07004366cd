package robustness

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// leasePrefix is what keys of leases begin with. Each is put once, under a lease of its own.
const leasePrefix = "lease/"

// allFromLeases says whether a revision is what the end of a lease makes.
func allFromLeases(events []event) bool {
	for _, e := range events {
		if !e.deleted || !strings.HasPrefix(e.key, leasePrefix) {
			return false
		}
	}
	return len(events) > 0
}

// promise is what is known of a lease: until when some member has said that it lives, at least.
type promise struct {
	key     string
	until   time.Duration
	revoked bool // its holder has asked for its end, at whatever time
}

// promises are those of all leases of a run, by id. Its methods may run at once.
type promises struct {
	mu struct {
		sync.Mutex
		byKey map[string]*promise
		wrong complaints
	}
}

func newPromises() *promises {
	p := &promises{}
	p.mu.byKey = map[string]*promise{}
	return p
}

// extend notes that a member has answered a grant or a renewal that was asked for at a time.
func (p *promises) extend(key string, asked time.Duration, ttl int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	kept := p.mu.byKey[key]
	if kept == nil {
		kept = &promise{key: key}
		p.mu.byKey[key] = kept
	}
	kept.until = max(kept.until, asked+time.Duration(ttl)*time.Second)
}

// revoke notes that the holder of a lease is about to end it.
func (p *promises) revoke(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.byKey[key].revoked = true
}

// gone notes that a member has said at a time that there is no such lease.
func (p *promises) gone(key string, at time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if kept := p.mu.byKey[key]; !kept.revoked && at < kept.until {
		p.mu.wrong.addf("the lease of %s is said to be gone at %v, it was promised until %v", key, at, kept.until)
	}
}

// check holds that no lease has ended before the time that was promised, and that each has ended when the run has.
func (p *promises) check(h *past) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	wrong := p.mu.wrong
	for key, kept := range p.mu.byKey {
		for _, v := range h.keys[key] {
			if at := h.revisions[v.mod].at; !v.present && !kept.revoked && at < kept.until {
				wrong.addf("%s was deleted at %v, its lease was promised until %v", key, at, kept.until)
			}
		}
		if v := h.at(key, h.last); v.present {
			wrong.addf("%s is still there: its lease has not ended", key)
		}
	}
	return wrong
}

// String says how many leases there were.
func (p *promises) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	revoked := 0
	for _, kept := range p.mu.byKey {
		if kept.revoked {
			revoked++
		}
	}
	return fmt.Sprintf("%d leases, %d of them revoked", len(p.mu.byKey), revoked)
}
