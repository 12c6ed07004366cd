package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/memory"
	"github.com/dolmen-io/dolmen/internal/engine/pebble"
	"github.com/dolmen-io/dolmen/internal/engine/rocksdb"
	"github.com/dolmen-io/dolmen/internal/wal"
)

// The data directory:
//
//	<data-dir>/member/FORMAT     what wrote the directory, and in which format
//	<data-dir>/member/LOCK       held while a member runs
//	<data-dir>/member/engine/    the engine's files, or engine.<index>/ since a snapshot of another member took their place
//	<data-dir>/member/wal/       the raft log, in etcd's format (elsewhere with --wal-dir)
const (
	formatFile = "FORMAT"
	lockFile   = "LOCK"
	engineDir  = "engine"
	walDir     = "wal"

	// formatVersion grows when an older version could not read the directory any more.
	formatVersion = 2

	// firstFormat is written while the engine is in its first directory, which older versions read too.
	firstFormat = 1

	// product is who we are in the FORMAT file.
	product = "dolmen"
)

// directory is a data directory that this process holds.
type directory struct {
	lg          *zap.Logger
	member, wal string
	engine      string
	current     string // name of the engine's directory
	log         wal.Options
	lock        *fileutil.LockedFile
}

// lockPatience is how long a start waits in silence for another process to leave the directory, lockPoll
// how often it looks whether it has left.
const (
	lockPatience = 10 * time.Second
	lockPoll     = 50 * time.Millisecond
)

func memberDirectory(cfg *config.Config) string { return filepath.Join(cfg.DataDir, "member") }

func walDirectory(cfg *config.Config) string {
	if cfg.WALDir != "" {
		return cfg.WALDir
	}
	return filepath.Join(memberDirectory(cfg), walDir)
}

// openDirectory makes or checks the data directory and locks it, waiting until ctx ends while another
// process holds it: that is usually the member before, on its way out.
func openDirectory(ctx context.Context, cfg *config.Config, lg *zap.Logger) (disk, error) {
	d := &directory{
		lg: lg, member: memberDirectory(cfg), wal: walDirectory(cfg), engine: cfg.StorageEngine, current: engineDir,
		log: wal.Options{UnsafeNoFsync: cfg.UnsafeNoFsync, MaxWALs: cfg.MaxWALs},
	}
	if err := checkForeign(cfg.DataDir, d.member, d.wal); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(d.member, fileutil.PrivateDirMode); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	if err := d.acquire(ctx); err != nil {
		return nil, err
	}
	if err := d.prepare(ctx); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// prepare brings a directory that this process holds into the form that a member opens.
func (d *directory) prepare(ctx context.Context) error {
	if err := d.takeOver(ctx); err != nil {
		return err
	}
	if err := d.checkFormat(); err != nil {
		return err
	}
	return d.removeExports()
}

// checkForeign refuses directories of etcd's proxy, and those that have lost the file that says whose they
// are: it is written before everything else, unless the directory is one of etcd's that is taken over.
func checkForeign(data, member, log string) error {
	if exists(filepath.Join(data, "proxy")) {
		return fmt.Errorf("%w: %s holds the data of an etcd v2 proxy", ErrForeign, data)
	}
	if exists(filepath.Join(member, formatFile)) {
		return nil
	}
	eng := filepath.Join(member, engineDir)
	if exists(dbPath(member)) && !exists(eng) {
		return nil // it is taken over
	}
	if wal.Exist(log) {
		return fmt.Errorf("%w: %s is the raft log of another member, for %s has no %s file; start with another --data-dir or --wal-dir",
			ErrForeign, log, member, formatFile)
	}
	if exists(eng) {
		return fmt.Errorf("%w: %s is there but %s has no %s file that says what wrote it; restore the file, or start with another --data-dir",
			ErrForeign, eng, member, formatFile)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (d *directory) acquire(ctx context.Context) error {
	path := filepath.Join(d.member, lockFile)
	start, warned := time.Now(), false
	ticker := time.NewTicker(lockPoll)
	defer ticker.Stop()
	for first := true; ; first = false {
		locked, err := fileutil.TryLockFile(path, os.O_WRONLY|os.O_CREATE, fileutil.PrivateFileMode)
		if err == nil {
			d.lock = locked
			return nil
		}
		if !errors.Is(err, fileutil.ErrLocked) {
			return fmt.Errorf("lock the data directory %s: %w", d.member, err)
		}
		if first {
			d.lg.Info("waiting for another process to leave the data directory", zap.String("path", path))
		}
		if waited := time.Since(start); !warned && waited >= lockPatience {
			warned = true
			d.lg.Warn("the data directory is still locked by another process; stop it, or start with another --data-dir",
				zap.String("path", path), zap.Duration("waited", waited))
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("lock the data directory %s, which another process uses: %w", d.member, ctx.Err())
		}
	}
}

// format is what a directory written by this version says.
func (d *directory) format() Format {
	return Format{Product: product, Format: firstFormat, Engine: d.engine}
}

func (d *directory) checkFormat() error {
	path := filepath.Join(d.member, formatFile)
	got, err := ReadFormat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return writeFormat(path, d.format())
	case err != nil:
		return err
	case got.Engine != d.engine:
		return fmt.Errorf("%w: %s was written by the %s engine; start with --storage-engine=%s",
			ErrMismatch, d.member, got.Engine, got.Engine)
	}
	d.current, err = directoryOf(got)
	return err
}

// writeFormat writes the file that says what wrote a directory. A crash must not leave half of it.
func writeFormat(path string, f Format) error {
	b, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("write the format of the data directory: %w", err)
	}
	if err := writeWhole(path, append(b, '\n')); err != nil {
		return fmt.Errorf("write the format of the data directory: %w", err)
	}
	return nil
}

// writeWhole writes a file as a whole or not at all, durably.
func writeWhole(path string, content []byte) error {
	tmp := path + ".tmp"
	file, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileutil.PrivateFileMode)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return renameDurably(tmp, path)
}

