package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/interchange"
	"github.com/dolmen-io/dolmen/internal/mvcc"
	"github.com/dolmen-io/dolmen/internal/peer"
)

// Kinds of bbolt's pages, and where a page says so.
const (
	pageSize     = 4096
	pageKindAt   = 8
	branchPage   = 0x01
	leafPage     = 0x02
	metaPage     = 0x04
	freelistPage = 0x10
)

// pageOf returns where the last page of a kind begins.
func pageOf(t *testing.T, file []byte, kind uint16) (at int) {
	t.Helper()
	at = -1
	for page := 0; page*pageSize < len(file); page++ {
		if binary.NativeEndian.Uint16(file[page*pageSize+pageKindAt:]) == kind {
			at = page * pageSize
		}
	}
	require.GreaterOrEqual(t, at, 0, "no page of kind %x", kind)
	return at
}

// lagging is a member that was away, and a snapshot that it needs. Nobody else runs.
type lagging struct {
	*fleet
	m       *Member
	message *raftpb.Message
	file    []byte
}

func newLagging(t *testing.T, engineName string) *lagging {
	t.Helper()
	f := newFleet(t, engineName, 3)
	at := (f.leader() + 1) % 3
	f.put(at, "before", "v")
	f.requireEqual()
	f.crash(at)
	other := (at + 1) % 3
	for i := range 300 { // more than fits a page of references
		f.put(other, fmt.Sprintf("k%03d", i), fmt.Sprintf("%d-%01000d", i, i))
	}
	lead := f.leader()
	f.awaitReplay(lead) // the member that answered may have been faster
	leader := f.members[lead]
	path := filepath.Join(t.TempDir(), "whole.db")
	snapshot, size, err := leader.network.export(t.Context(), path)
	require.NoError(t, err)
	file, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Len(t, file, int(size))
	m := &raftpb.Message{Type: raftpb.MsgSnap.Enum(), From: &leader.id.member, Term: new(leader.cons.Status().Term), Snapshot: snapshot}
	for i, other := range f.members {
		if other != nil {
			f.crash(i)
		}
	}
	f.open(at)
	f.awaitReplay(at)
	m.To = &f.members[at].id.member
	return &lagging{fleet: f, m: f.members[at], message: m, file: file}
}

// awaitReplay waits until a member has applied what it knows to be committed.
func (f *fleet) awaitReplay(i int) {
	f.t.Helper()
	m := f.members[i]
	require.Eventually(f.t, func() bool { return m.appliedIndex() == m.cons.Status().Commit }, fleetPatience, time.Millisecond)
}

// receive hands the member a snapshot as the transport does.
func (l *lagging) receive(m *raftpb.Message, file []byte) error {
	path := filepath.Join(l.t.TempDir(), "received.db")
	require.NoError(l.t, os.WriteFile(path, file, 0o600))
	return l.m.network.ReceiveSnapshot(context.Background(), m, path)
}

// value is what a serializable read finds.
func (l *lagging) value(key string) string {
	v, err := l.m.Read(l.t.Context(), false)
	require.NoError(l.t, err)
	defer v.Release()
	res, err := v.KV.Range(mvcc.RangeOptions{Key: []byte(key)})
	require.NoError(l.t, err)
	require.Len(l.t, res.KVs, 1)
	kv, err := mvcc.DecodeKeyValue(res.KVs[0])
	require.NoError(l.t, err)
	return string(kv.Value)
}

// asEtcd is a message without the checksum.
func asEtcd(m *raftpb.Message) *raftpb.Message {
	m = proto.CloneOf(m)
	m.Snapshot.Data = []byte(`{"Root":{"Path":"/"},"CurrentVersion":2}`)
	return m
}

