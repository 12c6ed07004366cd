package sim

import (
	prng "math/rand/v2"
	"slices"
)

// dataCheck holds that what clients were told is what the history says: a write that was acknowledged made its
// revision and is never lost, and a read has found what was there at the revision that it names.
type dataCheck struct {
	*world
	operations []*operation // with an answer, or with an unknown outcome
	seen       map[string][]string
	newest     int64 // revision that any client has seen
}

func (c *dataCheck) invoked(op *operation) {
	op.seen = c.newest
	if op.kind == opPut || op.kind == opSwap {
		// Newest last; a swap expects one of the last few.
		c.seen[op.key] = append(c.seen[op.key], op.value)
	}
}

// newestSeen returns a value that a key may have: mostly the newest that was applied anywhere, so that swaps succeed.
func (c *dataCheck) newestSeen(rng *prng.Rand, key string) string {
	value, _ := c.revisions.at(key, c.revisions.newest)
	if all := c.seen[key]; len(all) > 0 && rng.IntN(4) == 0 {
		return all[len(all)-1-rng.IntN(min(3, len(all)))]
	}
	return value
}

// lost is told of one of which nobody knows. Only those that write matter.
func (c *dataCheck) lost(op *operation) {
	switch op.kind {
	case opPut, opDelete, opSwap:
		c.operations = append(c.operations, op)
	}
}

func (c *dataCheck) answered(op *operation) {
	c.operations = append(c.operations, op)
	c.check(op)
	if op.kind != opStale && op.revision < op.seen {
		c.violated("real time", "client %d was answered from revision %d, a client had seen %d before it asked", op.client, op.revision, op.seen)
	}
	c.newest = max(c.newest, op.revision)
}

// check compares an answer with the history.
func (c *dataCheck) check(op *operation) {
	if op.revision > c.revisions.newest {
		c.violated("answers", "client %d was answered from revision %d, nobody has made it", op.client, op.revision)
		return
	}
	value, since := c.revisions.at(op.key, op.revision)
	switch op.kind {
	case opRange:
		c.checkRange(op)
		return
	case opGet, opStale:
		if value != op.found || since != op.mod {
			c.violated("answers", "client %d has found %q of revision %d under %s at revision %d, where %q of revision %d was",
				op.client, op.found, op.mod, op.key, op.revision, value, since)
		}
		return
	case opSwap:
		if !op.swapped {
			if value == op.expect {
				c.violated("answers", "client %d has not swapped %s at revision %d although %q was there", op.client, op.key, op.revision, value)
			}
			return
		}
		if before, _ := c.revisions.at(op.key, op.revision-1); before != op.expect {
			c.violated("answers", "client %d has swapped %s at revision %d, where %q was and not %q", op.client, op.key, op.revision, before, op.expect)
		}
	case opDelete:
		if value != "" {
			c.violated("lost write", "client %d has deleted %s at revision %d, where %q is", op.client, op.key, op.revision, value)
		}
		return
	}
	if value != op.value || since != op.revision {
		c.violated("lost write", "client %d has put %q under %s at revision %d, where %q of revision %d is", op.client, op.value, op.key,
			op.revision, value, since)
	}
}

// checkRange compares what a range has found with what was there at its revision.
func (c *dataCheck) checkRange(op *operation) {
	var want []found
	for i := range c.shape.keys {
		if value, since := c.revisions.at(dataKey(i), op.at); since > 0 {
			want = append(want, found{dataKey(i), value, since})
		}
	}
	if !slices.Equal(want, op.pairs) {
		c.violated("answers", "client %d has found %v at revision %d, where %v was", op.client, op.pairs, op.at, want)
	}
}

// finish looks at all answers again: the history must still hold them, and so must the end of it on every member.
func (c *dataCheck) finish() {
	for _, op := range c.operations {
		if op.known {
			c.check(op)
		}
	}
	for _, m := range c.members {
		if m.gone {
			continue
		}
		if current, _ := m.state.Revisions(); current != c.revisions.newest {
			c.violated("lost write", "%s ends at revision %d, %d was made", m.name, current, c.revisions.newest)
		}
	}
}
