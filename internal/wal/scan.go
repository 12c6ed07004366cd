package wal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Record is one record of a log as it lies on disk. One of the pointers is set, or none: then it is the checksum
// that a segment begins with.
type Record struct {
	// Path and Offset say where it begins, Bytes how large its content is.
	Path   string
	Offset int64
	Bytes  int

	Metadata  *Metadata
	Mark      *Mark
	HardState *raftpb.HardState
	Entry     *raftpb.Entry
	// Checksum is what the log before the segment adds up to.
	Checksum uint32
}

// Name is what kind of record it is, in etcd's words.
func (r Record) Name() string {
	switch {
	case r.Metadata != nil:
		return "metadata"
	case r.Mark != nil:
		return "snapshot"
	case r.HardState != nil:
		return "state"
	case r.Entry != nil:
		return "entry"
	}
	return "crc"
}

// String says which record it is and where.
func (r Record) String() string {
	name := r.Name()
	switch {
	case r.Entry != nil:
		name = fmt.Sprintf("entry %d of term %d", r.Entry.GetIndex(), r.Entry.GetTerm())
	case r.Mark != nil:
		name = fmt.Sprintf("snapshot record of index %d", r.Mark.Index)
	case r.HardState != nil:
		name = fmt.Sprintf("state with commit index %d", r.HardState.GetCommit())
	}
	return fmt.Sprintf("%s at offset %d of %s", name, r.Offset, filepath.Base(r.Path))
}

// Damage is where a log does not read as it was written. It is ErrCorrupt.
type Damage struct {
	Path   string
	Offset int64
	// Before is the last sound record; nil if there is none.
	Before *Record
	Err    error
}

func (d *Damage) Error() string {
	before := "nothing sound precedes it"
	if d.Before != nil {
		before = "the last sound record is " + d.Before.String()
	}
	return fmt.Sprintf("%v: %s at offset %d: %v; %s", ErrCorrupt, d.Path, d.Offset, d.Err, before)
}

// Unwrap returns ErrCorrupt and the reason.
func (d *Damage) Unwrap() []error { return []error{ErrCorrupt, d.Err} }

// File is a segment of a log.
type File struct {
	Path  string
	Bytes int64
}

// Files returns the segments of the log in dir, oldest first.
func Files(dir string) ([]File, error) {
	all, err := segments(dir)
	if err != nil {
		return nil, err
	}
	files := make([]File, 0, len(all))
	for _, s := range all {
		path := filepath.Join(dir, s.name)
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		files = append(files, File{Path: path, Bytes: info.Size()})
	}
	return files, nil
}

// Scan reads the log in dir from its beginning and calls fn for each record, until fn fails. It writes nothing, takes
// no lock, and holds one record at a time. It returns where a crash has torn the end, nil if it has not.
//
// Errors: *Damage, which is ErrCorrupt, at the first record that does not read as it was written; fn's; those of the
// file system. A log that is being written to may look damaged at its end.
func Scan(dir string, fn func(Record) error) (torn *Tear, err error) {
	s := &scanner{fn: fn}
	defer func() {
		if p := recover(); p != nil { // etcd's package panics on some damage
			err = &Damage{Path: s.path, Offset: s.offset, Before: s.before, Err: fmt.Errorf("%v", p)}
		}
	}()
	all, err := segments(dir)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, &Damage{Path: dir, Err: errors.New("there is no segment in it")}
	}
	for i, seg := range all {
		s.path, s.offset = filepath.Join(dir, seg.name), 0
		if i > 0 && seg.seq != all[i-1].seq+1 {
			return nil, s.damage(fmt.Errorf("segment %016x, which should be before it, is missing", seg.seq-1))
		}
		if torn, err = s.segment(i == len(all)-1); err != nil {
			return nil, err
		}
	}
	if !s.whose || !s.marked {
		// A log gets its name only when these are in it, and they are repeated or kept: no crash takes them away.
		return nil, s.damage(errors.New("the log ends without saying whose it is, or without a snapshot record to read from"))
	}
	return torn, nil
}

