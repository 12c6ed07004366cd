package wal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// Errors that Create and Open wrap. Others are of the file system.
var (
	// ErrExists says that the directory holds a log already.
	ErrExists = errors.New("a raft log exists already")
	// ErrOccupied says that the directory for a new log holds something else.
	ErrOccupied = errors.New("the directory for the raft log is not empty; choose another one or clear it")
	// ErrCorrupt says that the log does not read as it was written.
	ErrCorrupt = errors.New("the raft log is damaged")
	// ErrLocked says that another process uses the log.
	ErrLocked = errors.New("the raft log is in use by another process; stop that first")
	// ErrNoMark says that the log does not reach back to the engine's applied index.
	ErrNoMark = errors.New("the raft log does not fit the engine")
)

// Metadata says whose log it is. It is written at the head of each segment, as etcd's etcdserverpb.Metadata.
type Metadata struct{ NodeID, ClusterID uint64 }

// Options of a log.
type Options struct {
	// UnsafeNoFsync leaves it to the operating system when to write. A crash of the machine then loses what was
	// acknowledged.
	UnsafeNoFsync bool
	// MaxWALs is the number of segments above which released ones are deleted, oldest first. Segments that a restart
	// needs are never deleted, however many there are. 0 keeps all.
	MaxWALs uint
}

// Mark is a position in the log up to which the engine was durable when it was recorded: etcd's wal snapshot record.
type Mark struct{ Index, Term uint64 }

// Restored is what Open has read.
type Restored struct {
	Metadata  Metadata
	HardState *raftpb.HardState // nil if the log holds none
	Mark      Mark              // where Entries begin: the newest one not above the applied index
	Entries   []*raftpb.Entry   // from Mark.Index+1 on, without a gap
}

// Log is an open raft log. Append, Mark, Release and Close must be called one at a time.
type Log struct {
	lg     *zap.Logger
	dir    string
	wal    *wal.WAL
	hs     *raftpb.HardState // newest known
	last   uint64            // index of the newest entry
	synced bool              // the hard state was written since the log was opened
	failed error             // of the first write that failed: what is on disk is not known since

	purger *purger
	purged sync.WaitGroup
}

// Exist reports whether dir holds a log. What a crash leaves of an unfinished Create does not count.
func Exist(dir string) bool { return wal.Exist(dir) }

// Create makes a new log in dir, whose parent must exist, and opens it. A crash leaves either the whole log or none. It
// fails with ErrExists if there is one, and with ErrOccupied if dir, or dir with the suffix ".tmp" in which it is
// made, holds anything else than what is left of a crash in Create.
func Create(lg *zap.Logger, dir string, md Metadata, opts Options) (l *Log, err error) {
	defer recovered(&err, "create", dir)
	if Exist(dir) {
		return nil, fmt.Errorf("create raft log %s: %w", dir, ErrExists)
	}
	// etcd's package removes both with all that is in them.
	if err := errors.Join(checkFree(dir, ".tmp"), checkFree(filepath.Clean(dir)+".tmp", ".tmp", ".wal")); err != nil {
		return nil, fmt.Errorf("create raft log %s: %w", dir, err)
	}
	data, err := proto.Marshal(&etcdserverpb.Metadata{NodeID: &md.NodeID, ClusterID: &md.ClusterID})
	if err != nil {
		return nil, fmt.Errorf("create raft log %s: encode metadata: %w", dir, err)
	}
	w, err := wal.Create(lg, dir, data)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("create raft log %s: %w", dir, ErrExists)
	}
	if err != nil {
		return nil, fmt.Errorf("create raft log %s: %w", dir, err)
	}
	return newLog(lg, dir, w, opts), nil
}

// Open opens the log in dir and reads it from the newest mark that is not above applied, the index that the engine
// has applied. A record at the end that a crash has torn is cut off; the segment as it was stays beside it, with the
// suffix ".broken". It fails with ErrCorrupt, ErrLocked or ErrNoMark. Whose log it is stands in Restored.Metadata; a
// caller that knows who it is must compare.
func Open(lg *zap.Logger, dir string, applied uint64, opts Options) (l *Log, r *Restored, err error) {
	defer recovered(&err, "open", dir)
	if err := checkSegments(dir); err != nil {
		return nil, nil, fmt.Errorf("open raft log %s: %w", dir, err)
	}
	// First of all: a log that another process writes to looks damaged.
	if err := checkUnused(dir); err != nil {
		return nil, nil, fmt.Errorf("open raft log %s: %w", dir, err)
	}
	torn, err := inspectEnd(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("open raft log %s: %w", dir, err)
	}
	mark, err := newestMark(lg, dir, applied)
	if err != nil {
		return nil, nil, fmt.Errorf("open raft log %s: %w", dir, err)
	}
	w, r, err := read(lg, dir, mark)
	if torn != nil && errors.Is(err, io.ErrUnexpectedEOF) {
		lg.Warn("cutting off the end of the raft log, which a crash has torn; nothing in it was acknowledged",
			zap.String("path", torn.Path), zap.Int64("offset", torn.Offset), zap.String("copy", torn.Path+".broken"))
		if !wal.Repair(lg, dir) {
			return nil, nil, fmt.Errorf("open raft log %s: cannot cut off the torn end of %s at offset %d: %w; %s",
				dir, torn.Path, torn.Offset, err, advice)
		}
		w, r, err = read(lg, dir, mark)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("open raft log %s: %w", dir, err)
	}
	if err := r.dropVoid(dir); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open raft log %s: %w", dir, err), w.Close())
	}
	l = newLog(lg, dir, w, opts)
	l.hs, l.last = r.HardState, r.Mark.Index+uint64(len(r.Entries))
	return l, r, nil
}

