package sim

import (
	"bytes"
	"slices"
	"strings"

	"github.com/dolmen-io/dolmen/internal/mvcc"
	"github.com/dolmen-io/dolmen/internal/state"
	"github.com/dolmen-io/dolmen/internal/watch"
)

// revisionCheck holds that a revision is used once: whoever applies it, it changes the same keys in the same way, and
// it is made by the same turn of the log. What it has seen is the history that other checkers compare with.
type revisionCheck struct {
	*world
	events []watch.Event // of all revisions, in order
	starts []int         // where a revision's events begin, by revision
	newest int64
	keys   map[string][]version
}

// version is a value of a key from a revision on.
type version struct {
	revision int64
	value    string
	deleted  bool
}

func newRevisionCheck(w *world) revisionCheck {
	return revisionCheck{world: w, newest: 1, starts: []int{0, 0}, keys: map[string][]version{}}
}

func (c *revisionCheck) applied(m *member, index uint64, turn *state.Turn) {
	events := turn.Events
	for len(events) > 0 {
		n := 1
		for n < len(events) && events[n].Main == events[0].Main {
			n++
		}
		c.revision(m, index, events[:n])
		events = events[n:]
	}
	if current := turn.View.KV.Current(); current > c.newest {
		c.violated("revisions", "%s is at revision %d at index %d, nothing has led there from %d", m.name, current, index, c.newest)
	}
}

// revision takes all events of one.
func (c *revisionCheck) revision(m *member, index uint64, events []watch.Event) {
	main := events[0].Main
	if main == c.newest+1 {
		c.newest = main
		c.starts = append(c.starts, len(c.events))
		c.events = append(c.events, events...)
		for i := range events {
			c.remember(m, &events[i])
		}
		return
	}
	if main > c.newest+1 {
		c.violated("revisions", "%s makes revision %d at index %d after %d", m.name, main, index, c.newest)
		return
	}
	known := c.of(main)
	same := slices.EqualFunc(known, events, func(a, b watch.Event) bool {
		return a.Main == b.Main && a.Sub == b.Sub && a.Delete == b.Delete && bytes.Equal(a.Key, b.Key) && bytes.Equal(a.KV, b.KV)
	})
	if !same {
		c.violated("revisions", "%s makes revision %d at index %d out of %s, another member has made it out of %s",
			m.name, main, index, keysOf(events), keysOf(known))
	}
}

func (c *revisionCheck) remember(m *member, e *watch.Event) {
	v := version{revision: e.Main, deleted: e.Delete}
	if !e.Delete {
		kv, err := mvcc.DecodeKeyValue(e.KV)
		if err != nil {
			c.violated("failure", "%s makes an event that cannot be read: %v", m.name, err)
			return
		}
		v.value = string(kv.Value)
	}
	c.keys[string(e.Key)] = append(c.keys[string(e.Key)], v)
}

// of returns the events of a revision that is known.
func (c *revisionCheck) of(main int64) []watch.Event {
	end := len(c.events)
	if main < c.newest {
		end = c.starts[main+1]
	}
	return c.events[c.starts[main]:end]
}

// at returns the value of a key at a revision, "" for none, and the revision that gave it.
func (c *revisionCheck) at(key string, revision int64) (value string, since int64) {
	for _, v := range slices.Backward(c.keys[key]) {
		if v.revision <= revision {
			if v.deleted {
				return "", 0
			}
			return v.value, v.revision
		}
	}
	return "", 0
}

func keysOf(events []watch.Event) string {
	var all []string
	for _, e := range events {
		all = append(all, string(e.Key))
	}
	return strings.Join(all, " ")
}
