package node

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/interchange"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/state"
	"github.com/dolmen-io/dolmen/internal/wal"
)

// saved makes a snapshot of a member with a lease and some keys, as a client saves it.
func saved(t *testing.T) string {
	t.Helper()
	smallSegments(t)
	m, err := Open(t.Context(), quietConfig(t, config.EngineMemory), zap.NewNop())
	require.NoError(t, err)
	ready(t, m)
	grant(t, m, 7, 600)
	propose(t, m, "a", "1")
	propose(t, m, "a", "2")
	s, err := newBackup(m).Snapshot(t.Context())
	require.NoError(t, err)
	b := make([]byte, s.Size)
	_, err = s.Read(b)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	stop(t, m)
	sum := sha256.Sum256(b)
	path := filepath.Join(t.TempDir(), "snapshot.db")
	require.NoError(t, os.WriteFile(path, append(b, sum[:]...), 0o600))
	return path
}

func TestRestore(t *testing.T) {
	file := saved(t)
	for _, engine := range []string{config.EngineMemory, config.EnginePebble} {
		for _, elsewhere := range []bool{false, true} {
			cfg := quietConfig(t, engine)
			cfg.DataDir = filepath.Join(cfg.DataDir, "new", "one")
			if elsewhere {
				cfg.WALDir = filepath.Join(t.TempDir(), "wal")
			}
			steps := map[string]bool{}
			c, err := Restore(t.Context(), cfg, RestoreOptions{Snapshot: file, Progress: func(step string, _, total int64) {
				steps[step] = true
				require.Positive(t, total)
			}}, zap.NewNop())
			require.NoError(t, err)
			require.Equal(t, []int{2, 1}, []int{c.Keys, c.Members})
			require.Equal(t, map[string]bool{"checking": true, "restoring": true}, steps)
			for i := range int64(2) {
				m, err := Open(t.Context(), cfg, zap.NewNop())
				require.NoError(t, err)
				ready(t, m)
				require.Equal(t, 2+i, versionOf(t, m, "a"))
				require.Equal(t, []int64{7}, m.expiry.All())
				propose(t, m, "a", "3")
				stop(t, m)
			}
			names, err := os.ReadDir(cfg.DataDir)
			require.NoError(t, err)
			require.Len(t, names, 1, "only the member")
			require.NoFileExists(t, filepath.Join(memberDirectory(cfg), restoreFile))
			before := files(t, cfg.DataDir)
			_, err = Restore(t.Context(), cfg, RestoreOptions{Snapshot: file}, zap.NewNop())
			require.ErrorContains(t, err, "not empty or could not be read: it holds member")
			require.Equal(t, before, files(t, cfg.DataDir))
		}
	}
}

// TestRestoreCluster restores one of three members and compares what it begins with with what each of them must
// begin with.
func TestRestoreCluster(t *testing.T) {
	file := saved(t)
	cfg := quietConfig(t, config.EngineMemory)
	cfg.Name = "b"
	cfg.InitialCluster = "a=http://a:1,b=http://b:1,c=http://c:1"
	cfg.AdvertisePeerURLs = []url.URL{{Scheme: "http", Host: "b:1"}}
	_, err := Restore(t.Context(), cfg, RestoreOptions{Snapshot: file, BumpRevision: 100}, zap.NewNop())
	require.NoError(t, err)
	told, err := initialMembers(cfg)
	require.NoError(t, err)
	d := &directory{lg: zap.NewNop(), member: memberDirectory(cfg), wal: walDirectory(cfg), engine: cfg.StorageEngine}
	require.NoError(t, d.checkFormat())
	eng, err := d.openEngine(nil)
	require.NoError(t, err)
	s, err := state.Open(eng, state.Config{MinTTL: 1, MaxLearners: 1})
	require.NoError(t, err)
	at := s.Applied()
	require.Equal(t, []uint64{3, 1}, []uint64{at.Index, at.Term})
	v := s.View()
	require.Len(t, v.Members.Members(), 3)
	require.Equal(t, []int64{104, 104}, []int64{v.KV.Current(), v.KV.Compacted()})
	v.Release()
	require.NoError(t, eng.Close())

	log, restored, err := wal.Open(zap.NewNop(), d.wal, 0, wal.Options{})
	require.NoError(t, err)
	require.NoError(t, log.Close())
	require.Equal(t, wal.Metadata{NodeID: told.self.ID, ClusterID: membership.ClusterID(told.members)}, restored.Metadata)
	require.Equal(t, []uint64{1, at.Conf.GetVoters()[0], 3},
		[]uint64{restored.HardState.GetTerm(), restored.HardState.GetVote(), restored.HardState.GetCommit()})
	require.Len(t, restored.Entries, 3)
	require.IsIncreasing(t, at.Conf.GetVoters())
	log, restored, err = wal.Open(zap.NewNop(), d.wal, at.Index, wal.Options{})
	require.NoError(t, err)
	require.NoError(t, log.Close())
	require.Equal(t, wal.Mark{Index: 3, Term: 1}, restored.Mark)
}

