package node

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/interchange"
	"github.com/dolmen-io/dolmen/internal/state"
	"github.com/dolmen-io/dolmen/internal/wal"
)

// etcdDirectory makes what a killed etcd member leaves: a log, and a database that is some entries behind it. The
// keys before and after are in it, the latter only in the log.
func etcdDirectory(t *testing.T, cfg *config.Config) {
	t.Helper()
	smallSegments(t)
	m, err := Open(t.Context(), cfg, zap.NewNop())
	require.NoError(t, err)
	ready(t, m)
	grant(t, m, 7, 600)
	propose(t, m, "before", "1")
	s, err := newBackup(m).Snapshot(t.Context())
	require.NoError(t, err)
	db := filepath.Join(t.TempDir(), "db")
	b := make([]byte, s.Size)
	_, err = s.Read(b)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, os.WriteFile(db, b, 0o600))
	propose(t, m, "after", "2")
	stop(t, m)
	member := memberDirectory(cfg)
	for _, name := range []string{engineDir, formatFile, lockFile, exportDir} {
		require.NoError(t, os.RemoveAll(filepath.Join(member, name)))
	}
	require.NoError(t, os.MkdirAll(filepath.Join(member, snapDir), 0o700))
	require.NoError(t, os.Rename(db, dbPath(member)))
	write(t, "etcd's membership", member, snapDir, "0000000000000002-0000000000000004.snap")
}

// requireTakenOver opens a member on a directory of etcdDirectory's, and once more.
func requireTakenOver(t *testing.T, cfg *config.Config, lg *zap.Logger) {
	t.Helper()
	for i := range int64(2) {
		m, err := Open(t.Context(), cfg, lg)
		require.NoError(t, err)
		ready(t, m)
		for _, key := range []string{"before", "after"} {
			require.Equal(t, int64(1), versionOf(t, m, key), key)
		}
		require.Equal(t, []int64{7}, m.expiry.All())
		propose(t, m, "new", "3")
		require.Equal(t, i+1, versionOf(t, m, "new"))
		stop(t, m)
		member := memberDirectory(cfg)
		require.NoFileExists(t, dbPath(member))
		require.NoDirExists(t, filepath.Join(member, importDir))
		require.FileExists(t, filepath.Join(member, takenOverName, "db"))
		require.FileExists(t, filepath.Join(member, takenOverName, "0000000000000002-0000000000000004.snap"))
	}
}

func TestTakeOver(t *testing.T) {
	for _, engine := range []string{config.EngineMemory, config.EnginePebble} {
		t.Run(engine, func(t *testing.T) {
			cfg := quietConfig(t, engine)
			etcdDirectory(t, cfg)
			core, logs := observer.New(zapcore.InfoLevel)
			requireTakenOver(t, cfg, zap.New(core))
			said := logs.FilterMessage("took over the directory of an etcd member").All()
			require.Len(t, said, 1)
			fields := said[0].ContextMap()
			require.Equal(t, int64(2), fields["keys"]) // "before", and that of the lease
			require.Equal(t, int64(1), fields["leases"])
			require.Equal(t, int64(1), fields["members"])
			require.Len(t, logs.FilterMessageSnippet("etcd's files were put aside").All(), 1)
		})
	}
}

func TestTakeOverWithAnotherLogDirectory(t *testing.T) {
	cfg := quietConfig(t, config.EngineMemory)
	cfg.WALDir = filepath.Join(t.TempDir(), "wal")
	etcdDirectory(t, cfg)
	elsewhere := *cfg
	elsewhere.WALDir = ""
	before := files(t, cfg.DataDir)
	_, err := Open(t.Context(), &elsewhere, zap.NewNop())
	require.ErrorIs(t, err, ErrMismatch)
	require.ErrorContains(t, err, "give the --wal-dir that the etcd member had")
	require.Equal(t, before, files(t, cfg.DataDir))
	requireTakenOver(t, cfg, zap.NewNop())
}

// files returns what is in a directory, but for the lock.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() == lockFile {
			return err
		}
		all[path] = ""
		if d.Type().IsRegular() {
			b, err := os.ReadFile(path)
			all[path] = fmt.Sprintf("%x", sha256.Sum256(b))
			return err
		}
		return nil
	}))
	return all
}

// TestTakeOverAfterCrash begins at each state that a crash in the middle of taking over leaves.
func TestTakeOverAfterCrash(t *testing.T) {
	step := func(t *testing.T, cfg *config.Config, steps int) {
		d := &directory{lg: zap.NewNop(), member: memberDirectory(cfg), wal: walDirectory(cfg), engine: cfg.StorageEngine}
		for i, do := range []func() error{
			func() error { return d.importEtcd(t.Context()) },
			func() error { return writeFormat(filepath.Join(d.member, formatFile), d.format()) },
			func() error {
				return os.Rename(filepath.Join(d.member, importDir), filepath.Join(d.member, engineDir))
			},
			func() error {
				return os.Rename(filepath.Join(d.member, snapDir), filepath.Join(d.member, takenOverName))
			},
		} {
			if i < steps {
				require.NoError(t, do())
			}
		}
	}
	for steps := range 5 {
		t.Run(fmt.Sprint(steps, " steps done"), func(t *testing.T) {
			cfg := quietConfig(t, config.EnginePebble)
			etcdDirectory(t, cfg)
			step(t, cfg, steps)
			requireTakenOver(t, cfg, zap.NewNop())
		})
	}
	t.Run("half of an import", func(t *testing.T) {
		cfg := quietConfig(t, config.EngineMemory)
		etcdDirectory(t, cfg)
		write(t, "half", memberDirectory(cfg), importDir, "checkpoint-1")
		requireTakenOver(t, cfg, zap.NewNop())
	})
	t.Run("an older one put aside", func(t *testing.T) {
		cfg := quietConfig(t, config.EngineMemory)
		etcdDirectory(t, cfg)
		older := filepath.Join(memberDirectory(cfg), takenOverName)
		write(t, "older", older, "db")
		m, err := Open(t.Context(), cfg, zap.NewNop())
		require.NoError(t, err)
		ready(t, m)
		stop(t, m)
		b, err := os.ReadFile(filepath.Join(older, "db"))
		require.NoError(t, err)
		require.Equal(t, "older", string(b))
		require.FileExists(t, filepath.Join(older+".2", "db"))
	})
}

