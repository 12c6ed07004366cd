package robustness

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// event is one change of one key, as watchers were told.
type event struct {
	key, value      string
	deleted         bool
	lease           int64
	created, copies int64 // create revision and version
}

func eventOf(e *mvccpb.Event) event {
	return event{string(e.Kv.Key), string(e.Kv.Value), e.Type == mvccpb.Event_DELETE, e.Kv.Lease, e.Kv.CreateRevision, e.Kv.Version}
}

func (e event) String() string {
	if e.deleted {
		return "delete " + e.key
	}
	return fmt.Sprintf("put %s=%s", e.key, e.value)
}

// chronicle is what watchers of everything were told, each revision once. Its methods may run at once.
type chronicle struct {
	mu struct {
		sync.Mutex
		revisions map[int64]*told
		newest    int64
		wrong     []string // the first few contradictions
	}
}

// told is a revision as the first watcher heard of it.
type told struct {
	events []event
	at     time.Duration
	by     string
}

func newChronicle() *chronicle {
	c := &chronicle{}
	c.mu.revisions = map[int64]*told{}
	return c
}

// add notes what a watcher of everything was told of a revision, and compares it with what others were.
func (c *chronicle) add(revision int64, events []event, at time.Duration, by string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.mu.revisions[revision]
	if known == nil {
		c.mu.revisions[revision] = &told{events, at, by}
		c.mu.newest = max(c.mu.newest, revision)
		return
	}
	known.at = min(known.at, at)
	if !slices.Equal(known.events, events) {
		c.complain("watchers disagree about revision %d: %s was told %v, %s %v", revision, known.by, known.events, by, events)
	}
}

// wrongf notes something that is wrong with what watchers were told.
func (c *chronicle) wrongf(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.complain(format, args...)
}

// complain is wrongf under the lock.
func (c *chronicle) complain(format string, args ...any) {
	if len(c.mu.wrong) < 20 {
		c.mu.wrong = append(c.mu.wrong, fmt.Sprintf(format, args...))
	}
}

// until returns the past up to a revision, and the revisions that are missing in it.
func (c *chronicle) until(revision int64) (*past, complaints) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := &past{last: revision, revisions: c.mu.revisions, keys: map[string][]version{}}
	var missing complaints
	for r := int64(2); r <= revision; r++ {
		known := c.mu.revisions[r]
		if known == nil {
			missing.addf("no watcher was told of revision %d of %d", r, revision)
			continue
		}
		for _, e := range known.events {
			v := version{mod: r}
			if !e.deleted {
				v.value, v.present = e.value, true
			}
			p.keys[e.key] = append(p.keys[e.key], v)
		}
	}
	return p, missing
}

// past is the store at each of its revisions, as the chronicle has it. It does not change.
type past struct {
	last      int64
	revisions map[int64]*told
	keys      map[string][]version // each in order
}

type version struct {
	mod     int64
	value   string
	present bool
}

// at returns what a key was at a revision; nothing, with the zero value, if it was not there.
func (p *past) at(key string, revision int64) version {
	all := p.keys[key]
	n, _ := slices.BinarySearchFunc(all, revision+1, func(v version, r int64) int { return int(v.mod - r) })
	if n == 0 || !all[n-1].present {
		return version{}
	}
	return all[n-1]
}

// list returns the keys with a prefix that were there at a revision.
func (p *past) list(prefix string, revision int64) []pair {
	var all []pair
	for key := range p.keys {
		if strings.HasPrefix(key, prefix) {
			if v := p.at(key, revision); v.present {
				all = append(all, pair{key, v.value, v.mod})
			}
		}
	}
	slices.SortFunc(all, func(a, b pair) int { return strings.Compare(a.key, b.key) })
	return all
}