// TestFailedRestoresLeaveNothing.
func TestFailedRestoresLeaveNothing(t *testing.T) {
	file := saved(t)
	whole, err := os.ReadFile(file)
	require.NoError(t, err)
	spoiled := func(change func(b []byte) []byte) string {
		path := filepath.Join(t.TempDir(), "snapshot.db")
		require.NoError(t, os.WriteFile(path, change(append([]byte(nil), whole...)), 0o600))
		return path
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tc := range map[string]struct {
		ctx    context.Context
		file   string
		skip   bool
		change func(*config.Config)
		is     error
		want   string
	}{
		"no file":            {file: filepath.Join(t.TempDir(), "none"), is: os.ErrNotExist},
		"a flipped bit":      {file: spoiled(func(b []byte) []byte { b[5000] ^= 1; return b }), is: interchange.ErrDamaged, want: "its SHA-256 is"},
		"no checksum":        {file: spoiled(func(b []byte) []byte { return b[:len(b)-32] }), want: "snapshot missing hash but --skip-hash-check=false"},
		"cut off":            {file: spoiled(func(b []byte) []byte { return b[:8192] }), skip: true, is: interchange.ErrDamaged, want: "is cut off"},
		"a bad page":         {file: spoiled(func(b []byte) []byte { b[2*4096] ^= 1; b[3*4096] ^= 1; b[4*4096] ^= 1; return b }), skip: true, is: interchange.ErrDamaged, want: "page"},
		"interrupted":        {ctx: canceled, is: context.Canceled},
		"not in the cluster": {change: func(cfg *config.Config) { cfg.Name = "other" }, want: `couldn't find local name "other"`},
		"other peer URLs": {change: func(cfg *config.Config) {
			cfg.AdvertisePeerURLs = []url.URL{{Scheme: "http", Host: "127.0.0.1:1"}}
		}, want: "but missing from --initial-advertise-peer-urls=http://127.0.0.1:1"},
		"same URLs twice": {change: func(cfg *config.Config) {
			cfg.Name, cfg.InitialCluster, cfg.AdvertisePeerURLs = "a", "a=http://a:1,b=http://a:1", []url.URL{{Scheme: "http", Host: "a:1"}}
		}, want: "has duplicate url"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := quietConfig(t, config.EnginePebble)
			cfg.DataDir = filepath.Join(t.TempDir(), "data")
			cfg.WALDir = filepath.Join(t.TempDir(), "wal")
			if tc.change != nil {
				tc.change(cfg)
			}
			if tc.file == "" {
				tc.file = file
			}
			if tc.ctx == nil {
				tc.ctx = t.Context()
			}
			_, err := Restore(tc.ctx, cfg, RestoreOptions{Snapshot: tc.file, SkipHashCheck: tc.skip}, zap.NewNop())
			require.Error(t, err)
			require.ErrorContains(t, err, tc.want)
			if tc.is != nil {
				require.ErrorIs(t, err, tc.is)
			}
			require.NoDirExists(t, cfg.DataDir)
			names, err := os.ReadDir(filepath.Dir(cfg.WALDir))
			require.NoError(t, err)
			require.Empty(t, names)
		})
	}
}