// TestDirectoriesNotTakenOver: each is left as it was.
func TestDirectoriesNotTakenOver(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(t *testing.T, cfg *config.Config)
		is    error
		want  string
	}{
		"damaged": {func(t *testing.T, cfg *config.Config) {
			require.NoError(t, os.Truncate(dbPath(memberDirectory(cfg)), 20_000))
		}, interchange.ErrDamaged, "it is cut off"},
		"a bad record": {func(t *testing.T, cfg *config.Config) {
			db, err := bbolt.Open(dbPath(memberDirectory(cfg)), 0o600, nil)
			require.NoError(t, err)
			require.NoError(t, db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("key")).Put([]byte("k"), nil) }))
			require.NoError(t, db.Close())
		}, interchange.ErrDamaged, `bucket "key": key "k"`},
		"an old cluster": {func(t *testing.T, cfg *config.Config) {
			db, err := bbolt.Open(dbPath(memberDirectory(cfg)), 0o600, nil)
			require.NoError(t, err)
			require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
				return tx.Bucket([]byte("cluster")).Put([]byte("clusterVersion"), []byte("3.5.0"))
			}))
			require.NoError(t, db.Close())
		}, interchange.ErrVersion, "start it with etcd 3.6 first"},
		"no log": {func(t *testing.T, cfg *config.Config) {
			require.NoError(t, os.RemoveAll(walDirectory(cfg)))
		}, ErrMismatch, "dolmen snapshot restore --skip-hash-check"},
		"another log": {func(t *testing.T, cfg *config.Config) {
			require.NoError(t, os.RemoveAll(walDirectory(cfg)))
			log, err := wal.Create(zap.NewNop(), walDirectory(cfg), wal.Metadata{NodeID: 1, ClusterID: 2}, wal.Options{})
			require.NoError(t, err)
			require.NoError(t, log.Close())
		}, wal.ErrNoMark, "the log ends at 0"},
		"a snapshot of the leader": {func(t *testing.T, cfg *config.Config) {
			write(t, "", memberDirectory(cfg), snapDir, "00000000000fffff.snap.db")
		}, ErrMismatch, "start etcd once more and stop it"},
		"a lost format": {func(t *testing.T, cfg *config.Config) {
			write(t, "", memberDirectory(cfg), engineDir, "x")
		}, ErrForeign, "has no FORMAT file"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := quietConfig(t, config.EngineMemory)
			etcdDirectory(t, cfg)
			tc.spoil(t, cfg)
			before := files(t, cfg.DataDir)
			_, err := Open(t.Context(), cfg, zap.NewNop())
			require.ErrorIs(t, err, tc.is)
			require.ErrorContains(t, err, tc.want)
			require.Equal(t, before, files(t, cfg.DataDir))
		})
	}
}

// TestTakeOverWaits: an etcd that still runs holds its database; a member waits until it has gone.
func TestTakeOverWaits(t *testing.T) {
	cfg := quietConfig(t, config.EngineMemory)
	etcdDirectory(t, cfg)
	db, err := bbolt.Open(dbPath(memberDirectory(cfg)), 0o600, nil)
	require.NoError(t, err)
	core, logs := observer.New(zapcore.InfoLevel)
	waits := func() bool { return logs.FilterMessageSnippet("waiting for an etcd member to leave").Len() > 0 }

	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := Open(ctx, cfg, zap.New(core))
		failed <- err
	}()
	require.Eventually(t, waits, testPatience, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-failed, interchange.ErrLocked)

	logs.TakeAll()
	opened := make(chan *Member, 1)
	go func() {
		m, err := Open(t.Context(), cfg, zap.New(core))
		if err != nil {
			t.Error(err)
		}
		opened <- m
	}()
	require.Eventually(t, waits, testPatience, time.Millisecond)
	require.NoError(t, db.Close())
	m := <-opened
	require.NotNil(t, m)
	ready(t, m)
	stop(t, m)
	requireTakenOverOnce(t, cfg)
}

func requireTakenOverOnce(t *testing.T, cfg *config.Config) {
	t.Helper()
	eng, err := (&directory{lg: zap.NewNop(), member: memberDirectory(cfg), engine: cfg.StorageEngine, current: engineDir}).openEngine(nil)
	require.NoError(t, err)
	at, err := state.Durable(eng)
	require.NoError(t, err)
	require.NotZero(t, at.Index)
	require.NoError(t, eng.Close())
}
