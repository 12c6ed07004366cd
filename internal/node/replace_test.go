package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/interchange"
	"github.com/dolmen-io/dolmen/internal/mvcc"
	"github.com/dolmen-io/dolmen/internal/state"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func (f *fleet) compact(i int, revision int64) {
	f.t.Helper()
	res, err := f.members[i].Propose(f.t.Context(), &pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{Revision: revision}})
	require.NoError(f.t, err)
	require.NoError(f.t, res.Err)
}

// TestReadsWhileASnapshotTakesThePlace reads in every way that takes long, on a member in the middle of a compaction whose
// state a snapshot replaces. Every answer is of the state before or of the one after.
func TestReadsWhileASnapshotTakesThePlace(t *testing.T) {
	f := newFleetWith(t, config.EngineMemory, 3, func(cfg *config.Config) {
		cfg.CompactionBatchLimit, cfg.CompactionSleepInterval = 1, 30*time.Millisecond // it is under way for long
	})
	at := (f.leader() + 1) % 3
	for i := range 60 {
		f.put(at, "again", fmt.Sprint(i))
	}
	f.requireEqual()
	f.compact(at, 50)
	require.NoError(t, f.members[at].Stop(context.Background()))
	f.members[at] = nil
	other := (at + 1) % 3
	for i := range 100 {
		f.put(other, fmt.Sprintf("k%02d", i%40), fmt.Sprint(i))
	}
	f.compact(other, 120)
	lead := f.leader()
	f.awaitReplay(lead) // the member that answered may have been faster
	leader := f.members[lead]
	path := filepath.Join(t.TempDir(), "whole.db")
	snapshot, _, err := leader.network.export(t.Context(), path)
	require.NoError(t, err)
	file, err := os.ReadFile(path)
	require.NoError(t, err)
	after := hashes(t, leader)
	message := &raftpb.Message{Type: raftpb.MsgSnap.Enum(), From: &leader.id.member, Term: new(leader.cons.Status().Term), Snapshot: snapshot}
	for i, other := range f.members {
		if other != nil {
			f.crash(i)
		}
	}
	f.open(at)
	f.awaitReplay(at)
	l := &lagging{fleet: f, m: f.members[at], message: message, file: file}
	message.To = &l.m.id.member
	require.Eventually(t, func() bool { return f.lines[at].FilterMessage("resume scheduled compaction").Len() == 1 },
		fleetPatience, time.Millisecond)
	before := hashes(t, l.m)
	require.NotEqual(t, before, after)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := &readers{t: t, m: l.m, before: before, after: after}
	wait := r.start(ctx)
	require.NoError(t, l.receive(message, file))
	require.Eventually(t, func() bool { return l.m.appliedIndex() == snapshot.GetMetadata().GetIndex() }, fleetPatience, time.Millisecond)
	require.Eventually(t, func() bool { return r.all(after) }, fleetPatience, time.Millisecond)
	cancel()
	wait()
	require.Equal(t, after, hashes(t, l.m))

	// The compaction of the state before is forgotten, that of the new one is taken up.
	removed, stop := context.WithTimeout(t.Context(), fleetPatience)
	defer stop()
	require.NoError(t, l.m.Compacted(removed, 120))
	require.Equal(t, after.kv, hashes(t, l.m).kv)
}

// sums are checksums of a state.
type sums struct{ kv mvcc.Hash }

func hashes(t *testing.T, m *Member) sums {
	t.Helper()
	v := m.state.View()
	defer v.Release()
	h, err := v.HashKV(0)
	require.NoError(t, err)
	return sums{h}
}

// readers read a member over and over.
type readers struct {
	t             *testing.T
	m             *Member
	before, after sums

	mu   sync.Mutex
	seen map[string]sums // the newest answer by kind
}

func (r *readers) note(kind string, got sums) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if got != r.before && got != r.after {
		r.t.Errorf("%s: %+v is neither of the state before (%+v) nor of the one after (%+v)", kind, got, r.before, r.after)
	}
	r.seen[kind] = got
}

func (r *readers) all(want sums) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, got := range r.seen {
		if got != want {
			return false
		}
	}
	return len(r.seen) == 3
}

// start begins to read until ctx ends.
func (r *readers) start(ctx context.Context) (wait func()) {
	r.seen = map[string]sums{}
	var all sync.WaitGroup
	for kind, read := range map[string]func() (sums, error){
		"hash of keys": r.hashKV, "history": r.history, "backup": r.backup,
	} {
		all.Go(func() {
			for ctx.Err() == nil {
				got, err := read()
				switch {
				case err == nil:
					r.note(kind, got)
				case !errors.Is(err, state.ErrReplaced) && !errors.Is(err, mvcc.ErrCompacted):
					r.t.Errorf("%s: %v", kind, err)
				}
			}
		})
	}
	all.Go(func() {
		for ctx.Err() == nil {
			if _, _, err := newBackup(r.m).Hash(context.Background()); err != nil && !errors.Is(err, state.ErrReplaced) {
				r.t.Errorf("hash: %v", err)
			}
		}
	})
	return all.Wait
}

func (r *readers) hashKV() (sums, error) {
	h, _, err := web{r.m}.HashKV(0)
	return sums{h}, err
}

// history reads what was, revision by revision: each is of its revision, or compacted.
func (r *readers) history() (sums, error) {
	v := r.m.state.View()
	defer v.Release()
	for revision := v.KV.Compacted() + 1; revision <= v.KV.Current(); revision++ {
		res, err := v.KV.Range(mvcc.RangeOptions{Key: []byte("again"), Revision: revision})
		if err != nil {
			return sums{}, err
		}
		if len(res.KVs) == 0 {
			continue
		}
		kv, err := mvcc.DecodeKeyValue(res.KVs[0])
		if err != nil {
			return sums{}, err
		}
		if kv.Mod > revision || string(kv.Value) != fmt.Sprint(kv.Ver-1) {
			r.t.Errorf("at revision %d: %q of version %d, modified at %d", revision, kv.Value, kv.Ver, kv.Mod)
		}
	}
	if v.KV.Current() == r.before.kv.Revision {
		return r.before, nil
	}
	return r.after, nil
}

// backup makes a file and reads it.
func (r *readers) backup() (sums, error) {
	s, err := newBackup(r.m).Snapshot(context.Background())
	if err != nil {
		return sums{}, err
	}
	name := s.ReadCloser.(*exported).Name()
	file, err := interchange.Open(context.Background(), name)
	if err != nil {
		return sums{}, errors.Join(err, s.Close())
	}
	c, err := file.Scan(context.Background(), nil, nil)
	if err := errors.Join(err, file.Close(), s.Close()); err != nil {
		return sums{}, err
	}
	if c.Revision == r.before.kv.Revision {
		return r.before, nil
	}
	if c.Revision == r.after.kv.Revision {
		return r.after, nil
	}
	return sums{mvcc.Hash{Revision: c.Revision}}, nil
}