// scanner is where a scan has come to.
type scanner struct {
	fn     func(Record) error
	path   string
	offset int64
	crc    uint32  // of everything before offset
	before *Record // nil at the very beginning
	// whose and marked say that there were metadata and a mark.
	whose, marked bool
}

func (s *scanner) damage(err error) error {
	return &Damage{Path: s.path, Offset: s.offset, Before: s.before, Err: err}
}

func (s *scanner) segment(last bool) (_ *Tear, err error) {
	f, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	d := wal.NewDecoder(fileutil.NewFileReader(f))
	d.UpdateCRC(s.crc)
	for {
		s.offset, s.crc = d.LastOffset(), d.LastCRC()
		var rec walpb.Record
		err := d.Decode(&rec)
		switch {
		case err == nil:
		case last:
			return s.end(f, err)
		case errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
			return nil, nil
		default:
			return nil, s.damage(err)
		}
		if rec.GetType() == wal.CrcType {
			if s.crc != 0 && rec.GetCrc() != s.crc {
				return nil, s.damage(errors.New("the segment does not follow on the one before, of which the end is missing, " +
					"or is damaged at its beginning"))
			}
			d.UpdateCRC(rec.GetCrc())
		}
		r, err := s.decode(&rec)
		if err != nil {
			return nil, s.damage(err)
		}
		if err := s.fn(r); err != nil {
			return nil, err
		}
		s.whose, s.marked = s.whose || r.Metadata != nil, s.marked || r.Mark != nil
		r.Entry = withoutData(r.Entry)
		s.before = &r
	}
}

// withoutData is what is kept of an entry to tell where the scan was.
func withoutData(e *raftpb.Entry) *raftpb.Entry {
	if e == nil {
		return nil
	}
	return &raftpb.Entry{Index: new(e.GetIndex()), Term: new(e.GetTerm())}
}

// end judges what ends the last segment, as Open does.
func (s *scanner) end(f *os.File, err error) (*Tear, error) {
	torn := errors.Is(err, io.ErrUnexpectedEOF)
	if !torn && !errors.Is(err, io.EOF) {
		return nil, s.damage(err)
	}
	if s.offset%frameSize != 0 {
		return nil, s.damage(errors.New("the record that ends here has a damaged length"))
	}
	damaged, err := lengthDamaged(f, s.offset, s.crc)
	if err != nil {
		return nil, err
	}
	if damaged {
		return nil, s.damage(errors.New("the record has a damaged length"))
	}
	if !torn {
		return nil, nil
	}
	return &Tear{Path: s.path, Offset: s.offset}, nil
}

// decode reads the content of a record.
func (s *scanner) decode(rec *walpb.Record) (Record, error) {
	r := Record{Path: s.path, Offset: s.offset, Bytes: len(rec.GetData())}
	var err error
	switch rec.GetType() {
	case wal.CrcType:
		r.Checksum = rec.GetCrc()
	case wal.MetadataType:
		var md etcdserverpb.Metadata
		err = proto.Unmarshal(rec.GetData(), &md)
		r.Metadata = &Metadata{NodeID: md.GetNodeID(), ClusterID: md.GetClusterID()}
	case wal.SnapshotType:
		var mark walpb.Snapshot
		err = proto.Unmarshal(rec.GetData(), &mark)
		r.Mark = &Mark{Index: mark.GetIndex(), Term: mark.GetTerm()}
	case wal.StateType:
		r.HardState = &raftpb.HardState{}
		err = proto.Unmarshal(rec.GetData(), r.HardState)
	case wal.EntryType:
		r.Entry = &raftpb.Entry{}
		err = proto.Unmarshal(rec.GetData(), r.Entry)
	default:
		err = fmt.Errorf("the record is of type %d, which is not known", rec.GetType())
	}
	if err != nil {
		return Record{}, fmt.Errorf("the checksum is right but the content cannot be read: %w", err)
	}
	return r, nil
}
