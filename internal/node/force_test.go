package node

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/enginetest"
	"github.com/dolmen-io/dolmen/internal/engine/memory"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/state"
	"github.com/dolmen-io/dolmen/internal/wal"
)

// hashKV is the checksum of all that a member holds, with the revision.
func hashKV(t *testing.T, m *Member) string {
	t.Helper()
	v := m.state.View()
	defer v.Release()
	h, err := v.HashKV(0)
	require.NoError(t, err)
	return fmt.Sprintf("%x at %d", h.Sum, v.KV.Current())
}

// stopClean stops a member of a fleet.
func (f *fleet) stopClean(i int) {
	f.t.Helper()
	require.NoError(f.t, f.members[i].Stop(context.Background()))
	f.members[i] = nil
}

// TestForceNewCluster: two of three members are gone for good, and the third goes on by itself.
func TestForceNewCluster(t *testing.T) {
	smallSegments(t)
	for _, engineName := range []string{config.EngineMemory, config.EnginePebble} {
		t.Run(engineName, func(t *testing.T) {
			f := newFleet(t, engineName, 3)
			for i := range 120 {
				f.put(i%3, fmt.Sprintf("k%d", i), "v")
			}
			grant(t, f.members[0], 7, 600)
			f.requireEqual()
			want := hashKV(t, f.members[0])
			old := f.cfgs[1]
			f.crash(1)
			f.crash(2)
			f.stopClean(0)

			f.cfgs[0].ForceNewCluster = true
			f.open(0)
			f.awaitReady(0)
			require.Equal(t, want, hashKV(t, f.members[0]))
			require.Len(t, web{f.members[0]}.Members(), 1)
			require.Equal(t, 1, f.lines[0].FilterMessage("forcing restart member").Len())
			f.put(0, "alone", "v")

			// One that was dropped is told so, and stops.
			f.cfgs[1].InitialCluster = f.cluster()
			f.open(1)
			<-f.members[1].Done()
			require.NoError(t, f.members[1].Err())
			f.members[1] = nil

			// Without the flag it stays alone, and with it too.
			f.stopClean(0)
			for _, again := range []bool{false, true} {
				f.cfgs[0].ForceNewCluster = again
				f.open(0)
				f.awaitReady(0)
				require.Len(t, web{f.members[0]}.Members(), 1)
				f.put(0, "again", fmt.Sprint(again))
				f.crash(0) // what was acknowledged is in the log only
			}
			f.cfgs[0].ForceNewCluster = false
			f.open(0)
			f.awaitReady(0)
			f.require("again", "true")

			// Members can be added again, at the addresses of those that were dropped too.
			f.cfgs[1], f.cfgs[2] = f.cfgs[0], f.cfgs[0] // those that `cluster` tells of
			f.cfgs = f.cfgs[:1]
			f.members, f.lines = f.members[:1], f.lines[:1]
			at := f.addAs(engineName, old)
			f.awaitReady(at)
			f.require("again", "true")
			f.requireEqual()
			require.Equal(t, []string{"k"}, f.members[at].state.Leases().Keys(7))
		})
	}
}

// addAs adds a member with the addresses of another one.
func (f *fleet) addAs(engineName string, like *config.Config) (i int) {
	f.t.Helper()
	cfg := f.configure(engineName)
	cfg.ListenPeerURLs, cfg.AdvertisePeerURLs = like.ListenPeerURLs, like.AdvertisePeerURLs
	cfg.InitialClusterState, cfg.InitialCluster = config.ClusterExisting, f.cluster()
	now := time.Now()
	m := membership.NewMember("", []string{cfg.AdvertisePeerURLs[0].String()}, cfg.InitialClusterToken, false, &now)
	_, err := operator{f.members[0]}.Reconfigure(f.t.Context(), membership.Change{Kind: membership.AddNode, ID: m.ID, Member: m})
	require.NoError(f.t, err)
	f.open(len(f.cfgs) - 1)
	return len(f.cfgs) - 1
}

