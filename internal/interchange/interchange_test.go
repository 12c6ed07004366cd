package interchange

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/lease/leasepb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/memory"
	"github.com/dolmen-io/dolmen/internal/engine/pebble"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/mvcc"
	"github.com/dolmen-io/dolmen/internal/state"
)

// newEngine opens an empty engine.
func newEngine(t testing.TB, kind string) engine.Engine {
	t.Helper()
	var eng engine.Engine
	var err error
	if kind == "pebble" {
		eng, err = pebble.Open(t.TempDir(), pebble.Options{})
	} else {
		eng, err = memory.Open(t.TempDir(), memory.Options{})
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, eng.Close()) })
	return eng
}

func encode(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	require.NoError(t, err)
	return b
}

// sample is a state with something in every bucket: puts, overwrites and deletes under some keys, and what
// belongs to a member.
func sample(t testing.TB, seed uint64, changes int) map[string][]byte {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 1))
	out := map[string][]byte{}
	table := func(table byte, key string, value []byte) { out[string(engine.TableKey(table, []byte(key)))] = value }
	type life struct{ create, version int64 }
	lives := map[string]*life{}
	for main := int64(2); main < int64(2+changes); main++ {
		for sub := range rnd.Int64N(3) + 1 {
			key := fmt.Sprintf("key-%d", rnd.IntN(changes/3+1))
			rev := mvcc.Revision{Main: main, Sub: sub}
			if l := lives[key]; l != nil && rnd.IntN(4) == 0 {
				delete(lives, key)
				out[string(rev.EngineKey(true))] = (&mvcc.KeyValue{Key: []byte(key)}).Encode()
				continue
			}
			if lives[key] == nil {
				lives[key] = &life{create: main}
			}
			lives[key].version++
			value := make([]byte, rnd.IntN(200))
			if rnd.IntN(50) == 0 {
				value = make([]byte, 40_000)
			}
			for i := range value {
				value[i] = byte(rnd.Uint32())
			}
			kv := mvcc.KeyValue{Key: []byte(key), Value: value, Create: lives[key].create, Mod: main, Ver: lives[key].version}
			if rnd.IntN(3) == 0 {
				kv.LeaseID = rnd.Int64N(20) + 1
			}
			out[string(rev.EngineKey(false))] = kv.Encode()
		}
	}
	for id := int64(1); id <= 20; id++ {
		table(engine.TableLease, string(binary.BigEndian.AppendUint64(nil, uint64(id))), encode(t, &leasepb.Lease{ID: id, TTL: 60 + id}))
	}
	table(engine.TableAuth, authEnabledKey, []byte{1})
	table(engine.TableAuth, authRevisionKey, binary.BigEndian.AppendUint64(nil, 7))
	table(engine.TableAuthUser, "root", encode(t, &authpb.User{Name: []byte("root"), Password: []byte("$2a$"), Roles: []string{"root"}}))
	table(engine.TableAuthRole, "root", encode(t, &authpb.Role{Name: []byte("root")}))
	for i, m := range []membership.Member{
		{ID: 0x22, PeerURLs: []string{"http://two"}, Name: "two"}, {ID: 0x111, PeerURLs: []string{"http://one"}},
		{ID: 0x3, PeerURLs: []string{"http://three"}, IsLearner: true},
	} {
		b, err := json.Marshal(m)
		require.NoError(t, err, i)
		table(engine.TableMember, fmt.Sprintf("%x", m.ID), b)
	}
	table(engine.TableMemberRemoved, "abc", []byte("removed"))
	table(engine.TableCluster, clusterVersionKey, []byte("3.7.0"))
	table(engine.TableCluster, downgradeKey, []byte(`{"target-version":"","enabled":false}`))
	table(engine.TableAlarm, string(encode(t, &etcdserverpb.AlarmMember{MemberID: 0x22, Alarm: etcdserverpb.AlarmType_NOSPACE})), []byte{})
	table(engine.TableMeta, scheduledKey, mvcc.Revision{Main: 3}.EngineKey(false))
	table(engine.TableMeta, finishedKey, mvcc.Revision{Main: 2}.EngineKey(false))
	return out
}

