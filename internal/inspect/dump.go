package inspect

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"go.etcd.io/raft/v3/raftpb"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/dolmen-io/dolmen/internal/wal"
)

// DumpOptions says what of a log is printed, and how.
type DumpOptions struct {
	// From and To are the first and the last index of the entries and snapshot records to print; To 0 is the end.
	// With either set, records that have no index are left out.
	From, To uint64
	// Kinds are names of records or of requests, out of DumpKinds; none means all.
	Kinds []string
	// Values prints what keys are set to. Passwords are never printed.
	Values bool
	// JSON prints an object a line.
	JSON bool
}

// recordKinds are the names of the records that are not entries of one kind.
func recordKinds() []string {
	return []string{"crc", "metadata", "snapshot", "state", "entry", "conf_change", "conf_change_v2", "empty", "unreadable"}
}

// DumpKinds returns what DumpOptions.Kinds may hold: names of records, and of requests in entries.
func DumpKinds() []string {
	kinds := recordKinds()
	fields := (&pb.InternalRaftRequest{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if d := fields.Get(i); d.Message() != nil && d.Name() != "header" {
			kinds = append(kinds, string(d.Name()))
		}
	}
	return kinds
}

// Dumped is what DumpLog has come across, printed or not.
type Dumped struct {
	Records, Entries int
	// First and Last are the indexes of the first and the last entry.
	First, Last uint64
	// Torn is where a crash has cut the end short; nil if it has not.
	Torn *wal.Tear
	// Running says that a member has the log open: then its end may be incomplete.
	Running bool
}

// ErrRequest says that entries are whole but ask for nothing that can be read.
var ErrRequest = errors.New("a request in the raft log cannot be read")

// DumpLog prints the raft log in dir to w, which etcd or dolmen wrote. It holds one record at a time.
//
// Errors: ErrNothing if there is no log; wal.ErrCorrupt, as *wal.Damage, after everything that precedes the damage
// has been printed; ErrRequest after everything has been; those of w and the file system.
func DumpLog(w io.Writer, dir string, o DumpOptions) (Dumped, error) {
	d := &dumper{o: o, out: bufio.NewWriter(w)}
	files, err := wal.Files(dir)
	if err != nil {
		return d.Dumped, fmt.Errorf("read the raft log: %w", err)
	}
	if len(files) == 0 {
		return d.Dumped, fmt.Errorf("%w: %s holds no file of a raft log", ErrNothing, dir)
	}
	switch lock, err := shareLock(files[len(files)-1].Path); {
	case errors.Is(err, ErrInUse):
		d.Running = true
	case err != nil:
		return d.Dumped, err
	default:
		if err := lock.Close(); err != nil {
			return d.Dumped, fmt.Errorf("unlock the raft log: %w", err)
		}
	}
	d.Torn, err = wal.Scan(dir, d.record)
	if err == nil {
		err = d.unreadable
	}
	return d.Dumped, errors.Join(err, d.out.Flush())
}

type dumper struct {
	Dumped
	o          DumpOptions
	out        *bufio.Writer
	path       string // of the last record printed
	unreadable error  // of the first entry that is
}

func (d *dumper) record(r wal.Record) error {
	d.Records++
	line := dumpLine{File: filepath.Base(r.Path), Offset: r.Offset, Record: r.Name()}
	kind, index := line.Record, uint64(0)
	switch {
	case r.Metadata != nil:
		line.fields = []field{{"member", hex(r.Metadata.NodeID)}, {"cluster", hex(r.Metadata.ClusterID)}}
	case r.Mark != nil:
		index = r.Mark.Index
		line.Index, line.Term = &r.Mark.Index, &r.Mark.Term
	case r.HardState != nil:
		line.Term = new(r.HardState.GetTerm())
		line.fields = []field{{"vote", hex(r.HardState.GetVote())}, {"commit", plain(fmt.Sprint(r.HardState.GetCommit()))}}
	case r.Entry != nil:
		index = r.Entry.GetIndex()
		kind = d.entry(&line, r.Entry)
	default:
		line.fields = []field{{"checksum", plain(fmt.Sprintf("%08x", r.Checksum))}}
	}
	if !d.wanted(line.Record, kind, index) {
		return nil
	}
	return d.print(&line)
}

func hex(id uint64) plain { return plain(fmt.Sprintf("%x", id)) }

// entry fills the line of an entry and returns the kind of its request.
func (d *dumper) entry(line *dumpLine, e *raftpb.Entry) string {
	if d.Entries++; d.Entries == 1 {
		d.First = e.GetIndex()
	}
	d.Last = e.GetIndex()
	req := decodeRequest(e, d.o.Values)
	if req.Err != nil && d.unreadable == nil {
		d.unreadable = fmt.Errorf("%w: entry %d of term %d at offset %d of %s: %w",
			ErrRequest, e.GetIndex(), e.GetTerm(), line.Offset, line.File, req.Err)
	}
	line.Index, line.Term = new(e.GetIndex()), new(e.GetTerm())
	line.Bytes = new(len(e.GetData()))
	line.request = &req
	return req.Kind
}

func (d *dumper) wanted(record, kind string, index uint64) bool {
	if len(d.o.Kinds) > 0 && !slices.Contains(d.o.Kinds, record) && !slices.Contains(d.o.Kinds, kind) {
		return false
	}
	if d.o.From == 0 && d.o.To == 0 {
		return true
	}
	return (record == "entry" || record == "snapshot") && index >= d.o.From && (d.o.To == 0 || index <= d.o.To)
}

// dumpLine is one record as it is printed.
type dumpLine struct {
	File        string
	Offset      int64
	Record      string
	Index, Term *uint64
	Bytes       *int // of the request
	request     *Request
	fields      []field
}

func (d *dumper) print(line *dumpLine) error {
	if d.o.JSON {
		b, err := json.Marshal(line)
		if err != nil {
			return fmt.Errorf("render a record: %w", err)
		}
		_, err = d.out.Write(append(b, '\n'))
		return err
	}
	if line.File != d.path {
		d.path = line.File
		fmt.Fprintln(d.out, d.path)
	}
	_, err := fmt.Fprintf(d.out, "%10d  %-8s %s\n", line.Offset, line.Record, line)
	return err
}

// String renders what follows the kind of the record.
func (l *dumpLine) String() string {
	var b strings.Builder
	if l.Index != nil {
		fmt.Fprintf(&b, " index=%d", *l.Index)
	}
	if l.Term != nil {
		fmt.Fprintf(&b, " term=%d", *l.Term)
	}
	writeFields(&b, l.fields)
	if l.request != nil {
		fmt.Fprintf(&b, " %s", l.request)
	}
	return strings.TrimPrefix(b.String(), " ")
}

// MarshalJSON implements json.Marshaler.
func (l *dumpLine) MarshalJSON() ([]byte, error) {
	object := jsonFields(l.fields)
	object["file"], object["offset"], object["record"] = l.File, l.Offset, l.Record
	if l.Index != nil {
		object["index"] = *l.Index
	}
	if l.Term != nil {
		object["term"] = *l.Term
	}
	if l.request != nil {
		object["kind"], object["bytes"] = l.request.Kind, *l.Bytes
		object["request"] = jsonFields(l.request.fields)
		if l.request.Err != nil {
			object["error"] = l.request.Err.Error()
		}
	}
	return json.Marshal(object)
}
