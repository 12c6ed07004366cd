package robustness

import (
	"fmt"
	"slices"
)

// maxComplaints bounds what one checker says: the first few tell what is wrong.
const maxComplaints = 10

// complaints are what a checker has found.
type complaints []string

func (c *complaints) addf(format string, args ...any) {
	if len(*c) < maxComplaints {
		*c = append(*c, fmt.Sprintf(format, args...))
	}
}

// checkAnswers holds every answer against the store's past: a read has found what was there at the revision that it
// names, an acknowledged write made the revision that it was given, and who asks for the newest sees nothing older than
// what somebody had seen before.
func checkAnswers(operations []*operation, p *past) []string {
	var wrong complaints
	for _, op := range operations {
		if !op.known {
			continue
		}
		if op.revision > p.last {
			wrong.addf("%v: answered from revision %d, nobody has made it", op, op.revision)
			continue
		}
		if op.kind != opStale && op.revision < op.seen {
			wrong.addf("%v: answered from revision %d, a client had seen %d before it asked", op, op.revision, op.seen)
		}
		if problem := op.against(p); problem != "" {
			wrong.addf("%v, at revision %d: %s", op, op.revision, problem)
		}
	}
	return wrong
}

// String is the request.
func (op *operation) String() string {
	text := fmt.Sprintf("client %d, %v: %v %s", op.client, op.called, op.kind, op.key)
	switch op.kind {
	case opPut:
		text += "=" + op.value
	case opSwap:
		text += fmt.Sprintf("=%s if %q", op.value, op.expect)
	}
	return text
}

// against compares an answer with the past, and says how they differ.
func (op *operation) against(p *past) string {
	now, before := p.at(op.key, op.revision), p.at(op.key, op.revision-1)
	found := func() string {
		if op.found != now.value || op.mod != now.mod {
			return fmt.Sprintf("it found %q of revision %d, where %q of %d was", op.found, op.mod, now.value, now.mod)
		}
		return ""
	}
	switch op.kind {
	case opGet, opStale:
		return found()
	case opList:
		if want := p.list(op.key, op.revision); !slices.Equal(op.pairs, want) {
			return fmt.Sprintf("it found %v, where %v was", op.pairs, want)
		}
		return ""
	case opSwap:
		if !op.swapped {
			if now.value == op.expect {
				return "it has not swapped although it fits"
			}
			return found()
		}
		if before.value != op.expect {
			return fmt.Sprintf("it has swapped where %q was", before.value)
		}
	case opDelete:
		if op.removed != before.present || now.present {
			return fmt.Sprintf("it has deleted: %v, where %q was and %q is", op.removed, before.value, now.value)
		}
	case opPut:
		if op.prior && (op.found != before.value || op.mod != before.mod) {
			return fmt.Sprintf("it was there before: %q of revision %d, but %q of %d was", op.found, op.mod, before.value, before.mod)
		}
	}
	made := p.revisions[op.revision]
	if made == nil || !made.holds(op) {
		return fmt.Sprintf("an acknowledged write is lost: the revision is %v", made)
	}
	return ""
}

// wrote is the key that an operation puts its value under.
func (op *operation) wrote() string {
	if op.kind == opDelete {
		return markKey(op.client)
	}
	return op.key
}

// holds says whether a revision is what a write makes, wholly.
func (t *told) holds(op *operation) bool {
	rest := t.events
	if op.kind == opDelete && len(rest) > 1 {
		if !rest[0].deleted || rest[0].key != op.key {
			return false
		}
		rest = rest[1:]
	}
	if len(rest) != 1 {
		return false
	}
	e := rest[0]
	return !e.deleted && e.key == op.wrote() && e.value == op.value && e.lease == op.lease
}

func (t *told) String() string {
	if t == nil {
		return "unknown"
	}
	return fmt.Sprintf("%v, told to %s at %v", t.events, t.by, t.at)
}

// checkWrites holds that what happened is what was asked for: each revision is one write as a whole, and none twice.
// Keys of leases are deleted by nobody; those that belongs accepts are known otherwise.
func checkWrites(operations []*operation, p *past, belongs func(key, value string) bool) []string {
	var wrong complaints
	byValue := make(map[string]*operation, len(operations))
	for _, op := range operations {
		if op.writes() {
			byValue[op.value] = op
		}
	}
	made := make(map[string]int64, len(operations))
	for revision := int64(2); revision <= p.last; revision++ {
		t := p.revisions[revision]
		if t == nil || allFromLeases(t.events) {
			continue
		}
		last := t.events[len(t.events)-1]
		op := byValue[last.value]
		switch {
		case op == nil && belongs(last.key, last.value):
		case op == nil:
			wrong.addf("revision %d is %v, which nobody asked for", revision, t)
		case !t.holds(op):
			wrong.addf("revision %d is %v, which is not what %v does", revision, t, op)
		case op.known && op.revision != revision:
			wrong.addf("%v happened at revision %d and was answered %d", op, revision, op.revision)
		case made[op.value] != 0:
			wrong.addf("%v happened at revisions %d and %d", op, made[op.value], revision)
		}
		if op != nil {
			made[op.value] = revision
			if t.at < op.called {
				wrong.addf("%v: a watcher was told of it at %v", op, t.at)
			}
		}
	}
	return wrong
}
