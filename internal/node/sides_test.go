package node

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/state"
	"github.com/dolmen-io/dolmen/internal/wal"
)

// position is where an engine is after a snapshot or entries.
func position(index uint64) state.Applied {
	return state.Applied{Index: index, Term: 1, Conf: &raftpb.ConfState{Voters: []uint64{1}}}
}

func fill(t *testing.T, eng engine.Engine, index uint64) {
	t.Helper()
	var b engine.Batch
	require.NoError(t, position(index).Put(&b))
	require.NoError(t, eng.Commit(&b))
	require.NoError(t, eng.Flush())
}

// TestInterruptedInstall starts on what a crash leaves at each step of taking up a snapshot.
func TestInterruptedInstall(t *testing.T) {
	tests := []struct {
		name     string
		sides    []uint64
		recorded uint64 // in the log
		adopted  uint64 // in FORMAT
		want     uint64 // the engine's index
	}{
		{"nothing was received", nil, 0, 0, 5},
		{"received, not recorded", []uint64{20}, 0, 0, 5},
		{"recorded", []uint64{20}, 20, 0, 20},
		{"recorded, and another one was received", []uint64{20, 30}, 20, 0, 20},
		{"older than the engine", []uint64{3}, 3, 0, 5},
		{"adopted, the one before is left", []uint64{20}, 20, 20, 20},
		{"adopted, and a newer one is recorded", []uint64{20, 30}, 30, 20, 30},
	}
	for _, engineName := range []string{config.EngineMemory, config.EnginePebble} {
		for _, tt := range tests {
			t.Run(engineName+"/"+tt.name, func(t *testing.T) {
				smallSegments(t)
				cfg := quietConfig(t, engineName)
				open := func() *directory {
					d, err := openDirectory(t.Context(), cfg, zap.NewNop())
					require.NoError(t, err)
					return d.(*directory)
				}
				d := open()
				eng, err := d.openEngine(nil)
				require.NoError(t, err)
				fill(t, eng, 5)
				require.NoError(t, eng.Close())
				for _, index := range tt.sides {
					side, err := d.openSide(index, nil)
					require.NoError(t, err)
					fill(t, side, index)
					require.NoError(t, d.settleSide(index))
					require.NoError(t, side.Close())
				}
				log, err := d.createLog(wal.Metadata{NodeID: 1, ClusterID: 2})
				require.NoError(t, err)
				if tt.recorded > 0 {
					require.NoError(t, log.Install(tt.recorded, 1, position(1).Conf))
				}
				require.NoError(t, log.Close())
				if tt.adopted > 0 {
					_, err := d.adoptSide(tt.adopted)
					require.NoError(t, err)
				}
				require.NoError(t, d.close())

				for range 2 { // and the next start finds the same
					d = open()
					eng, err = d.openEngine(nil)
					require.NoError(t, err)
					at, err := state.Durable(eng)
					require.NoError(t, err)
					require.Equal(t, tt.want, at.Index)
					require.NoError(t, eng.Close())
					require.Equal(t, NewLayout(cfg.DataDir, "").Engine, d.inMember(d.current))
					require.NoError(t, d.close())
				}
				left, err := filepath.Glob(filepath.Join(memberDirectory(cfg), engineDir+"*"))
				require.NoError(t, err)
				require.Equal(t, []string{d.inMember(d.current)}, left)
			})
		}
	}
}

func TestForeignEngineDirectory(t *testing.T) {
	cfg := quietConfig(t, config.EngineMemory)
	require.NoError(t, os.MkdirAll(memberDirectory(cfg), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(memberDirectory(cfg), formatFile),
		[]byte(`{"product":"dolmen","format":2,"engine":"memory","directory":"../x"}`), 0o600))
	_, err := openDirectory(t.Context(), cfg, zap.NewNop())
	require.ErrorIs(t, err, ErrForeign)
	require.ErrorContains(t, err, `names "../x" as the engine's directory`)
}

