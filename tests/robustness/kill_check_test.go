package robustness

import (
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

func putEvent(key, value string) *mvccpb.Event {
	return &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value)}}
}

func deleteEvent(key string) *mvccpb.Event {
	return &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: []byte(key)}}
}

// TestCheck: the checker accepts a good history and finds each kind of loss.
func TestCheck(t *testing.T) {
	type events = map[int64][]*mvccpb.Event
	one := write{keys: []string{"a"}, value: "1", revision: 2}
	pair := write{keys: []string{"a", "b"}, value: "2", revision: 3}
	gone := write{keys: []string{"a"}, revision: 4}
	unanswered := write{keys: []string{"c"}, value: "3"}
	good := events{2: {putEvent("a", "1")}, 3: {putEvent("a", "2"), putEvent("b", "2")}, 4: {deleteEvent("a")}}
	for _, c := range []struct {
		name   string
		events events
		writes []write
		want   string // part of the complaint; "" = none
	}{
		{"good", good, []write{one, pair, gone, unanswered}, ""},
		{"unanswered write happened", events{2: {putEvent("c", "3")}}, []write{unanswered}, ""},
		{"lost write", events{2: {putEvent("c", "3")}}, []write{one, unanswered}, "acknowledged write"},
		{"gap", events{2: {putEvent("a", "1")}, 4: {deleteEvent("a")}}, []write{one, gone}, "revision 3 of 4 has no event"},
		{"torn", events{2: {putEvent("a", "2")}}, []write{{keys: []string{"a", "b"}, value: "2"}}, "torn"},
		{"invented value", events{2: {putEvent("a", "9")}}, nil, "nobody wrote"},
		{"invented deletion", events{2: {deleteEvent("a")}}, nil, "nobody did"},
		{"twice", events{2: {putEvent("a", "1")}, 3: {putEvent("a", "1")}}, []write{one}, "happened at revisions 2 and 3"},
		{"same revision for two", events{2: {putEvent("a", "1")}}, []write{one, {keys: []string{"x"}, value: "x", revision: 2}}, "two writes"},
		{"old revision", events{}, []write{{keys: []string{"a"}, value: "1", revision: 1}}, "taken before"},
		{"lease lost", events{2: {putEvent("a", "1")}}, []write{{keys: []string{"a"}, value: "1", lease: 5, revision: 2}}, "lease 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := history{after: 1, current: 1, revisions: c.events}
			for revision := range c.events {
				h.current = max(h.current, revision)
			}
			got := strings.Join(check(h, c.writes), "\n")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("check found %q, want %q", got, c.want)
			}
		})
	}
}

func TestModelDiff(t *testing.T) {
	m := model{}
	m.apply(history{revisions: map[int64][]*mvccpb.Event{2: {putEvent("a", "1"), putEvent("b", "1")}, 3: {deleteEvent("b")}, 4: {putEvent("c", "2")}}})
	a, c := putEvent("a", "1").Kv, putEvent("c", "2").Kv
	if wrong := m.diff([]*mvccpb.KeyValue{a, c}); len(wrong) != 0 {
		t.Errorf("equal store: %v", wrong)
	}
	for _, kvs := range [][]*mvccpb.KeyValue{{a}, {a, putEvent("c", "9").Kv}, {a, c, putEvent("z", "1").Kv}} {
		if wrong := m.diff(kvs); len(wrong) != 1 {
			t.Errorf("store %v: found %v, want one difference", kvs, wrong)
		}
	}
}

// joinSorted joins keys in byte order.
func joinSorted(keys [][]byte) string {
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = string(key)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}
