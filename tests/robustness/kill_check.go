package robustness

import (
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// write is one operation of a writer. Its value is unique in the whole test, so an event tells which write made it.
type write struct {
	keys     []string // one, or the keys of a transaction
	value    string   // "" for a deletion
	lease    int64
	revision int64 // of the answer; 0 if none came
}

func (w write) acknowledged() bool { return w.revision != 0 }

// history is the events of a store after some revision, in order, by revision.
type history struct {
	after     int64 // the revision before the first
	current   int64 // the store's revision
	revisions map[int64][]*mvccpb.Event
}

// check returns what is wrong with a history in which the given writes, and no others, were tried.
func check(h history, writes []write) []string {
	var wrong []string
	failf := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }

	for revision := h.after + 1; revision <= h.current; revision++ {
		if len(h.revisions[revision]) == 0 {
			failf("revision %d of %d has no event", revision, h.current)
		}
	}
	byValue := make(map[string]write, len(writes))
	deletions := make(map[string]int) // by key, how many were tried
	owner := make(map[int64]write)
	for _, w := range writes {
		if w.value == "" {
			deletions[w.keys[0]]++
		} else {
			byValue[w.value] = w
		}
		if !w.acknowledged() {
			continue
		}
		if other, taken := owner[w.revision]; taken {
			failf("revision %d was given to two writes: %v and %v", w.revision, other, w)
		}
		owner[w.revision] = w
		if w.revision <= h.after {
			failf("write %v got a revision that was taken before, at most %d", w, h.after)
		} else if problem := w.missingFrom(h.revisions[w.revision]); problem != "" {
			failf("acknowledged write %v: %s", w, problem)
		}
	}

	seen := make(map[string]int64)
	for _, revision := range slices.Sorted(maps.Keys(h.revisions)) {
		events := h.revisions[revision]
		if events[0].Type == mvccpb.Event_DELETE {
			for _, e := range events {
				if deletions[string(e.Kv.Key)]--; deletions[string(e.Kv.Key)] < 0 {
					failf("revision %d deletes %q, which nobody did", revision, e.Kv.Key)
				}
			}
			continue
		}
		value := string(events[0].Kv.Value)
		w, known := byValue[value]
		if !known {
			failf("revision %d holds %q, which nobody wrote", revision, value)
			continue
		}
		if earlier, twice := seen[value]; twice {
			failf("write %v happened at revisions %d and %d", w, earlier, revision)
		}
		seen[value] = revision
		if problem := w.missingFrom(events); problem != "" {
			failf("revision %d is torn: of write %v, %s", revision, w, problem)
		}
	}
	return wrong
}

// missingFrom says how the events of a revision differ from what the write does, "" if they do not.
func (w write) missingFrom(events []*mvccpb.Event) string {
	if len(events) != len(w.keys) {
		return fmt.Sprintf("the revision has %d events, want %d", len(events), len(w.keys))
	}
	for i, e := range events {
		switch {
		case string(e.Kv.Key) != w.keys[i]:
			return fmt.Sprintf("event %d is of key %q", i, e.Kv.Key)
		case (e.Type == mvccpb.Event_DELETE) != (w.value == ""):
			return fmt.Sprintf("event %d is a %v", i, e.Type)
		case w.value != "" && (string(e.Kv.Value) != w.value || e.Kv.Lease != w.lease):
			return fmt.Sprintf("event %d has value %q and lease %d", i, e.Kv.Value, e.Kv.Lease)
		}
	}
	return ""
}

// model is the latest state that the checked histories add up to.
type model map[string]*mvccpb.KeyValue

// apply adds a history.
func (m model) apply(h history) {
	for _, revision := range slices.Sorted(maps.Keys(h.revisions)) {
		for _, e := range h.revisions[revision] {
			if e.Type == mvccpb.Event_DELETE {
				delete(m, string(e.Kv.Key))
			} else {
				m[string(e.Kv.Key)] = e.Kv
			}
		}
	}
}

// diff says where the store's keys differ from the model.
func (m model) diff(kvs []*mvccpb.KeyValue) []string {
	var wrong []string
	left := maps.Clone(m)
	for _, kv := range kvs {
		if want := left[string(kv.Key)]; want.String() != kv.String() {
			wrong = append(wrong, fmt.Sprintf("the store has %v, the history %v", kv, want))
		}
		delete(left, string(kv.Key))
	}
	for _, key := range slices.Sorted(maps.Keys(left)) {
		wrong = append(wrong, fmt.Sprintf("the store lost %v", left[key]))
	}
	return wrong
}