// TestBadSnapshotsAreRefused: what a member holds stays as it is.
func TestBadSnapshotsAreRefused(t *testing.T) {
	f := newFleet(t, config.EngineMemory, 1)
	f.put(0, "k", "v")
	n := f.members[0].network
	path := filepath.Join(t.TempDir(), "db")
	snapshot, _, err := n.export(t.Context(), path)
	require.NoError(t, err)
	at := snapshot.GetMetadata()
	receive := func(index uint64, to uint64, file string) error {
		meta := &raftpb.SnapshotMetadata{Index: &index, Term: at.Term, ConfState: at.ConfState}
		return n.ReceiveSnapshot(context.Background(), &raftpb.Message{
			Type: raftpb.MsgSnap.Enum(), To: &to, From: new(uint64(9)), Term: at.Term,
			Snapshot: &raftpb.Snapshot{Metadata: meta, Data: snapshot.GetData()},
		}, file)
	}
	self := f.members[0].id.member
	require.ErrorIs(t, receive(1000, 5, path), errSnapshot)
	require.ErrorContains(t, receive(1000, self, path), "its message says index 1000")
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	cut := filepath.Join(t.TempDir(), "db")
	require.NoError(t, os.WriteFile(cut, content[:len(content)-4096], 0o600))
	require.Error(t, receive(1000, self, cut))
	require.NoError(t, receive(1, self, path), "what is applied already is raft's to answer")
	left, err := filepath.Glob(filepath.Join(memberDirectory(f.cfgs[0]), engineDir+".*"))
	require.NoError(t, err)
	require.Empty(t, left)
	f.require("k", "v")
}

// TestRepeatedSnapshot sends the message of a snapshot again while the first is on its way through the log, and has raft
// refuse it: the engine that the log is about to name must stay.
func TestRepeatedSnapshot(t *testing.T) {
	f := newFleet(t, config.EngineMemory, 1)
	n := f.members[0].network
	side, err := n.incoming.disk.openSide(1000, n.m.fail)
	require.NoError(t, err)
	n.incoming.keep(1000, side)
	self := n.m.id.member
	broken := &raftpb.Message{Type: raftpb.MsgSnap.Enum(), To: &self, Snapshot: &raftpb.Snapshot{ // from nobody
		Metadata: &raftpb.SnapshotMetadata{Index: new(uint64(1000)), Term: new(uint64(1)), ConfState: position(1).Conf}}}
	require.Error(t, n.ReceiveSnapshot(context.Background(), broken, filepath.Join(t.TempDir(), "db")))
	require.False(t, n.incoming.wants(1000))
	n.incoming.discard(1000)
}

// TestRepeatedSnapshotDuringInstall sends a snapshot again while the engine of the first takes its place and the state
// does not show it yet: the directory is in use.
func TestRepeatedSnapshotDuringInstall(t *testing.T) {
	f := newFleet(t, config.EngineMemory, 1)
	n := f.members[0].network
	path := filepath.Join(t.TempDir(), "db")
	_, _, err := n.export(t.Context(), path)
	require.NoError(t, err)
	side, err := n.incoming.disk.openSide(1000, n.m.fail)
	require.NoError(t, err)
	fill(t, side, 1000)
	n.incoming.keep(1000, side)
	meta := &raftpb.SnapshotMetadata{Index: new(uint64(1000)), Term: new(uint64(1)), ConfState: position(1).Conf}
	require.NoError(t, n.install(consensus.Batch{Snapshot: meta}))
	require.Less(t, n.m.appliedIndex(), uint64(1000))

	again := &raftpb.Message{Type: raftpb.MsgSnap.Enum(), To: &n.m.id.member, From: new(uint64(9)), Term: new(uint64(1)),
		Snapshot: &raftpb.Snapshot{Metadata: meta}}
	require.NoError(t, n.ReceiveSnapshot(context.Background(), again, path))
	_, err = os.Stat(n.m.disk.(*directory).inMember(sideName(1000)))
	require.NoError(t, err)
}