// position is the one that the sample's members make.
func position() state.Applied {
	return state.Applied{Index: 1234, Term: 5, Conf: &raftpb.ConfState{
		Voters: []uint64{0x22, 0x111}, Learners: []uint64{3}, AutoLeave: new(bool),
	}}
}

func fill(t testing.TB, eng engine.Engine, records map[string][]byte) {
	t.Helper()
	var b engine.Batch
	for _, key := range slices.Sorted(maps.Keys(records)) {
		b.Put([]byte(key), records[key])
	}
	require.NoError(t, position().Put(&b))
	require.NoError(t, eng.Commit(&b))
}

// dump returns everything an engine holds.
func dump(t testing.TB, eng engine.Engine) map[string]string {
	t.Helper()
	out := map[string]string{}
	sn := snapshot(t, eng)
	require.NoError(t, sn.Scan(nil, nil, false, func(k, v []byte) bool {
		out[string(k)] = string(v)
		return true
	}))
	return out
}

func snapshot(t testing.TB, eng engine.Engine) engine.Snapshot {
	t.Helper()
	sn, err := eng.Snapshot()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sn.Close()) })
	return sn
}

func export(t testing.TB, eng engine.Engine) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	size, err := Export(t.Context(), snapshot(t, eng), path)
	require.NoError(t, err)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, info.Size(), size)
	require.Zero(t, size%sectorSize)
	return path
}

