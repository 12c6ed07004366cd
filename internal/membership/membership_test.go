package membership

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/enginetest"
	"github.com/dolmen-io/dolmen/internal/engine/memory"
)

func TestIDs(t *testing.T) {
	// What etcd prints for its default flags.
	m := NewMember("default", []string{"http://localhost:2380"}, "etcd-cluster", false, nil)
	require.Equal(t, uint64(0x8e9e05c52164694d), m.ID)
	require.Equal(t, uint64(0xcdf818194e3a8c32), ClusterID([]Member{m}))

	urls := []string{"http://b:1", "http://a:1"}
	m = NewMember("x", urls, "t", true, nil)
	require.Equal(t, []string{"http://a:1", "http://b:1"}, m.PeerURLs)
	require.Equal(t, []string{"http://b:1", "http://a:1"}, urls, "the argument stays")
	require.True(t, m.IsLearner)
	require.Equal(t, m.ID, NewMember("y", m.PeerURLs, "t", false, nil).ID)

	now := time.Unix(1700000000, 0)
	require.NotEqual(t, m.ID, NewMember("x", urls, "t", true, &now).ID)
	require.Equal(t, ClusterID([]Member{{ID: 1}, {ID: 2}}), ClusterID([]Member{{ID: 2}, {ID: 1}}))
}

func TestContext(t *testing.T) {
	m := Member{ID: 1, PeerURLs: []string{"http://a:1"}}
	for _, test := range []struct {
		change Change
		want   string
	}{
		{Change{Kind: AddNode, ID: 1, Member: m}, `{"id":1,"peerURLs":["http://a:1"],"isPromote":false}`},
		{Change{Kind: AddNode, ID: 1, Member: m, Promote: true}, `{"id":1,"peerURLs":["http://a:1"],"isPromote":true}`},
		{
			Change{Kind: AddLearnerNode, ID: 1, Member: Member{1, m.PeerURLs, true, "n", []string{"http://c"}}},
			`{"id":1,"peerURLs":["http://a:1"],"isLearner":true,"name":"n","clientURLs":["http://c"],"isPromote":false}`,
		},
		{Change{Kind: UpdateNode, ID: 1, Member: m}, `{"id":1,"peerURLs":["http://a:1"]}`},
		{Change{Kind: RemoveNode, ID: 1}, ``},
	} {
		context, err := test.change.Context()
		require.NoError(t, err)
		require.Equal(t, test.want, string(context))
		got, err := ParseChange(test.change.Kind, test.change.ID, context)
		require.NoError(t, err)
		require.Equal(t, test.change, got)
	}
	for name, bad := range map[string]struct {
		kind    Kind
		id      uint64
		context string
	}{
		"no JSON":      {AddNode, 1, "{"},
		"other member": {UpdateNode, 2, `{"id":1}`},
		"unknown kind": {4, 1, `{"id":1}`},
	} {
		_, err := ParseChange(bad.kind, bad.id, []byte(bad.context))
		require.ErrorIs(t, err, ErrCorrupt, name)
	}
	c, err := ParseChange(UpdateNode, 1, []byte(`{"id":1,"isPromote":true}`))
	require.NoError(t, err)
	require.False(t, c.Promote, "an update promotes nobody")
}

// fixture is a table over an engine. Every change is committed and read back.
type fixture struct {
	t      *testing.T
	engine engine.Engine
	table  *Table
}

