package alarm

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/enginetest"
	"github.com/dolmen-io/dolmen/internal/engine/memory"
)

func open(t *testing.T) engine.Engine {
	e, err := memory.Open("test", memory.Options{Directory: enginetest.NewDirectory()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	return e
}

func load(t *testing.T, e engine.Engine) (*Table, error) {
	s, err := e.Snapshot()
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	return Load(s)
}

func TestTable(t *testing.T) {
	e := open(t)
	table, err := load(t, e)
	require.NoError(t, err)
	require.Equal(t, &View{}, table.Snapshot())

	for i, step := range []struct {
		raise  bool
		member uint64
		kind   Type
		before bool // whether the alarm was raised before the step
		want   View
	}{
		{true, 1, None, false, View{}},
		{true, 1 << 63, NoSpace, false, View{[]Alarm{{1 << 63, NoSpace}}, true, false}},
		{true, 1 << 63, NoSpace, true, View{[]Alarm{{1 << 63, NoSpace}}, true, false}},
		{true, 0, Corrupt, false, View{[]Alarm{{0, Corrupt}, {1 << 63, NoSpace}}, true, true}},
		{true, 0, NoSpace, false, View{[]Alarm{{0, NoSpace}, {0, Corrupt}, {1 << 63, NoSpace}}, true, true}},
		{false, 7, NoSpace, false, View{[]Alarm{{0, NoSpace}, {0, Corrupt}, {1 << 63, NoSpace}}, true, true}},
		{false, 0, NoSpace, true, View{[]Alarm{{0, Corrupt}, {1 << 63, NoSpace}}, true, true}},
		{false, 1 << 63, NoSpace, true, View{[]Alarm{{0, Corrupt}}, false, true}},
		{false, 0, None, false, View{[]Alarm{{0, Corrupt}}, false, true}},
		{true, 5, 9, false, View{[]Alarm{{0, Corrupt}, {5, 9}}, false, true}},
		{true, 5, -1, false, View{[]Alarm{{0, Corrupt}, {5, -1}, {5, 9}}, false, true}},
	} {
		old := table.Snapshot()
		kept := append([]Alarm(nil), old.Alarms...)
		var b engine.Batch
		if step.raise {
			require.Equal(t, step.before, table.Activate(&b, step.member, step.kind), "step %d", i)
		} else {
			require.Equal(t, step.before, table.Deactivate(&b, step.member, step.kind), "step %d", i)
		}
		require.Equal(t, kept, append([]Alarm(nil), old.Alarms...), "step %d changed a view", i)
		require.Equal(t, step.want, *table.Snapshot(), "step %d", i)
		require.NoError(t, e.Commit(&b))
		again, err := load(t, e)
		require.NoError(t, err)
		require.ElementsMatch(t, table.Snapshot().Alarms, again.Snapshot().Alarms, "step %d", i)
	}
	v := table.Snapshot()
	require.Equal(t, v.Alarms, v.Get(None))
	require.Equal(t, []Alarm{{0, Corrupt}}, v.Get(Corrupt))
	require.Empty(t, v.Get(NoSpace))
}

func TestStoredForm(t *testing.T) {
	for _, a := range []Alarm{{0, NoSpace}, {1, Corrupt}, {1<<64 - 1, NoSpace}, {3, -4}} {
		want, err := proto.Marshal(&etcdserverpb.AlarmMember{MemberID: a.Member, Alarm: etcdserverpb.AlarmType(a.Type)})
		require.NoError(t, err)
		require.Equal(t, engine.TableKey(engine.TableAlarm, want), engineKey(a))
		got, err := decode(want)
		require.NoError(t, err)
		require.Equal(t, a, got)
	}
	require.Equal(t, "NOSPACE", NoSpace.String())
	require.Equal(t, "CORRUPT", Corrupt.String())
}

func TestLoadRefusesDamage(t *testing.T) {
	for _, key := range []string{"\x08", "\x08\x01", ""} {
		e := open(t)
		var b engine.Batch
		b.Put(engine.TableKey(engine.TableAlarm, []byte(key)), nil)
		require.NoError(t, e.Commit(&b))
		_, err := load(t, e)
		require.ErrorIs(t, err, ErrCorrupt, "%x", key)
	}
	e := open(t)
	s, err := e.Snapshot()
	require.NoError(t, err)
	require.NoError(t, s.Close())
	_, err = Load(s)
	require.ErrorIs(t, err, engine.ErrClosed)
}
