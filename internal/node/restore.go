package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/interchange"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/state"
	"github.com/dolmen-io/dolmen/internal/wal"
)

// RestoreOptions say what Restore makes a member from.
type RestoreOptions struct {
	// Snapshot is a snapshot of a member, ours or etcd's, or with SkipHashCheck a copy of etcd's own file.
	Snapshot      string
	SkipHashCheck bool
	// BumpRevision moves the revision on by so much and has everything before it compacted; 0 does not.
	BumpRevision int64
	// Progress, which may be nil, is called now and then. What is done of a step is in bytes, total about.
	Progress func(step string, done, total int64)
}

// A restore builds the directory of a member under another name and renames it as its last step:
//
//	<data-dir>/member.restoring/LOCK       held while a restore runs
//	<data-dir>/member.restoring/RESTORE    where the log is being put
//	<data-dir>/member.restoring/...        what becomes <data-dir>/member
//	<wal-dir>                              the log, if it is to be elsewhere: put there just before
//
// What an interrupted one has left is no member, and the next one removes it.
const (
	restoringDir = "member.restoring"
	restoreFile  = "RESTORE"
	// restoredTerm is the term of the entries that a new log begins with, as in etcd.
	restoredTerm = 1
)

// Restore makes the data directory of a member of a new cluster that begins with the data of a snapshot. cfg
// says who the member is, who the others are, and where its data goes: to a directory that is empty or not
// there. After an error nothing of it is left, or, if only tidying up has failed, a whole member.
//
// What is made is what etcd makes: the raft log begins with an entry for each initial member, in the order of
// their IDs, and the data is at the last of them, so members restored by either program form one cluster.
func Restore(ctx context.Context, cfg *config.Config, opts RestoreOptions, lg *zap.Logger) (_ *interchange.Contents, err error) {
	told, err := initialMembers(cfg)
	if err == nil {
		err = told.checkAdvertised(ctx, cfg, lg)
	}
	if err == nil {
		err = told.checkDuplicates()
	}
	if err != nil {
		return nil, err
	}
	file, err := interchange.Open(ctx, opts.Snapshot)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if !opts.SkipHashCheck && !file.HasTrailer() {
		return nil, fmt.Errorf("%s: snapshot missing hash but --skip-hash-check=false: only what was saved as a snapshot has one, "+
			"a copy of a member's own file has not; if this is such a copy, give --skip-hash-check", opts.Snapshot)
	}
	if !opts.SkipHashCheck {
		if err := file.CheckTrailer(ctx, opts.step("checking", file.Size())); err != nil {
			return nil, err
		}
	}
	r := &restore{cfg: cfg, lg: lg, opts: opts, members: told.members, self: told.self}
	if err := r.begin(); err != nil {
		return nil, err
	}
	contents, err := r.build(ctx, file)
	if err == nil {
		err = r.commit()
	}
	if err = errors.Join(err, r.end(err != nil)); err != nil {
		return nil, err
	}
	return contents, nil
}

func (o RestoreOptions) step(name string, total int64) func(int64) {
	if o.Progress == nil {
		return nil
	}
	return func(done int64) { o.Progress(name, done, total) }
}

type restore struct {
	cfg     *config.Config
	lg      *zap.Logger
	opts    RestoreOptions
	members []membership.Member
	self    membership.Member

	madeData bool // the data directory was not there
	putLog   bool // the log may be where it is to be in the end
	whole    bool // the member is in its place, and nothing is taken back
	lock     *fileutil.LockedFile
}

func (r *restore) dir() string { return filepath.Join(r.cfg.DataDir, restoringDir) }

// logTarget is where the log is in the end, logPath where it is built.
func (r *restore) logTarget() string { return walDirectory(r.cfg) }
func (r *restore) logPath() string {
	if r.cfg.WALDir != "" {
		return filepath.Clean(r.cfg.WALDir) + ".restoring"
	}
	return filepath.Join(r.dir(), walDir)
}

// note is the content of the RESTORE file.
type note struct {
	WAL string `json:"wal"`
}

// begin takes hold of the target and removes what an interrupted restore has left there.
func (r *restore) begin() (err error) {
	entries, err := os.ReadDir(r.cfg.DataDir)
	r.madeData = errors.Is(err, fs.ErrNotExist)
	if err != nil && !r.madeData {
		return fmt.Errorf("data-dir %q not empty or could not be read: %w", r.cfg.DataDir, err)
	}
	for _, e := range entries {
		if e.Name() != restoringDir {
			return fmt.Errorf("data-dir %q not empty or could not be read: it holds %s; give a directory that is empty or not there",
				r.cfg.DataDir, e.Name())
		}
	}
	if err := os.MkdirAll(r.dir(), fileutil.PrivateDirMode); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	r.lock, err = fileutil.TryLockFile(filepath.Join(r.dir(), lockFile), os.O_WRONLY|os.O_CREATE, fileutil.PrivateFileMode)
	if errors.Is(err, fileutil.ErrLocked) {
		return fmt.Errorf("another restore into %s is running; wait for it or stop it", r.cfg.DataDir)
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", r.dir(), err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.end(true))
		}
	}()
	if err := r.removeLeft(); err != nil {
		return fmt.Errorf("remove what an interrupted restore has left: %w", err)
	}
	if exists(r.logTarget()) {
		return fmt.Errorf("wal-dir %q exists; give a directory that is not there", r.logTarget())
	}
	b, err := json.Marshal(note{WAL: r.logTarget()})
	if err != nil {
		return err
	}
	return writeWhole(filepath.Join(r.dir(), restoreFile), b)
}