// TestRestoreAfterInterruption repeats a restore that was killed, at each state that this leaves.
func TestRestoreAfterInterruption(t *testing.T) {
	file := saved(t)
	for name, left := range map[string]func(t *testing.T, cfg *config.Config, dir string){
		"at once": func(_ *testing.T, _ *config.Config, _ string) {},
		"half of a note": func(t *testing.T, _ *config.Config, dir string) {
			write(t, `{"wal":"/`, dir, restoreFile)
		},
		"half of an engine": func(t *testing.T, cfg *config.Config, dir string) {
			writeNote(t, cfg.WALDir, dir)
			write(t, "half", dir, engineDir, "000001.sst")
			write(t, "half", cfg.WALDir+".restoring.tmp", "0000000000000000-0000000000000000.wal")
		},
		"the log in its place": func(t *testing.T, cfg *config.Config, dir string) {
			writeNote(t, cfg.WALDir, dir)
			write(t, "whole", cfg.WALDir, "0000000000000000-0000000000000000.wal")
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := quietConfig(t, config.EngineMemory)
			cfg.WALDir = filepath.Join(t.TempDir(), "wal")
			dir := filepath.Join(cfg.DataDir, restoringDir)
			require.NoError(t, os.MkdirAll(dir, 0o700))
			left(t, cfg, dir)
			_, err := Restore(t.Context(), cfg, RestoreOptions{Snapshot: file}, zap.NewNop())
			require.NoError(t, err)
			m, err := Open(t.Context(), cfg, zap.NewNop())
			require.NoError(t, err)
			ready(t, m)
			require.Equal(t, int64(2), versionOf(t, m, "a"))
			stop(t, m)
		})
	}
}

func writeNote(t *testing.T, log, dir string) {
	t.Helper()
	b, err := json.Marshal(note{WAL: log})
	require.NoError(t, err)
	write(t, string(b), dir, restoreFile)
}

// TestRestoreKeepsWholeMember: what fails once the member is in its place takes nothing away from it.
func TestRestoreKeepsWholeMember(t *testing.T) {
	cfg := quietConfig(t, config.EngineMemory)
	cfg.WALDir = filepath.Join(t.TempDir(), "wal")
	file, err := interchange.Open(t.Context(), saved(t))
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	told, err := initialMembers(cfg)
	require.NoError(t, err)
	r := &restore{cfg: cfg, lg: zap.NewNop(), members: told.members, self: told.self}
	require.NoError(t, r.begin())
	_, err = r.build(t.Context(), file)
	require.NoError(t, err)
	require.NoError(t, os.Remove(filepath.Join(r.dir(), restoreFile)))
	require.ErrorIs(t, r.commit(), os.ErrNotExist)
	require.NoError(t, r.end(true))
	m, err := Open(t.Context(), cfg, zap.NewNop())
	require.NoError(t, err)
	ready(t, m)
	require.Equal(t, int64(2), versionOf(t, m, "a"))
	stop(t, m)
}

// TestRestoreSparesOthers: a log that is not of a restore to the same place is somebody's, and so is a restore that
// runs.
func TestRestoreSparesOthers(t *testing.T) {
	file := saved(t)
	cfg := quietConfig(t, config.EngineMemory)
	cfg.WALDir = filepath.Join(t.TempDir(), "wal")
	write(t, "precious", cfg.WALDir, "0000000000000000-0000000000000000.wal")
	_, err := Restore(t.Context(), cfg, RestoreOptions{Snapshot: file}, zap.NewNop())
	require.ErrorContains(t, err, `wal-dir "`+cfg.WALDir+`" exists`)
	require.FileExists(t, filepath.Join(cfg.WALDir, "0000000000000000-0000000000000000.wal"))
	names, err := os.ReadDir(cfg.DataDir)
	require.NoError(t, err)
	require.Empty(t, names)

	cfg.WALDir = ""
	dir := filepath.Join(cfg.DataDir, restoringDir)
	require.NoError(t, os.MkdirAll(dir, 0o700))
	lock, err := fileutil.TryLockFile(filepath.Join(dir, lockFile), os.O_WRONLY|os.O_CREATE, 0o600)
	require.NoError(t, err)
	_, err = Restore(t.Context(), cfg, RestoreOptions{Snapshot: file}, zap.NewNop())
	require.ErrorContains(t, err, "another restore into")
	require.NoError(t, lock.Close())
	require.DirExists(t, dir)
}
