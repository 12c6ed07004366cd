package sim

// sumCheck holds that members which have applied the same entries have the same content, tables included.
type sumCheck struct {
	*world
	at map[uint64]contentSum // by applied index
}

// changed compares what a member has now. While a compaction is under way its revisions are left out: members remove
// them at their own pace.
func (c *sumCheck) changed(m *member) {
	index := m.state.Applied().Index
	got := m.eng.sum
	want, known := c.at[index]
	if m.state.RemovalDue() {
		return
	}
	switch {
	case !known:
		c.at[index] = got
	case want != got:
		c.violated("state", "%s has another content at index %d than another member: %x, not %x", m.name, index, got, want)
	}
}

// finish compares what all members have, by a sum that is made anew, and by the hash that operators see.
func (c *sumCheck) finish() {
	var first *member
	var hash uint32
	for _, m := range c.members {
		if m.gone {
			continue
		}
		again, err := openEngine(m.eng.commits[len(m.eng.commits)-1].content)
		if err != nil {
			c.violated("failure", "read what %s has: %v", m.name, err)
			return
		}
		if again.sum != m.eng.sum {
			c.violated("state", "the content of %s is not what its batches made: %x, not %x", m.name, again.sum, m.eng.sum)
		}
		v := m.state.View()
		h, err := v.KV.Hash(0)
		v.Release()
		if err != nil {
			c.violated("failure", "hash what %s has: %v", m.name, err)
			return
		}
		switch {
		case first == nil:
			first, hash = m, h.Sum
		case m.eng.sum != first.eng.sum || h.Sum != hash:
			c.violated("state", "at the end %s and %s differ: %x and %x, %x and %x", first.name, m.name, first.eng.sum, m.eng.sum, hash, h.Sum)
		}
	}
}