func open(t testing.TB, path string) *File {
	t.Helper()
	f, err := Open(t.Context(), path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return f
}

// TestThereAndBack takes states through a file and compares all that an engine holds.
func TestThereAndBack(t *testing.T) {
	for _, kind := range []string{"memory", "pebble"} {
		for seed := range uint64(4) {
			t.Run(fmt.Sprint(kind, seed), func(t *testing.T) {
				from, to := newEngine(t, kind), newEngine(t, kind)
				fill(t, from, sample(t, seed, 20+int(seed)*700))
				f := open(t, export(t, from))
				require.False(t, f.HasTrailer())
				contents, err := f.Import(t.Context(), to, Options{})
				require.NoError(t, err)
				require.Equal(t, dump(t, from), dump(t, to))
				require.True(t, proto.Equal(position().Conf, contents.Conf), "%v", contents.Conf)
				durable, err := state.Durable(to)
				require.NoError(t, err)
				require.Equal(t, uint64(1234), durable.Index)
				again := open(t, export(t, to))
				second, err := again.Scan(t.Context(), nil, nil)
				require.NoError(t, err)
				require.True(t, proto.Equal(contents.Conf, second.Conf))
				contents.Conf, second.Conf = nil, nil
				require.Equal(t, contents, second)
			})
		}
	}
}

// TestOtherMetaStaysHome: what other parts keep in the engine's meta table is no part of the file.
func TestOtherMetaStaysHome(t *testing.T) {
	eng := newEngine(t, "memory")
	records := sample(t, 1, 10)
	records[string(engine.TableKey(engine.TableMeta, []byte("ours")))] = []byte("x")
	fill(t, eng, records)
	_, err := open(t, export(t, eng)).Scan(t.Context(), nil, nil)
	require.NoError(t, err)
}

func TestContents(t *testing.T) {
	eng := newEngine(t, "memory")
	fill(t, eng, sample(t, 3, 50))
	var told []int64
	path := export(t, eng)
	c, err := open(t, path).Scan(t.Context(), func(n int64) { told = append(told, n) }, nil)
	require.NoError(t, err)
	require.Equal(t, []int64{0}, told)
	info, err := os.Stat(path)
	require.NoError(t, err)
	live := map[string]bool{}
	revisions := 0
	sn := snapshot(t, eng)
	require.NoError(t, sn.Scan(nil, engine.RevisionsEnd, false, func(k, v []byte) bool {
		kv, err := mvcc.DecodeKeyValue(v)
		require.NoError(t, err)
		live[string(kv.Key)] = len(k) == 17
		revisions++
		return true
	}))
	maps.DeleteFunc(live, func(_ string, there bool) bool { return !there })
	want := &Contents{
		Hash: c.Hash, Revision: 51, Scheduled: 3, Finished: 2, Revisions: revisions, Keys: len(live), Leases: 20, Users: 1, Roles: 1,
		Members: 3, Removed: 1, Alarms: 1, AuthEnabled: true, Size: info.Size(), Bytes: c.Bytes, Version: "3.7.0", ClusterVersion: "3.7.0",
		Index: 1234, Term: 5, Conf: c.Conf,
	}
	require.Equal(t, want, c)
}

// TestFreshEngine: a member into which nothing was applied makes a file that can be taken over.
func TestFreshEngine(t *testing.T) {
	from, to := newEngine(t, "memory"), newEngine(t, "memory")
	c, err := open(t, export(t, from)).Import(t.Context(), to, Options{})
	require.NoError(t, err)
	require.Equal(t, "3.7.0", c.Version)
	require.Equal(t, map[string]string{string(engine.TableKey(engine.TableAuth, []byte(authRevisionKey))): "\x00\x00\x00\x00\x00\x00\x00\x01"}, dump(t, to))
}

func TestNewCluster(t *testing.T) {
	from, to := newEngine(t, "memory"), newEngine(t, "memory")
	fill(t, from, sample(t, 4, 30))
	at := state.Applied{Index: 3, Term: 1, Conf: &raftpb.ConfState{Voters: []uint64{1, 2, 3}, AutoLeave: new(bool)}}
	c, err := open(t, export(t, from)).Import(t.Context(), to, Options{Position: &at, NewCluster: true, BumpRevision: 1000})
	require.NoError(t, err)
	require.Equal(t, int64(1031), c.Revision)
	got := dump(t, to)
	for key := range got {
		require.NotEqual(t, engine.TableMember, key[0])
		require.NotEqual(t, engine.TableMemberRemoved, key[0])
	}
	bumped := mvcc.Revision{Main: 1031}.EngineKey(false)
	value, there := got[string(bumped)]
	require.True(t, there)
	require.Empty(t, value)
	require.Equal(t, string(bumped), got[string(engine.TableKey(engine.TableMeta, []byte(scheduledKey)))])
	s, err := state.Open(to, state.Config{MinTTL: 1})
	require.NoError(t, err)
	require.Equal(t, uint64(3), s.Applied().Index)
	current, compacted := s.Revisions()
	require.Equal(t, []int64{1031, 1031}, []int64{current, compacted})

	third := newEngine(t, "memory")
	_, err = open(t, export(t, from)).Import(t.Context(), third, Options{NewCluster: true, BumpRevision: 1<<63 - 1})
	require.ErrorContains(t, err, "the sum is too large")
	_, err = open(t, export(t, from)).Import(t.Context(), to, Options{})
	require.ErrorIs(t, err, ErrNotEmpty)
}

// TestHash: the checksum that is computed without a file is that of the file, the position aside.
func TestHash(t *testing.T) {
	eng := newEngine(t, "pebble")
	fill(t, eng, sample(t, 5, 300))
	got, err := Hash(t.Context(), snapshot(t, eng))
	require.NoError(t, err)

	db, err := bbolt.Open(export(t, eng), 0o600, nil)
	require.NoError(t, err)
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	require.NoError(t, db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			_, _ = h.Write(name)
			return b.ForEach(func(k, v []byte) error {
				if string(name) != bucketMeta || !slices.Contains([]string{indexKey, termKey, storageVersionKey}, string(k)) {
					_, _ = h.Write(append(bytes.Clone(k), v...))
				}
				return nil
			})
		})
	}))
	require.NoError(t, db.Close())
	require.Equal(t, h.Sum32(), got)
}