// removeLeft empties the directory, but for the lock, and removes a log that an interrupted restore to the
// same place has put there already. A log that its note does not name is somebody else's.
func (r *restore) removeLeft() error {
	var left note
	b, err := os.ReadFile(filepath.Join(r.dir(), restoreFile))
	if err == nil {
		_ = json.Unmarshal(b, &left) // half of a note was written before any log
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if left.WAL == r.logTarget() && r.cfg.WALDir != "" {
		if err := errors.Join(os.RemoveAll(r.logTarget()), os.RemoveAll(r.logPath())); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(r.dir())
	if err != nil {
		return err
	}
	// The note goes last: it says what else is to be removed.
	for _, e := range entries {
		if e.Name() != lockFile && e.Name() != restoreFile {
			if err := os.RemoveAll(filepath.Join(r.dir(), e.Name())); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(filepath.Join(r.dir(), restoreFile))
}

// build makes everything but the names that make it a member.
func (r *restore) build(ctx context.Context, file *interchange.File) (*interchange.Contents, error) {
	d := &directory{lg: r.lg, member: r.dir(), wal: r.logPath(), engine: r.cfg.StorageEngine, current: engineDir}
	eng, err := d.openEngine(nil)
	if err != nil {
		return nil, err
	}
	contents, err := r.fill(ctx, file, eng)
	if err = errors.Join(err, eng.Close()); err != nil {
		return nil, err
	}
	if err := r.createLog(d); err != nil {
		return nil, err
	}
	return contents, writeFormat(filepath.Join(r.dir(), formatFile), d.format())
}

// fill copies the snapshot and makes the initial members its members.
func (r *restore) fill(ctx context.Context, file *interchange.File, eng engine.Engine) (*interchange.Contents, error) {
	at := state.Applied{Index: uint64(len(r.members)), Term: restoredTerm, Conf: r.conf()}
	contents, err := file.Import(ctx, eng, interchange.Options{
		Position: &at, NewCluster: true, BumpRevision: r.opts.BumpRevision, Progress: r.opts.step("restoring", file.Size()),
	})
	if err != nil {
		return nil, err
	}
	sn, err := eng.Snapshot()
	if err != nil {
		return nil, err
	}
	table, err := membership.Load(sn, r.cfg.MaxLearners)
	if err = errors.Join(err, sn.Close()); err != nil {
		return nil, err
	}
	var batch engine.Batch
	for _, m := range r.members {
		if err := table.Apply(&batch, membership.Change{Kind: membership.AddNode, ID: m.ID, Member: m}); err != nil {
			return nil, fmt.Errorf("initial cluster %s: member %s: %w", r.cfg.InitialCluster, m.Name, err)
		}
	}
	contents.Members, contents.Removed = len(r.members), 0
	return contents, errors.Join(eng.Commit(&batch), eng.Flush())
}

func (r *restore) conf() *raftpb.ConfState {
	cs := &raftpb.ConfState{AutoLeave: new(bool)}
	for _, m := range r.members {
		cs.Voters = append(cs.Voters, m.ID)
	}
	return cs
}

// createLog writes the log of a cluster that has agreed on its initial members and on nothing else.
func (r *restore) createLog(d *directory) error {
	if err := os.MkdirAll(filepath.Dir(d.wal), fileutil.PrivateDirMode); err != nil {
		return err
	}
	log, err := wal.Create(r.lg, d.wal, wal.Metadata{NodeID: r.self.ID, ClusterID: membership.ClusterID(r.members)}, wal.Options{})
	if err != nil {
		return err
	}
	return errors.Join(r.writeLog(log), log.Close())
}

func (r *restore) writeLog(log *wal.Log) error {
	peers, err := bootstrapPeers(r.members)
	if err != nil {
		return err
	}
	entries := make([]*raftpb.Entry, len(peers))
	for i, p := range peers {
		data, err := proto.Marshal(&raftpb.ConfChange{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: new(p.ID), Context: p.Context})
		if err != nil {
			return err
		}
		entries[i] = &raftpb.Entry{
			Type: raftpb.EntryConfChange.Enum(), Term: new(uint64(restoredTerm)), Index: new(uint64(i + 1)), Data: data,
		}
	}
	last := uint64(len(entries))
	hs := &raftpb.HardState{Term: new(uint64(restoredTerm)), Vote: new(peers[0].ID), Commit: &last}
	if err := log.Append(hs, entries); err != nil {
		return err
	}
	return log.Mark(last, restoredTerm, r.conf())
}

// commit gives everything its name, the member last.
func (r *restore) commit() error {
	if r.cfg.WALDir != "" {
		r.putLog = true
		if err := renameDurably(r.logPath(), r.logTarget()); err != nil {
			return fmt.Errorf("put the raft log in its place: %w", err)
		}
	}
	err := renameDurably(r.dir(), memberDirectory(r.cfg))
	r.whole = exists(memberDirectory(r.cfg)) // also if only the sync has failed
	if err != nil {
		return fmt.Errorf("put the member in its place: %w", err)
	}
	// Not before: until then it tells the next restore whose the log is.
	if err := os.Remove(filepath.Join(memberDirectory(r.cfg), restoreFile)); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(filepath.Clean(r.cfg.DataDir)))
}

// end lets go of the target. If the restore has failed it leaves nothing of it, or a whole member.
func (r *restore) end(failed bool) error {
	var errs []error
	if failed && !r.whole {
		errs = append(errs, os.RemoveAll(r.dir()))
		if r.cfg.WALDir != "" {
			errs = append(errs, os.RemoveAll(r.logPath()), os.RemoveAll(r.logPath()+".tmp"))
		}
		if r.putLog {
			errs = append(errs, os.RemoveAll(r.logTarget()))
		}
		if r.madeData {
			errs = append(errs, os.Remove(r.cfg.DataDir))
		}
	}
	return errors.Join(append(errs, r.lock.Close())...)
}