// survivor is the stopped member of a cluster of three of which the others are gone.
func survivor(t *testing.T) (cfg *config.Config, hash string) {
	t.Helper()
	f := newFleet(t, config.EngineMemory, 3)
	for i := range 3 {
		f.put(i, fmt.Sprintf("k%d", i), "v")
	}
	f.requireEqual()
	hash = hashKV(t, f.members[0])
	f.crash(1)
	f.crash(2)
	f.stopClean(0)
	return f.cfgs[0], hash
}

func copyDirectory(t *testing.T, from string) (to string) {
	t.Helper()
	to = filepath.Join(t.TempDir(), "copy")
	require.NoError(t, os.CopyFS(to, os.DirFS(from)))
	return to
}

// forceOnly writes what --force-new-cluster writes, and no more.
func forceOnly(t *testing.T, cfg *config.Config) {
	t.Helper()
	forced := *cfg
	forced.ForceNewCluster = true
	m := &Member{cfg: &forced, lg: zap.NewNop()}
	d, err := openDirectory(t.Context(), &forced, m.lg)
	require.NoError(t, err)
	defer func() { require.NoError(t, d.close()) }()
	m.eng, err = d.openEngine(nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, m.eng.Close()) }()
	applied, err := state.Durable(m.eng)
	require.NoError(t, err)
	from, err := openLog(t.Context(), &newcomer{cfg: &forced, lg: m.lg}, d, applied)
	require.NoError(t, err)
	defer func() { require.NoError(t, from.consensus.Log.Close()) }()
	m.id = from.id
	_, dropped, err := m.forceAlone(from.consensus)
	require.NoError(t, err)
	require.Len(t, dropped, 2)
}

// cut takes what follows on an offset out of a segment, as a crash does: with empty space behind, or the end of the file
// in the middle of a record.
func cut(t *testing.T, path string, offset, torn int64) {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(path, offset+torn))
	if torn == 0 {
		require.NoError(t, os.Truncate(path, info.Size()))
	}
}

// TestForceNewClusterAfterCrash begins at each state that a crash leaves while the log is written: after each record,
// and in the middle of it.
func TestForceNewClusterAfterCrash(t *testing.T) {
	smallSegments(t)
	cfg, hash := survivor(t)
	before := ends(t, cfg.DataDir)
	whole := copyDirectory(t, cfg.DataDir)
	at := *cfg
	at.DataDir = whole
	forceOnly(t, &at)
	after := ends(t, whole)
	require.Greater(t, len(after), len(before)+3)

	for i := len(before); i <= len(after); i++ {
		for _, torn := range []int64{0, 9} {
			for _, flag := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d records and %d bytes, flag %t", i-len(before), torn, flag), func(t *testing.T) {
					this := at
					this.DataDir, this.ForceNewCluster = copyDirectory(t, whole), flag
					if i < len(after) {
						cut(t, filepath.Join(walDirectory(&this), filepath.Base(after[i].Path)), after[i].Offset, torn)
					}
					requireForced(t, &this, hash, flag || i == len(after))
				})
			}
		}
	}
}

// ends returns where the records of a log begin.
func ends(t *testing.T, dataDir string) (all []wal.Record) {
	t.Helper()
	_, err := wal.Scan(filepath.Join(dataDir, "member", walDir), func(r wal.Record) error {
		all = append(all, r)
		return nil
	})
	require.NoError(t, err)
	return all
}

// requireForced opens a member, which comes up alone or waits for the others, and once more with the flag.
func requireForced(t *testing.T, cfg *config.Config, hash string, alone bool) {
	t.Helper()
	m, err := Open(t.Context(), cfg, zap.NewNop())
	require.NoError(t, err)
	if alone {
		ready(t, m)
		require.Len(t, web{m}.Members(), 1)
	}
	require.Equal(t, hash, hashKV(t, m))
	require.NoError(t, m.Stop(context.Background()))
	again := *cfg
	again.ForceNewCluster = true
	m, err = Open(t.Context(), &again, zap.NewNop())
	require.NoError(t, err)
	ready(t, m)
	require.Len(t, web{m}.Members(), 1)
	require.Equal(t, hash, hashKV(t, m))
	require.NoError(t, m.Stop(context.Background()))
}