func TestCanceled(t *testing.T) {
	eng, to := newEngine(t, "memory"), newEngine(t, "memory")
	fill(t, eng, sample(t, 6, 6_000))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	path := filepath.Join(t.TempDir(), "db")
	_, err := Export(ctx, snapshot(t, eng), path)
	require.ErrorIs(t, err, context.Canceled)
	require.NoFileExists(t, path)
	_, err = Hash(ctx, snapshot(t, eng))
	require.ErrorIs(t, err, context.Canceled)
	f := open(t, export(t, eng))
	_, err = f.Import(ctx, to, Options{})
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, dump(t, to))
	_, err = Export(t.Context(), snapshot(t, eng), f.Path())
	require.ErrorContains(t, err, "choose another name")
	require.FileExists(t, f.Path())
}

func TestStorageVersion(t *testing.T) {
	for text, want := range map[string]string{"": "3.7.0", "3.6.0": "3.6.0", "3.7.0": "3.7.0", "3.5.0": "3.7.0", "3.8.0": "3.7.0"} {
		eng := newEngine(t, "memory")
		if text != "" {
			fill(t, eng, map[string][]byte{string(engine.TableKey(engine.TableCluster, []byte(clusterVersionKey))): []byte(text)})
		}
		got, err := StorageVersion(snapshot(t, eng))
		require.NoError(t, err)
		require.Equal(t, want, got, text)
	}
	eng := newEngine(t, "memory")
	fill(t, eng, map[string][]byte{string(engine.TableKey(engine.TableCluster, []byte(clusterVersionKey))): []byte("new")})
	_, err := StorageVersion(snapshot(t, eng))
	require.ErrorIs(t, err, engine.ErrCorrupt)
}

func TestLogReadable(t *testing.T) {
	for _, version := range []string{"", "3.0.0", "3.6.0", "3.7.0"} {
		require.NoError(t, (&Contents{ClusterVersion: version}).LogReadable(), version)
	}
	for _, version := range []string{"3.4.0", "3.5.0"} {
		require.ErrorIs(t, (&Contents{ClusterVersion: version}).LogReadable(), ErrVersion, version)
	}
}

// saved adds the trailer of a snapshot to a copy of a file.
func saved(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	sum := sha256.Sum256(b)
	out := filepath.Join(t.TempDir(), "snapshot.db")
	require.NoError(t, os.WriteFile(out, append(b, sum[:]...), 0o600))
	return out
}

func TestTrailer(t *testing.T) {
	eng := newEngine(t, "memory")
	fill(t, eng, sample(t, 7, 100))
	path := export(t, eng)
	f := open(t, saved(t, path))
	require.True(t, f.HasTrailer())
	var told int64
	require.NoError(t, f.CheckTrailer(t.Context(), func(n int64) { told = n }))
	require.Equal(t, f.Size(), told)
	_, err := f.Scan(t.Context(), nil, nil)
	require.NoError(t, err)
	require.NoError(t, f.CheckTrailer(t.Context(), nil), "after the pages were read")
	require.ErrorIs(t, open(t, path).CheckTrailer(t.Context(), nil), ErrDamaged)

	b, err := os.ReadFile(f.Path())
	require.NoError(t, err)
	for _, at := range []int{len(b) - 1, len(b) - 40, 9000} {
		bad := bytes.Clone(b)
		bad[at] ^= 4
		name := filepath.Join(t.TempDir(), "bad")
		require.NoError(t, os.WriteFile(name, bad, 0o600))
		err := open(t, name).CheckTrailer(t.Context(), nil)
		require.ErrorIs(t, err, ErrDamaged, at)
		require.ErrorContains(t, err, name)
	}
}

func TestOpenLocked(t *testing.T) {
	eng := newEngine(t, "memory")
	path := export(t, eng)
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Open(ctx, path)
	require.ErrorIs(t, err, ErrLocked)
	require.ErrorContains(t, err, path)
	require.NoError(t, db.Close())
	require.NoError(t, open(t, path).check())

	_, err = Open(t.Context(), filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Open(t.Context(), t.TempDir())
	require.ErrorContains(t, err, "it is not a file")
	for _, size := range []int{0, 100, 10_000} {
		name := filepath.Join(t.TempDir(), "none")
		require.NoError(t, os.WriteFile(name, make([]byte, size), 0o600))
		_, err = Open(t.Context(), name)
		require.ErrorIs(t, err, ErrDamaged)
	}
}
