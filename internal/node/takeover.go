package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/interchange"
	"github.com/dolmen-io/dolmen/internal/wal"
)

// A data directory of etcd's, as a stopped member or "etcdutl snapshot restore" leaves it:
//
//	<data-dir>/member/snap/db    the applied data, up to some index
//	<data-dir>/member/snap/*     what else etcd 3.7 writes there: its membership, which is in db too
//	<data-dir>/member/wal/       the raft log, in the format that is also ours
//
// It is taken over at the first start, in steps of which each leaves a directory that the next start understands:
//
//  1. db is copied into member/engine.import. A start that finds no FORMAT file begins this anew.
//  2. FORMAT is written. From here on the directory is ours.
//  3. member/engine.import becomes member/engine.
//  4. member/snap becomes member/snap.etcd, and may be removed by the operator.
//
// The log stays where it is; what is in it above the index of db is applied when the member opens it.
const (
	snapDir       = "snap"
	importDir     = "engine.import"
	takenOverName = "snap.etcd"
)

// dbPath is etcd's database.
func dbPath(member string) string { return filepath.Join(member, snapDir, "db") }

// progressInterval is the time between two lines about an import that goes on.
const progressInterval = 5 * time.Second

// takeOver makes a directory of etcd's one of ours. It does nothing to others.
func (d *directory) takeOver(ctx context.Context) error {
	if !exists(filepath.Join(d.member, formatFile)) && exists(dbPath(d.member)) {
		if err := d.importEtcd(ctx); err != nil {
			return fmt.Errorf("take over the directory of an etcd member, which is left as it was: %w", err)
		}
		if err := writeFormat(filepath.Join(d.member, formatFile), d.format()); err != nil {
			return err
		}
	}
	return d.finishTakeOver()
}

// finishTakeOver does steps 3 and 4 if they are due.
func (d *directory) finishTakeOver() error {
	if !exists(filepath.Join(d.member, formatFile)) {
		return nil
	}
	from, to := filepath.Join(d.member, importDir), filepath.Join(d.member, engineDir)
	if exists(from) && !exists(to) {
		if err := renameDurably(from, to); err != nil {
			return fmt.Errorf("put the imported engine in its place: %w", err)
		}
	}
	if !exists(dbPath(d.member)) {
		return nil
	}
	aside := freeName(filepath.Join(d.member, takenOverName))
	if err := renameDurably(filepath.Join(d.member, snapDir), aside); err != nil {
		return fmt.Errorf("put etcd's files aside: %w", err)
	}
	d.lg.Info("etcd's files were put aside; they are not needed any more and can be removed",
		zap.String("path", aside))
	return nil
}

// freeName returns the path, with a number if something has that name already.
func freeName(path string) string {
	name := path
	for n := 2; exists(name); n++ {
		name = path + "." + strconv.Itoa(n)
	}
	return name
}

func renameDurably(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(to))
}

// importEtcd copies etcd's database into an engine of its own. Nothing of etcd's is changed.
func (d *directory) importEtcd(ctx context.Context) (err error) {
	start := time.Now()
	target := filepath.Join(d.member, importDir)
	if err := os.RemoveAll(target); err != nil { // what a crash has left
		return err
	}
	file, err := d.openEtcd(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	d.lg.Info("taking over the directory of an etcd member", zap.String("path", file.Path()), zap.Int64("bytes", file.Size()),
		zap.String("engine", d.engine))
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(target))
		}
	}()
	eng, err := d.openEngineIn(target, nil)
	if err != nil {
		return err
	}
	contents, err := d.copyInto(ctx, file, eng)
	if err = errors.Join(err, eng.Close()); err != nil {
		return err
	}
	if err := contents.LogReadable(); err != nil {
		return fmt.Errorf("%s: %w", file.Path(), err)
	}
	if err := d.checkLog(contents.Index); err != nil {
		return err
	}
	// The engine syncs what it writes, not the names of the directories above.
	if err := errors.Join(syncDirectory(target), syncDirectory(d.member)); err != nil {
		return err
	}
	d.lg.Info("took over the directory of an etcd member", append(contentFields(contents), zap.String("path", file.Path()),
		zap.Duration("took", time.Since(start)))...)
	return nil
}

func contentFields(c *interchange.Contents) []zap.Field {
	return []zap.Field{
		zap.Int("keys", c.Keys), zap.Int("revisions", c.Revisions), zap.Int64("current-revision", c.Revision),
		zap.Int("leases", c.Leases), zap.Int("users", c.Users), zap.Int("roles", c.Roles), zap.Int("members", c.Members),
		zap.Int("alarms", c.Alarms), zap.Int64("bytes", c.Bytes), zap.Uint64("applied-index", c.Index),
		zap.Uint64("applied-term", c.Term), zap.String("storage-version", c.Version),
	}
}

// openEtcd opens etcd's database once no etcd has it open any more, as long as ctx allows.
func (d *directory) openEtcd(ctx context.Context) (*interchange.File, error) {
	path := dbPath(d.member)
	now, cancel := context.WithCancel(ctx)
	cancel()
	file, err := interchange.Open(now, path)
	if !errors.Is(err, interchange.ErrLocked) || ctx.Err() != nil {
		return file, err
	}
	d.lg.Info("waiting for an etcd member to leave the data directory; stop it, or start with another --data-dir", zap.String("path", path))
	patient, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	file, err = interchange.Open(patient, path)
	if !errors.Is(err, interchange.ErrLocked) || ctx.Err() != nil {
		return file, err
	}
	d.lg.Warn("the data directory is still in use by an etcd member; stop it, or start with another --data-dir", zap.String("path", path))
	return interchange.Open(ctx, path)
}

// copyInto imports a file, and tells of it when it takes long.
func (d *directory) copyInto(ctx context.Context, file *interchange.File, eng engine.Engine) (*interchange.Contents, error) {
	start := time.Now()
	last := start
	return file.Import(ctx, eng, interchange.Options{Progress: func(bytes int64) {
		if time.Since(last) < progressInterval {
			return
		}
		last = time.Now()
		d.lg.Info("reading etcd's database", zap.Int64("bytes", bytes), zap.Int64("of", file.Size()),
			zap.Duration("took", last.Sub(start)))
	}})
}

// checkLog refuses a log that does not go with what was imported, while etcd's files still are as they were.
func (d *directory) checkLog(applied uint64) error {
	if !wal.Exist(d.wal) {
		return fmt.Errorf("%w: there is no raft log in %s; give the --wal-dir that the etcd member had, "+
			`or make a new member of %s alone with "dolmen snapshot restore --skip-hash-check"`, ErrMismatch, d.wal, dbPath(d.member))
	}
	received, err := receivedSnapshot(filepath.Join(d.member, snapDir))
	if err != nil {
		return err
	}
	if received > applied {
		return fmt.Errorf("%w: etcd was stopped while it took over a snapshot of its leader: %s is at index %d, the snapshot at %d; "+
			"start etcd once more and stop it", ErrMismatch, dbPath(d.member), applied, received)
	}
	return wal.Check(d.lg, d.wal, applied)
}

// receivedSnapshot returns the index of the newest database that etcd has received from a leader and not yet
// put in the place of its own, 0 if there is none.
func receivedSnapshot(dir string) (newest uint64, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		text, found := strings.CutSuffix(e.Name(), ".snap.db")
		if index, err := strconv.ParseUint(text, 16, 64); found && err == nil {
			newest = max(newest, index)
		}
	}
	return newest, nil
}
