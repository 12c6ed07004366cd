package robustness

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// small is a run of a few operations and what a watcher was told of it. Tests change one thing and look who notices.
type small struct {
	operations []*operation
	told       map[int64]*told
	last       int64
}

func put(key, value string) event { return event{key: key, value: value} }

func newSmall() *small {
	s := &small{last: 6, told: map[int64]*told{
		2: {events: []event{put("k", "1")}, at: 15},
		3: {events: []event{put("k", "2")}, at: 35},
		4: {events: []event{{key: "k", deleted: true}, put("mark/1", "3")}, at: 55},
		5: {events: []event{put("mark/1", "4")}, at: 65},
		6: {events: []event{put("k", "5")}, at: 99},
	}}
	s.operations = []*operation{
		{kind: opPut, key: "k", value: "1", called: 10, returned: 20, known: true, revision: 2, prior: true},
		{kind: opSwap, key: "k", value: "2", expect: "1", called: 30, returned: 40, known: true, revision: 3, swapped: true},
		{kind: opGet, key: "k", called: 41, returned: 42, known: true, revision: 3, found: "2", mod: 3, seen: 3},
		{kind: opSwap, key: "k", value: "x", expect: "1", called: 43, returned: 44, known: true, revision: 3, found: "2", mod: 3},
		{kind: opList, key: "k", called: 45, returned: 46, known: true, revision: 3, pairs: []pair{{"k", "2", 3}}},
		{kind: opDelete, client: 1, key: "k", value: "3", called: 50, returned: 60, known: true, revision: 4, removed: true},
		{kind: opDelete, client: 1, key: "k", value: "4", called: 61, returned: 62}, // answered by nobody, and it happened
		{kind: opPut, key: "k", value: "lost", called: 70, returned: 71},            // and it did not happen
		{kind: opPut, key: "k", value: "5", called: 80, returned: 81},               // it happens later
		{kind: opGet, key: "k", called: 82, returned: 83, known: true, revision: 5},
		{kind: opGet, key: "k", called: 100, returned: 101, known: true, revision: 6, found: "5", mod: 6},
	}
	return s
}

func (s *small) past() *past {
	c := newChronicle()
	for revision, t := range s.told {
		c.add(revision, t.events, t.at, "w")
	}
	p, _ := c.until(s.last)
	return p
}

func TestChecksOfARun(t *testing.T) {
	for _, c := range []struct {
		name                    string
		change                  func(s *small)
		answers, writes, linear string // part of what each complains of; "" = nothing
	}{
		{name: "good", change: func(*small) {}},
		{name: "a lost write", change: func(s *small) { s.told[2].events[0].value = "lost" },
			answers: "an acknowledged write is lost", writes: "told of it at 15ns", linear: "no order"},
		{name: "a stale read", change: func(s *small) { op := s.operations[10]; op.revision, op.seen, op.found, op.mod = 3, 6, "2", 3 },
			answers: "a client had seen 6", linear: "no order"},
		{name: "a read of what was not there", change: func(s *small) { s.operations[2].found = "1" },
			answers: `it found "1" of revision 3`, linear: "no order"},
		{name: "a wrong list", change: func(s *small) { s.operations[4].pairs = nil }, answers: "it found []"},
		{name: "an unmade revision", change: func(s *small) { s.operations[10].revision = 7 }, answers: "nobody has made it"},
		{name: "a swap that did not fit", change: func(s *small) { s.operations[1].expect = "9" },
			answers: `it has swapped where "1" was`, linear: "no order"},
		{name: "a swap that would have fit", change: func(s *small) { s.operations[3].expect = "2" },
			answers: "it has not swapped although it fits", linear: "no order"},
		{name: "a deletion of nothing", change: func(s *small) { s.operations[5].removed = false },
			answers: "it has deleted: false", linear: "no order"},
		{name: "something else before a put", change: func(s *small) { s.operations[0].found, s.operations[0].mod = "0", 1 },
			answers: "it was there before", linear: "no order"},
		{name: "a write twice", change: func(s *small) { s.told[6].events[0].value = "1" },
			answers: "it found", writes: "happened at revision", linear: "no order"},
		{name: "an unknown write twice", change: func(s *small) { s.last = 7; s.told[7] = &told{events: []event{put("k", "5")}, at: 110} },
			writes: "happened at revisions 6 and 7"},
		{name: "a torn write", change: func(s *small) { s.told[4].events = s.told[4].events[:1] },
			answers: "an acknowledged write is lost", writes: "nobody asked for"},
		{name: "an invented write", change: func(s *small) { s.last = 7; s.told[7] = &told{events: []event{put("z", "z")}, at: 110} },
			writes: "nobody asked for"},
		{name: "an effect before its cause", change: func(s *small) { s.told[6].at = 75 }, writes: "a watcher was told of it at 75ns",
			linear: "no order"},
		{name: "another lease", change: func(s *small) { s.told[3].events[0].lease = 3 },
			answers: "an acknowledged write is lost", writes: "which is not what"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSmall()
			c.change(s)
			p := s.past()
			linear, givenUp := checkLinear(s.operations, p)
			require.Zero(t, givenUp)
			for name, found := range map[string][2]string{
				"answers": {c.answers, strings.Join(checkAnswers(s.operations, p), "\n")},
				"writes":  {c.writes, strings.Join(checkWrites(s.operations, p, func(string, string) bool { return false }), "\n")},
				"linear":  {c.linear, strings.Join(linear, "\n")},
			} {
				require.Contains(t, found[1], found[0], name)
				require.False(t, found[0] == "" && found[1] != "", "%s: %s", name, found[1])
			}
		})
	}
}