const advice = "restore the member from a backup, or remove it from the cluster and add it again empty"

func newLog(lg *zap.Logger, dir string, w *wal.WAL, opts Options) *Log {
	if opts.UnsafeNoFsync {
		w.SetUnsafeNoFsync()
	}
	l := &Log{lg: lg, dir: dir, wal: w, purger: newPurger(lg, dir, opts.MaxWALs)}
	l.purged.Go(l.purger.run)
	return l
}

// read opens the log at a mark and reads it all.
func read(lg *zap.Logger, dir string, mark *walpb.Snapshot) (w *wal.WAL, r *Restored, err error) {
	w, err = wal.Open(lg, dir, mark)
	switch {
	case errors.Is(err, fileutil.ErrLocked):
		return nil, nil, ErrLocked
	case err != nil:
		return nil, nil, err
	}
	open := w
	defer func() {
		if p := recover(); p != nil {
			err = damage(dir, fmt.Errorf("%v", p))
		}
		if err != nil {
			w, r, err = nil, nil, errors.Join(err, open.Close())
		}
	}()
	data, hs, ents, err := open.ReadAll()
	if err != nil {
		return nil, nil, damage(dir, err)
	}
	var md etcdserverpb.Metadata
	if len(data) == 0 {
		return nil, nil, fmt.Errorf("%w: its segments have no metadata; %s", ErrCorrupt, advice)
	}
	if err := proto.Unmarshal(data, &md); err != nil {
		return nil, nil, fmt.Errorf("%w: its metadata cannot be decoded: %w; %s", ErrCorrupt, err, advice)
	}
	r = &Restored{Metadata: Metadata{NodeID: md.GetNodeID(), ClusterID: md.GetClusterID()},
		Mark: Mark{Index: mark.GetIndex(), Term: mark.GetTerm()}, Entries: ents}
	if hs.GetTerm() != 0 || hs.GetVote() != 0 || hs.GetCommit() != 0 {
		r.HardState = hs
	}
	return open, r, nil
}

// damage says of an error of the decoder what it means to the operator, and in which segment it is.
func damage(dir string, err error) error {
	if os.IsPermission(err) {
		return err
	}
	if where := findDamage(dir); where != "" {
		return fmt.Errorf("%w: %s: %w; %s", ErrCorrupt, where, err, advice)
	}
	return fmt.Errorf("%w: %w; %s", ErrCorrupt, err, advice)
}

// newestMark chooses where to read from.
func newestMark(lg *zap.Logger, dir string, applied uint64) (*walpb.Snapshot, error) {
	marks, err := wal.ValidSnapshotEntries(lg, dir)
	if err != nil {
		return nil, damage(dir, err)
	}
	var newest *walpb.Snapshot
	for _, m := range marks {
		if m.GetIndex() <= applied && (newest == nil || m.GetIndex() >= newest.GetIndex()) {
			newest = m
		}
	}
	if newest != nil {
		return newest, nil
	}
	if len(marks) == 0 {
		return nil, fmt.Errorf("%w: it has no mark to read from; %s", ErrCorrupt, advice)
	}
	return nil, fmt.Errorf("%w: the engine has applied up to index %d, the log begins at %d: the engine is older than the log; "+
		"restore both together", ErrNoMark, applied, marks[0].GetIndex())
}