func syncDirectory(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// free implements disk. The engine and the raft log may be on different file systems.
func (d *directory) free() (int64, error) {
	member, err := freeBytes(d.member)
	if err != nil {
		return 0, err
	}
	log, err := freeBytes(d.wal)
	return min(member, log), err
}

// close implements disk.
func (d *directory) close() error { return d.lock.Close() }

// openEngine implements disk.
func (d *directory) openEngine(fatal func(error)) (engine.Engine, error) {
	return d.openCurrent(fatal)
}

func (d *directory) openEngineIn(path string, fatal func(error)) (eng engine.Engine, err error) {
	switch d.engine {
	case config.EngineMemory:
		eng, err = memory.Open(path, memory.Options{Logger: d.lg})
	case config.EngineRocksDB:
		eng, err = rocksdb.Open(path, rocksdb.Options{Logger: d.lg, Fatal: fatal})
	default:
		eng, err = pebble.Open(path, pebble.Options{Logger: d.lg, Fatal: fatal})
	}
	if err != nil {
		return nil, fmt.Errorf("open the %s engine in %s: %w", d.engine, path, err)
	}
	return eng, nil
}

// hasLog implements disk.
func (d *directory) hasLog() bool { return wal.Exist(d.wal) }

// createLog implements disk.
func (d *directory) createLog(md wal.Metadata) (consensus.Log, error) {
	log, err := wal.Create(d.lg, d.wal, md, d.log)
	if err != nil {
		return nil, err // not log: a nil *wal.Log in an interface is not nil
	}
	return log, nil
}

// openLog implements disk.
func (d *directory) openLog(applied uint64) (consensus.Log, *wal.Restored, error) {
	log, restored, err := wal.Open(d.lg, d.wal, applied, d.log)
	if err != nil {
		return nil, nil, err
	}
	return log, restored, nil
}
