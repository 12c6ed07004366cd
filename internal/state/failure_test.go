package state

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/dolmen-io/dolmen/internal/alarm"
	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/mvcc"
)

var errDisk = errors.New("disk is gone")

// broken is an engine whose calls fail when told to.
type broken struct {
	engine.Engine
	commit, get, snapshot bool
}

func (b *broken) Commit(batch *engine.Batch) error {
	if b.commit {
		return errDisk
	}
	return b.Engine.Commit(batch)
}

func (b *broken) Get(key []byte) ([]byte, error) {
	if b.get {
		return nil, errDisk
	}
	return b.Engine.Get(key)
}

func (b *broken) Snapshot() (engine.Snapshot, error) {
	if b.snapshot {
		return nil, errDisk
	}
	return b.Engine.Snapshot()
}

func TestEngineFailureIsNoRejection(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spoil func(*broken)
		entry string
	}{
		{"commit", func(b *broken) { b.commit = true }, `put:{key:"a"}`},
		{"range", func(b *broken) { b.get = true }, `range:{key:"a" revision:2}`},
		{"range in txn", func(b *broken) { b.get = true }, `txn:{success:{request_range:{key:"a" revision:2}}}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eng := &broken{Engine: openEngine(t)}
			s := open(t, eng)
			mustApply(t, s, `put:{key:"a" value:"1"}`, `put:{key:"a" value:"2"}`)
			before := s.View()
			defer before.Release()
			tc.spoil(eng)
			turn, err := s.Apply(entries(t, s.Applied(), []string{tc.entry}))
			require.ErrorIs(t, err, errDisk)
			if turn != nil {
				require.Nil(t, turn.View)
			}
			after := s.View()
			defer after.Release()
			require.Same(t, before, after, "a failed turn was published")
		})
	}
	t.Run("remove", func(t *testing.T) {
		eng := &broken{Engine: openEngine(t)}
		s := open(t, eng)
		mustApply(t, s, `put:{key:"a" value:"1"}`, `put:{key:"a" value:"2"}`, `compaction:{revision:3}`)
		eng.commit = true
		_, err := s.RemoveSome(10, true)
		require.ErrorIs(t, err, errDisk)
	})
	t.Run("read", func(t *testing.T) {
		eng := &broken{Engine: openEngine(t)}
		s := open(t, eng)
		mustApply(t, s, `put:{key:"a" value:"1"}`, `put:{key:"a" value:"2"}`)
		eng.get, eng.snapshot = true, true
		v := s.View()
		defer v.Release()
		res := v.Txn(request(t, `txn:{success:{request_range:{key:"a" revision:2}}}`).Txn)
		require.ErrorIs(t, res.Err, errDisk)
		require.ErrorIs(t, s.Events(1, 3, []byte("a"), nil, nil), errDisk)
		_, err := Open(eng, testConfig)
		require.ErrorIs(t, err, errDisk)
	})
}

func TestApplyRefuses(t *testing.T) {
	conf := &raftpb.ConfChange{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: new(uint64(1)), Context: []byte(`{"id":1}`)}
	for _, tc := range []struct {
		name    string
		entries []Entry
		says    string
		is      error
	}{
		{"gap", []Entry{{Index: 2}}, "entry 2 follows entry 0", nil},
		{"repeated", []Entry{{Index: 1}, {Index: 1}}, "entry 1 follows entry 1", nil},
		{"change not last", []Entry{{Index: 1, Conf: conf}, {Index: 2}}, "membership change", nil},
		{"garbage", []Entry{{Index: 1, Term: 4, Data: []byte("\x0a\xff")}}, "entry 1 of term 4: not a request", nil},
		{"bad context", []Entry{{Index: 1, Conf: &raftpb.ConfChange{
			Type: raftpb.ConfChangeAddNode.Enum(), NodeId: new(uint64(1)), Context: []byte("{"),
		}}}, "", membership.ErrCorrupt},
		{"bad version", []Entry{{Index: 1, Request: request(t, `cluster_version_set:{ver:"new"}`)}}, "", membership.ErrCorrupt},
		{"bad downgrade", []Entry{{Index: 1, Request: request(t, `downgrade_info_set:{enabled:true ver:"old"}`)}}, "", membership.ErrCorrupt},
		{"stranger", []Entry{{Index: 1, Request: request(t, `cluster_member_attr_set:{member_ID:8}`)}}, "", membership.ErrNotFound},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := open(t, openEngine(t))
			turn, err := s.Apply(tc.entries)
			require.ErrorContains(t, err, tc.says)
			if tc.is != nil {
				require.ErrorIs(t, err, tc.is)
			}
			require.Nil(t, turn)
		})
	}
}

func TestOpenRefusesDamage(t *testing.T) {
	for name, tc := range map[string]struct {
		key, value []byte
		is         error
	}{
		"short position":     {appliedKey, make([]byte, 15), engine.ErrCorrupt},
		"bad configuration":  {appliedKey, append(make([]byte, 16), 0xff), engine.ErrCorrupt},
		"revision":           {make([]byte, 3), nil, mvcc.ErrDamaged},
		"value":              {mvcc.Revision{Main: 2}.EngineKey(false), []byte{0xff}, mvcc.ErrDamaged},
		"alarm":              {engine.TableKey(engine.TableAlarm, []byte{0xff}), nil, alarm.ErrCorrupt},
		"member":             {engine.TableKey(engine.TableMember, []byte("1")), []byte("{"), membership.ErrCorrupt},
		"lease":              {engine.TableKey(engine.TableLease, []byte("1")), []byte("x"), nil},
		"scheduled revision": {engine.TableKey(engine.TableMeta, []byte("scheduledCompactRev")), []byte("x"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			eng := openEngine(t)
			var b engine.Batch
			b.Put(tc.key, tc.value)
			require.NoError(t, eng.Commit(&b))
			_, err := Open(eng, testConfig)
			require.Error(t, err)
			if tc.is != nil {
				require.ErrorIs(t, err, tc.is)
			}
		})
	}
}

// A key that names a lease which is not there, as in data taken over from elsewhere, is one without.
func TestKeyOfUnknownLease(t *testing.T) {
	eng := openEngine(t)
	var b engine.Batch
	kv := mvcc.KeyValue{Key: []byte("a"), Create: 2, Mod: 2, Ver: 1, LeaseID: 7}
	b.Put(mvcc.Revision{Main: 2}.EngineKey(false), kv.Encode())
	require.NoError(t, eng.Commit(&b))
	s := open(t, eng)
	turn := mustApply(t, s, `put:{key:"a" value:"2"}`, `delete_range:{key:"a"}`, `put:{key:"a" ignore_lease:true}`)
	require.NoError(t, turn.Outcomes[0].Result.Err)
	require.NoError(t, turn.Outcomes[1].Result.Err)
	require.ErrorIs(t, turn.Outcomes[2].Result.Err, ErrKeyNotFound)
}

func TestDurable(t *testing.T) {
	eng := openEngine(t)
	a, err := Durable(eng)
	require.NoError(t, err)
	require.Zero(t, a.Index)
	s := open(t, eng)
	mustApply(t, s, `empty`, `put:{key:"a"}`)
	require.NoError(t, eng.Flush())
	mustApply(t, s, `put:{key:"a"}`)
	a, err = Durable(eng)
	require.NoError(t, err)
	require.EqualValues(t, 2, a.Index)
	require.EqualValues(t, 3, s.Applied().Index)
	require.EqualValues(t, -1, s.Removed())
	mustApply(t, s, `compaction:{revision:2}`)
	for s.RemovalDue() {
		_, err := s.RemoveSome(1, true)
		require.NoError(t, err)
	}
	require.EqualValues(t, 2, open(t, eng).Removed())
}