// TestDamagedSnapshots: each is refused, the member keeps what it has and serves it, and takes a good one afterwards.
func TestDamagedSnapshots(t *testing.T) {
	for _, engineName := range []string{config.EngineMemory, config.EnginePebble} {
		t.Run(engineName, func(t *testing.T) {
			l := newLagging(t, engineName)
			v := l.m.state.View()
			before, applied := v, v.Applied.Index
			defer before.Release()
			want, err := v.HashKV(0)
			require.NoError(t, err)

			refused := 0.0
			refuses := func(t *testing.T, m *raftpb.Message, file []byte, cause error, text string) {
				t.Helper()
				err := l.receive(m, file)
				require.ErrorIs(t, err, cause)
				require.ErrorContains(t, err, text)
				refused++
				require.InDelta(t, refused, metric(t, l.m, "dolmen_snapshots_refused_total"), 0)
				require.Equal(t, "v", l.value("before"), "it serves on")
				v := l.m.state.View()
				defer v.Release()
				got, err := v.HashKV(0)
				require.NoError(t, err)
				require.Equal(t, want, got)
				require.Equal(t, applied, v.Applied.Index)
				require.Zero(t, l.m.network.incoming.count())
				sides, err := filepath.Glob(filepath.Join(memberDirectory(l.m.cfg), engineDir+".*"))
				require.NoError(t, err)
				require.Empty(t, sides)
			}
			for name, change := range damages(t, l.file) {
				t.Run(name, func(t *testing.T) {
					bad := change(slices.Clone(l.file))
					refuses(t, l.message, bad, errSnapshot, "its SHA-256 is")
					if name != "a bit of a value" { // only the checksum tells
						refuses(t, asEtcd(l.message), bad, interchange.ErrDamaged, "")
					}
				})
			}
			for name, tc := range lies(l.message) {
				t.Run(name, func(t *testing.T) { refuses(t, tc.message, l.file, tc.cause, tc.text) })
			}
			require.Equal(t, int(refused), l.lines[slices.Index(l.members, l.m)].FilterMessageSnippet("is refused; what this member holds stays").Len())

			good := l.message
			if engineName == config.EnginePebble {
				good = asEtcd(good)
			}
			require.NoError(t, l.receive(good, l.file))
			require.Eventually(t, func() bool { return l.m.appliedIndex() == good.GetSnapshot().GetMetadata().GetIndex() },
				fleetPatience, 10*time.Millisecond)
			require.Equal(t, fmt.Sprintf("7-%01000d", 7), l.value("k007"))
		})
	}
}

// damages are ways in which a file can be damaged.
func damages(t *testing.T, whole []byte) map[string]func(file []byte) []byte {
	flip := func(at int) func([]byte) []byte {
		return func(file []byte) []byte {
			file[at] ^= 4
			return file
		}
	}
	rename := func(bucket string) func([]byte) []byte {
		return func(file []byte) []byte {
			root := pageOf(t, file, leafPage) // the transactions before it have left older ones
			require.True(t, bytes.Contains(file[root:root+pageSize], []byte(bucket)), "the last leaf lists the buckets")
			copy(file[root+bytes.Index(file[root:], []byte(bucket)):], "zz")
			return file
		}
	}
	cut := func(n int) func([]byte) []byte { return func(file []byte) []byte { return file[:n] } }
	value := bytes.LastIndex(whole, fmt.Appendf(nil, "299-%01000d", 299)) + 500
	return map[string]func([]byte) []byte{
		"nothing":               cut(0),
		"within the first page": cut(100),
		"after a page":          cut(pageSize),
		"in the middle":         cut(len(whole) / 2 / pageSize * pageSize),
		"without its last page": cut(len(whole) - pageSize),
		"without its last byte": cut(len(whole) - 1),
		"a bit of both meta pages": func(file []byte) []byte {
			require.Equal(t, uint16(metaPage), binary.NativeEndian.Uint16(file[pageKindAt:]))
			return flip(pageSize + 40)(flip(40)(file))
		},
		"a bit of the free list": flip(pageOf(t, whole, freelistPage)),
		"a bit of a branch":      flip(pageOf(t, whole, branchPage) + 16),
		"a bit of a leaf":        flip(pageOf(t, whole, leafPage) + 12),
		"a bit of a value":       flip(value),
		"no bucket of leases":    rename("lease"),
	}
}

type lie struct {
	message *raftpb.Message
	cause   error
	text    string
}

// lies are messages that are not of the file.
func lies(m *raftpb.Message) map[string]lie {
	changed := func(change func(meta *raftpb.SnapshotMetadata)) *raftpb.Message {
		m := proto.CloneOf(m)
		change(m.Snapshot.Metadata)
		return m
	}
	other := proto.CloneOf(m)
	other.Snapshot.Data, _ = peer.Membership(nil, nil, "", [32]byte{1})
	none := proto.CloneOf(m)
	none.Snapshot.Data = []byte(`{"Dolmen":{"SHA256":"1"}}`)
	return map[string]lie{
		"another index": {changed(func(meta *raftpb.SnapshotMetadata) { *meta.Index++ }), errSnapshot, "its message says index"},
		"another term":  {changed(func(meta *raftpb.SnapshotMetadata) { *meta.Term++ }), errSnapshot, "its message says index"},
		"a voter more": {changed(func(meta *raftpb.SnapshotMetadata) { meta.ConfState.Voters = append(meta.ConfState.Voters, 7) }),
			errSnapshot, "its message says voters"},
		"a voter less": {changed(func(meta *raftpb.SnapshotMetadata) { meta.ConfState.Voters = meta.ConfState.Voters[1:] }),
			errSnapshot, "its message says voters"},
		"a learner": {changed(func(meta *raftpb.SnapshotMetadata) {
			meta.ConfState.Learners, meta.ConfState.Voters = meta.ConfState.Voters[:1], meta.ConfState.Voters[1:]
		}), errSnapshot, "its message says voters"},
		"another checksum": {other, errSnapshot, "its SHA-256 is"},
		"half a checksum":  {none, peer.ErrMessage, "is no SHA-256"},
	}
}