func TestChronicle(t *testing.T) {
	c := newChronicle()
	c.add(2, []event{put("a", "1")}, 5, "one")
	c.add(2, []event{put("a", "1")}, 3, "two")
	c.add(3, []event{put("a", "2")}, 7, "one")
	require.Empty(t, c.mu.wrong)
	c.add(3, []event{put("a", "3")}, 8, "two")
	require.Len(t, c.mu.wrong, 1)
	p, missing := c.until(4)
	require.Equal(t, []string{"no watcher was told of revision 4 of 4"}, []string(missing))
	require.EqualValues(t, 3, p.revisions[2].at)
	require.Equal(t, version{2, "1", true}, p.at("a", 2))
	require.Equal(t, version{}, p.at("a", 1))
	require.Equal(t, version{}, p.at("b", 3))
}

// response is what a watch of a store at revision 9 tells.
func response(events ...*clientv3.Event) clientv3.WatchResponse {
	return clientv3.WatchResponse{Header: &pb.ResponseHeader{Revision: 9}, Events: events}
}

func at(revision int64, value string) *clientv3.Event {
	return &clientv3.Event{Kv: &mvccpb.KeyValue{Key: []byte("a"), Value: []byte(value), ModRevision: revision}}
}

func TestWatcherOfEverything(t *testing.T) {
	progress := func(revision int64) clientv3.WatchResponse {
		return clientv3.WatchResponse{Header: &pb.ResponseHeader{Revision: revision}}
	}
	for _, c := range []struct {
		name      string
		responses []clientv3.WatchResponse
		want      string
	}{
		{"good", []clientv3.WatchResponse{response(at(2, "1"), at(2, "1")), response(at(3, "2")), progress(3), response(at(4, "3"))}, ""},
		{"gap", []clientv3.WatchResponse{response(at(2, "1")), response(at(4, "3"))}, "revision 4 and not of 3"},
		{"twice", []clientv3.WatchResponse{response(at(2, "1")), response(at(2, "1"))}, "revision 2 after 2"},
		{"order", []clientv3.WatchResponse{response(at(3, "2"), at(2, "1"))}, "revision 3 and not of 2"},
		{"promise", []clientv3.WatchResponse{response(at(2, "1")), progress(3)}, "it knows of revision 3"},
		{"future", []clientv3.WatchResponse{response(at(2, "1")), {Header: &pb.ResponseHeader{Revision: 2}, Events: []*clientv3.Event{at(3, "2")}}},
			"revision 3 from a store at 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWatcher("w", "", nil, newJournal(), newChronicle())
			for _, resp := range c.responses {
				w.take(resp)
			}
			got := strings.Join(w.chronicle.mu.wrong, "\n")
			require.Contains(t, got, c.want)
			require.Equal(t, c.want == "", got == "")
		})
	}
}

func TestWatcherOfAPrefix(t *testing.T) {
	p := newSmall().past()
	all := func() []change {
		return []change{
			{event: put("k", "1"), mod: 2},
			{event: put("k", "2"), mod: 3, before: "1", beforeKnown: true},
			{event: event{key: "k", deleted: true}, mod: 4, before: "2", beforeKnown: true},
			{event: put("k", "5"), mod: 6},
		}
	}
	for _, c := range []struct {
		name    string
		changes func(all []change) []change
		want    string
	}{
		{"good", func(all []change) []change { return all }, ""},
		{"missed", func(all []change) []change { return append(all[:1], all[2:]...) }, "was not told of put k=2"},
		{"end missed", func(all []change) []change { return all[:3] }, "was not told of put k=5"},
		{"before", func(all []change) []change { all[1].before = "0"; return all }, `that "0" was there before`},
		{"invented", func(all []change) []change { return append(all, change{event: put("k", "6"), mod: 6}) }, "did not happen"},
		{"later", func(all []change) []change { return append(all, change{event: put("k", "6"), mod: 7}) }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWatcher("w", "k", nil, newJournal(), newChronicle())
			w.changes = c.changes(all())
			got := strings.Join(w.check(p), "\n")
			require.Contains(t, got, c.want)
			require.Equal(t, c.want == "", got == "")
		})
	}
}

func TestPromises(t *testing.T) {
	const key = leasePrefix + "1/0"
	ended := func(at time.Duration) *past {
		c := newChronicle()
		c.add(2, []event{put(key, "v")}, time.Second, "w")
		c.add(3, []event{{key: key, deleted: true}}, at, "w")
		p, _ := c.until(3)
		return p
	}
	for _, c := range []struct {
		name string
		act  func(p *promises)
		end  time.Duration
		want string
	}{
		{"ends in time", func(*promises) {}, 8 * time.Second, ""},
		{"ends early", func(*promises) {}, 6 * time.Second, "promised until 7s"},
		{"is revoked", func(p *promises) { p.revoke(key) }, 6 * time.Second, ""},
		{"is said to be gone", func(p *promises) { p.gone(key, 6*time.Second) }, 8 * time.Second, "said to be gone at 6s"},
		{"is gone", func(p *promises) { p.gone(key, 9*time.Second) }, 8 * time.Second, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPromises()
			p.extend(key, time.Second, 5)
			p.extend(key, 2*time.Second, 5)
			c.act(p)
			got := strings.Join(p.check(ended(c.end)), "\n")
			require.Contains(t, got, c.want)
			require.Equal(t, c.want == "", got == "")
		})
	}
	c := newChronicle()
	c.add(2, []event{put(key, "v")}, time.Second, "w")
	past, _ := c.until(2)
	p := newPromises()
	p.extend(key, time.Second, 5)
	require.Contains(t, strings.Join(p.check(past), "\n"), "its lease has not ended")
}