// recordedLog keeps what is appended.
type recordedLog struct {
	consensus.Log
	states  []*raftpb.HardState
	entries []*raftpb.Entry
}

func (l *recordedLog) Append(hs *raftpb.HardState, entries []*raftpb.Entry) error {
	l.states, l.entries = append(l.states, hs), append(l.entries, entries...)
	return nil
}

// forcedChanges describes entries.
func forcedChanges(t *testing.T, entries []*raftpb.Entry) (all []string) {
	t.Helper()
	for _, e := range entries {
		cc := &raftpb.ConfChange{}
		require.NoError(t, proto.Unmarshal(e.GetData(), cc))
		c, err := membership.ParseChange(membership.Kind(cc.GetType()), cc.GetNodeId(), cc.GetContext())
		require.NoError(t, err)
		text := fmt.Sprintf("%d/%d: %d %x", e.GetIndex(), e.GetTerm(), c.Kind, c.ID)
		if c.Promote {
			text += " promoted"
		}
		all = append(all, text)
	}
	return all
}

func TestForcedEntries(t *testing.T) {
	const self = 1
	member := func(id uint64, learner bool) membership.Member {
		return membership.Member{ID: id, PeerURLs: []string{fmt.Sprintf("http://h:%d", id)}, IsLearner: learner}
	}
	add := func(index uint64, m membership.Member) *raftpb.Entry {
		kind := membership.AddNode
		if m.IsLearner {
			kind = membership.AddLearnerNode
		}
		e, err := confEntry(membership.Change{Kind: kind, ID: m.ID, Member: m}, index, 2)
		require.NoError(t, err)
		return e
	}
	remove := func(index, id uint64) *raftpb.Entry {
		e, err := confEntry(membership.Change{Kind: membership.RemoveNode, ID: id}, index, 2)
		require.NoError(t, err)
		return e
	}
	plain := func(index uint64) *raftpb.Entry {
		return &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Index: &index, Term: new(uint64(2))}
	}
	// The state has applied up to 10, where these are the members.
	three := []membership.Member{member(1, false), member(2, false), member(3, false)}
	for name, tc := range map[string]struct {
		members  []membership.Member
		removed  []uint64
		commit   uint64
		entries  []*raftpb.Entry
		kept     int
		forced   []string
		refused  string
		discards int64
	}{
		"all of the log is committed": {
			members: three, commit: 12, entries: []*raftpb.Entry{plain(11), plain(12)}, kept: 2, forced: []string{"13/3: 1 2", "14/3: 1 3"},
		},
		"the commit index is older than the state": {
			members: three, commit: 9, entries: []*raftpb.Entry{plain(11)}, forced: []string{"11/3: 1 2", "12/3: 1 3"}, discards: 1,
		},
		"a member was added": {
			members: three[:2], commit: 11, entries: []*raftpb.Entry{add(11, member(9, true)), plain(12)}, kept: 1,
			forced: []string{"12/3: 1 2", "13/3: 1 9"}, discards: 1,
		},
		"a member was removed":             {members: three[:2], commit: 11, entries: []*raftpb.Entry{remove(11, 2)}, kept: 1},
		"its removal was not committed":    {members: three[:2], commit: 10, entries: []*raftpb.Entry{remove(11, 1)}, forced: []string{"11/3: 1 2"}, discards: 1},
		"only voter: all of its log":       {members: three[:1], commit: 10, entries: []*raftpb.Entry{plain(11), plain(12)}, kept: 2},
		"only voter, until it had another": {members: three[:1], commit: 10, entries: []*raftpb.Entry{plain(11), add(12, three[1]), plain(13)}, kept: 2, forced: []string{"13/3: 1 2"}, discards: 1},
		"a learner":                        {members: []membership.Member{member(1, true), member(2, false)}, commit: 10, forced: []string{"11/3: 0 1 promoted", "12/3: 1 2"}},
		"not yet a member":                 {members: three[1:], commit: 10, forced: []string{"11/3: 0 1", "12/3: 1 2", "13/3: 1 3"}},
		"nothing at all":                   {commit: 10, forced: []string{"11/3: 0 1"}},
		"removed":                          {members: three[1:], removed: []uint64{1}, commit: 10, refused: "member 1 was removed, and an ID never comes back"},
		"removed by what is not applied":   {members: three, commit: 11, entries: []*raftpb.Entry{remove(11, 1)}, refused: "member 1 was removed"},
		"its address is another's":         {members: []membership.Member{{ID: 2, PeerURLs: []string{"http://self:1"}}}, commit: 10, refused: "member 1 at [http://self:1]"},
		"the log has lost its end":         {members: three, commit: 12, entries: []*raftpb.Entry{plain(11)}, refused: "it has lost its end"},
	} {
		t.Run(name, func(t *testing.T) {
			eng := engineOf(t, tc.members, tc.removed)
			core, lines := observer.New(zapcore.InfoLevel)
			log := &recordedLog{}
			f := &forcing{lg: zap.New(core), id: identity{member: self, cluster: 5}, urls: []string{"http://self:1"}, eng: eng, maxLearners: 1}
			conf := &raftpb.ConfState{}
			for _, m := range tc.members {
				if m.IsLearner {
					conf.Learners = append(conf.Learners, m.ID)
				} else {
					conf.Voters = append(conf.Voters, m.ID)
				}
			}
			got, _, err := f.force(consensus.Config{
				Log: log, HardState: &raftpb.HardState{Term: new(uint64(2)), Commit: &tc.commit}, First: consensus.First{Index: 10, Term: 2},
				Applied: 10, ConfState: conf, Entries: tc.entries, Bootstrap: []consensus.Peer{{ID: 2}},
			})
			if tc.refused != "" {
				require.ErrorContains(t, err, tc.refused)
				require.Empty(t, log.states)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tc.forced, forcedChanges(t, log.entries))
			require.Equal(t, slices.Concat(tc.entries[:tc.kept], log.entries), slices.Clip(got.Entries))
			require.Equal(t, max(10, lastIndex(got.Entries)), got.HardState.GetCommit())
			require.Nil(t, got.Bootstrap)
			if len(tc.forced) > 0 {
				require.Len(t, log.states, 2)
				for i, commit := range []uint64{10 + uint64(tc.kept), lastIndex(got.Entries)} {
					require.Equal(t, []uint64{3, self, commit}, []uint64{log.states[i].GetTerm(), log.states[i].GetVote(), log.states[i].GetCommit()})
				}
				require.Equal(t, got.HardState, log.states[1])
			}
			said := lines.FilterMessage("discarding uncommitted WAL entries").All()
			if tc.discards == 0 {
				require.Empty(t, said)
				return
			}
			require.Equal(t, tc.discards, said[0].ContextMap()["number-of-discarded-entries"])
		})
	}
}

// engineOf is an engine that knows some members.
func engineOf(t *testing.T, members []membership.Member, removed []uint64) engine.Engine {
	t.Helper()
	eng, err := memory.Open("test", memory.Options{Directory: enginetest.NewDirectory()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, eng.Close()) })
	var b engine.Batch
	for _, m := range members {
		text, err := json.Marshal(m)
		require.NoError(t, err)
		b.Put(fmt.Appendf([]byte{engine.TableMember}, "%x", m.ID), text)
	}
	for _, id := range removed {
		b.Put(fmt.Appendf([]byte{engine.TableMemberRemoved}, "%x", id), []byte("removed"))
	}
	require.NoError(t, eng.Commit(&b))
	return eng
}