func newFixture(t *testing.T) *fixture {
	e, err := memory.Open("test", memory.Options{Directory: enginetest.NewDirectory()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	f := &fixture{t: t, engine: e}
	f.table = f.load()
	return f
}

func (f *fixture) load() *Table {
	s, err := f.engine.Snapshot()
	require.NoError(f.t, err)
	defer func() { require.NoError(f.t, s.Close()) }()
	table, err := Load(s, 1)
	require.NoError(f.t, err)
	return table
}

// do runs one change of the table. The views taken before stay as they were, and what the engine holds
// afterwards loads as the same view.
func (f *fixture) do(change func(b *engine.Batch) error) error {
	before := f.table.Snapshot()
	was, err := json.Marshal(before.Members())
	require.NoError(f.t, err)
	var b engine.Batch
	result := change(&b)
	is, err := json.Marshal(before.Members())
	require.NoError(f.t, err)
	require.Equal(f.t, string(was), string(is), "a view changed")
	if result != nil {
		require.Zero(f.t, b.Len(), "a rejected change wrote")
		require.Same(f.t, before, f.table.Snapshot())
		return result
	}
	require.NoError(f.t, f.engine.Commit(&b))
	require.Equal(f.t, f.table.Snapshot(), f.load().Snapshot())
	return nil
}

func (f *fixture) apply(c Change) error {
	checked := f.table.Check(c)
	err := f.do(func(b *engine.Batch) error { return f.table.Apply(b, c) })
	require.Equal(f.t, checked, err)
	return err
}

func (f *fixture) stored(key []byte) string {
	v, err := f.engine.Get(key)
	require.NoError(f.t, err)
	return string(v)
}

func add(id uint64, url string) Change {
	return Change{Kind: AddNode, ID: id, Member: Member{ID: id, PeerURLs: []string{url}}}
}

func learner(id uint64, url string) Change {
	c := add(id, url)
	c.Kind, c.Member.IsLearner = AddLearnerNode, true
	return c
}

func promote(id uint64) Change {
	return Change{Kind: AddNode, ID: id, Member: Member{ID: id}, Promote: true}
}

func update(id uint64, url string) Change {
	c := add(id, url)
	c.Kind = UpdateNode
	return c
}

func remove(id uint64) Change { return Change{Kind: RemoveNode, ID: id} }

func TestChanges(t *testing.T) {
	f := newFixture(t)
	for i, step := range []struct {
		change Change
		want   error
	}{
		{add(0x10, "http://a"), nil},
		{add(0x10, "http://z"), ErrExists},
		{add(0x2, "http://a"), ErrPeerURLExists},
		{learner(0x2, "http://b"), nil},
		{learner(0x3, "http://c"), ErrTooManyLearners},
		{add(0x3, "http://c"), nil},
		{promote(0x4), ErrNotFound},
		{promote(0x3), ErrNotLearner},
		{promote(0x2), nil},
		{promote(0x2), ErrNotLearner},
		{learner(0x4, "http://d"), nil},
		{update(0x5, "http://e"), ErrNotFound},
		{update(0x4, "http://c"), ErrPeerURLExists},
		{update(0x4, "http://d"), nil},
		{update(0x4, "http://e"), nil},
		{remove(0x5), ErrNotFound},
		{remove(0x3), nil},
		{remove(0x3), ErrRemoved},
		{add(0x3, "http://f"), ErrRemoved},
		{promote(0x3), ErrRemoved},
		{add(0x6, "http://c"), nil}, // the address of a removed member is free
		{remove(0x1ff), ErrNotFound},
	} {
		require.Equal(t, step.want, f.apply(step.change), "step %d: %+v", i, step.change)
	}
	v := f.table.Snapshot()
	require.Equal(t, []Member{
		{ID: 0x2, PeerURLs: []string{"http://b"}},
		{ID: 0x4, PeerURLs: []string{"http://e"}, IsLearner: true},
		{ID: 0x6, PeerURLs: []string{"http://c"}},
		{ID: 0x10, PeerURLs: []string{"http://a"}},
	}, v.Members())
	require.Equal(t, []uint64{3}, v.RemovedIDs())
	require.True(t, v.Removed(3))
	require.False(t, v.Removed(2))
	m, ok := v.Member(0x10)
	require.True(t, ok)
	require.Equal(t, uint64(0x10), m.ID)
	_, ok = v.Member(3)
	require.False(t, ok)

	require.Equal(t, `{"id":4,"peerURLs":["http://e"],"isLearner":true}`, f.stored([]byte("\x824")))
	require.Equal(t, `{"id":16,"peerURLs":["http://a"]}`, f.stored([]byte("\x8210")))
	require.Equal(t, "removed", f.stored([]byte("\x833")))
}

func TestAttributes(t *testing.T) {
	f := newFixture(t)
	require.NoError(t, f.apply(add(1, "http://a")))
	require.NoError(t, f.apply(add(2, "http://b")))
	set := func(id uint64, name string, urls ...string) error {
		return f.do(func(b *engine.Batch) error { return f.table.SetAttributes(b, id, name, urls) })
	}
	require.NoError(t, set(1, "one", "http://c"))
	m, _ := f.table.Snapshot().Member(1)
	require.True(t, m.Started())
	require.Equal(t, Member{1, []string{"http://a"}, false, "one", []string{"http://c"}}, m)
	// A new address does not make a member forget its name.
	require.NoError(t, f.apply(update(1, "http://x")))
	m, _ = f.table.Snapshot().Member(1)
	require.Equal(t, Member{1, []string{"http://x"}, false, "one", []string{"http://c"}}, m)

	require.NoError(t, f.apply(remove(2)))
	require.NoError(t, set(2, "two", "http://d"))
	_, found := f.table.Snapshot().Member(2)
	require.False(t, found)
	require.ErrorIs(t, set(9, "nine"), ErrNotFound)
}

func TestVersions(t *testing.T) {
	f := newFixture(t)
	require.Empty(t, f.table.Snapshot().Version())
	require.NoError(t, f.do(func(b *engine.Batch) error { return f.table.SetVersion(b, "3.7.0") }))
	require.Equal(t, "3.7.0", f.table.Snapshot().Version())
	require.Equal(t, "3.7.0", f.stored([]byte("\x85clusterVersion")))
	require.ErrorIs(t, f.do(func(b *engine.Batch) error { return f.table.SetVersion(b, "three") }), ErrCorrupt)

	down := Downgrade{"3.6.0", true}
	require.NoError(t, f.do(func(b *engine.Batch) error { return f.table.SetDowngrade(b, down) }))
	require.Equal(t, down, f.table.Snapshot().Downgrade())
	require.Equal(t, `{"target-version":"3.6.0","enabled":true}`, f.stored([]byte("\x85downgrade")))
	require.ErrorIs(t, f.do(func(b *engine.Batch) error { return f.table.SetDowngrade(b, Downgrade{"", true}) }), ErrCorrupt)
	require.NoError(t, f.do(func(b *engine.Batch) error { return f.table.SetDowngrade(b, Downgrade{}) }))
	require.Equal(t, `{"target-version":"","enabled":false}`, f.stored([]byte("\x85downgrade")))
}

func TestLoadRefusesDamage(t *testing.T) {
	for key, value := range map[string]string{
		"\x82xyz":            `{"id":1}`,
		"\x821":              `{`,
		"\x822":              `{"id":1}`,
		"\x83xyz":            "removed",
		"\x85clusterVersion": "new",
		"\x85downgrade":      "{",
	} {
		f := newFixture(t)
		var b engine.Batch
		b.Put([]byte(key), []byte(value))
		require.NoError(t, f.engine.Commit(&b))
		s, err := f.engine.Snapshot()
		require.NoError(t, err)
		_, err = Load(s, 1)
		require.ErrorIs(t, err, ErrCorrupt, key)
		require.NoError(t, s.Close())
	}
}

// failing is a snapshot on a disk that fails from the nth access on.
type failing struct{ good int }

var errDisk = errors.New("disk failed")

func (f *failing) next() error {
	f.good--
	if f.good < 0 {
		return errDisk
	}
	return nil
}

func (f *failing) Get([]byte) ([]byte, error) {
	if err := f.next(); err != nil {
		return nil, err
	}
	return nil, engine.ErrNotFound
}

func (f *failing) Scan([]byte, []byte, bool, func([]byte, []byte) bool) error { return f.next() }
func (f *failing) Close() error                                               { return nil }

func TestLoadReportsTheEngine(t *testing.T) {
	for good := range 4 {
		_, err := Load(&failing{good}, 1)
		require.ErrorIs(t, err, errDisk)
	}
	_, err := Load(&failing{4}, 1)
	require.NoError(t, err)
}

func FuzzParseChange(f *testing.F) {
	f.Add(int32(0), uint64(1), []byte(`{"id":1,"peerURLs":["http://a"],"isPromote":true}`))
	f.Add(int32(2), uint64(1), []byte(`{"id":1}`))
	f.Fuzz(func(t *testing.T, kind int32, id uint64, context []byte) {
		c, err := ParseChange(Kind(kind), id, context)
		if err != nil {
			require.ErrorIs(t, err, ErrCorrupt)
			return
		}
		again, err := c.Context()
		require.NoError(t, err)
		d, err := ParseChange(c.Kind, c.ID, again)
		require.NoError(t, err)
		third, err := d.Context()
		require.NoError(t, err)
		require.Equal(t, string(again), string(third))
	})
}