// Append writes a hard state (nil if unchanged) and entries, and syncs unless only the commit index has moved. After
// an error it, and Mark, fail with that error.
func (l *Log) Append(hs *raftpb.HardState, ents []*raftpb.Entry) (err error) {
	if l.failed != nil {
		return fmt.Errorf("append to raft log %s after a failed write: %w", l.dir, l.failed)
	}
	defer func() { l.failed = err }()
	defer recovered(&err, "append to", l.dir)
	if hs == nil && !l.synced && l.hs != nil {
		// etcd's wal repeats the hard state at the head of each segment, but only one written since it was opened;
		// without this, releasing the older segments could lose it.
		hs = l.hs
	}
	if err := l.wal.Save(hs, ents); err != nil {
		return fmt.Errorf("append to raft log %s: %w", l.dir, err)
	}
	if hs != nil {
		l.hs, l.synced = hs, true
	}
	if len(ents) > 0 {
		l.last = ents[len(ents)-1].GetIndex()
	}
	return nil
}

// Mark records and syncs that the engine is durable up to index.
func (l *Log) Mark(index, term uint64, cs *raftpb.ConfState) (err error) {
	if l.failed != nil {
		return fmt.Errorf("mark index %d in raft log %s after a failed write: %w", index, l.dir, l.failed)
	}
	if index > l.last {
		return fmt.Errorf("mark index %d in raft log %s: its last entry is %d", index, l.dir, l.last)
	}
	defer func() { l.failed = err }()
	defer recovered(&err, "mark", l.dir)
	if l.hs.GetCommit() < index {
		// Readers believe only marks that are not above the commit index, which is not always written.
		hs := &raftpb.HardState{Term: new(l.hs.GetTerm()), Vote: new(l.hs.GetVote()), Commit: &index}
		if err := l.Append(hs, nil); err != nil {
			return err
		}
	}
	if err := l.wal.SaveSnapshot(&walpb.Snapshot{Index: &index, Term: &term, ConfState: cs}); err != nil {
		return fmt.Errorf("mark index %d in raft log %s: %w", index, l.dir, err)
	}
	return nil
}

// Install records and syncs that a snapshot of another member, durable elsewhere, stands for everything up to index,
// which is committed. What the log held before is void: the next entry follows on index. A crash leaves the log as it
// was, or installed.
func (l *Log) Install(index, term uint64, cs *raftpb.ConfState) (err error) {
	if l.failed != nil {
		return fmt.Errorf("install index %d in raft log %s after a failed write: %w", index, l.dir, l.failed)
	}
	defer func() { l.failed = err }()
	defer recovered(&err, "install a snapshot in", l.dir)
	if err := l.wal.SaveSnapshot(&walpb.Snapshot{Index: &index, Term: &term, ConfState: cs}); err != nil {
		return fmt.Errorf("install index %d in raft log %s: %w", index, l.dir, err)
	}
	// Readers believe the record only if its index is committed. In this order, because a log that ends below its
	// commit index is damaged.
	hs := &raftpb.HardState{Term: new(l.hs.GetTerm()), Vote: new(l.hs.GetVote()), Commit: new(max(index, l.hs.GetCommit()))}
	if err := l.Append(hs, nil); err != nil {
		return err
	}
	if err := l.wal.Sync(); err != nil { // a hard state that only commits is not synced
		return fmt.Errorf("install index %d in raft log %s: %w", index, l.dir, err)
	}
	l.last = index
	return nil
}

// Marks returns the positions at which the log in dir can be read from, oldest first. It changes nothing.
func Marks(lg *zap.Logger, dir string) ([]Mark, error) {
	recorded, err := wal.ValidSnapshotEntries(lg, dir)
	if err != nil {
		return nil, damage(dir, err)
	}
	marks := make([]Mark, 0, len(recorded))
	for _, m := range recorded {
		marks = append(marks, Mark{Index: m.GetIndex(), Term: m.GetTerm()})
	}
	return marks, nil
}

// Release gives up the segments that only hold entries at or below index, which must not be above the last mark. They
// are deleted in the background as MaxWALs says.
func (l *Log) Release(index uint64) (err error) {
	defer recovered(&err, "release", l.dir)
	if err := l.wal.ReleaseLockTo(index); err != nil {
		return fmt.Errorf("release raft log %s up to index %d: %w", l.dir, index, err)
	}
	l.purger.release(index)
	return nil
}

// Close syncs and closes the log, and waits for deletions that have begun. After a failed write it only closes.
func (l *Log) Close() (err error) {
	defer recovered(&err, "close", l.dir)
	l.purger.stop()
	l.purged.Wait()
	if l.failed != nil {
		// A sync may succeed although the one before has lost what it was to write. Nothing is left to flush: the
		// encoder drops what it could not write.
		l.wal.SetUnsafeNoFsync()
	}
	if err := l.wal.Close(); err != nil {
		return fmt.Errorf("close raft log %s: %w", l.dir, err)
	}
	return nil
}

// recovered turns a panic of etcd's package, which panics on some damage and some file system errors, into an error.
func recovered(err *error, operation, dir string) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%s raft log %s: %w: %v; %s", operation, filepath.Clean(dir), ErrCorrupt, p, advice)
	}
}
