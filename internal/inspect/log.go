package inspect

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/dolmen-io/dolmen/internal/wal"
)

const restore = "Restore the member from a backup, or remove it from the cluster and add it again empty."

// position is how far a store, which is called of, has applied the log.
type position struct {
	index, term uint64
	of          string
}

// logCheck reads a log and holds it against the position that the store, an engine or etcd's database, has applied.
// It keeps no entry.
type logCheck struct {
	log     Log
	applied uint64
	term    uint64 // of the entry applied, by the store
	store   string
	alone   bool // without a store to fit: a start reads from the newest mark

	metadata  *wal.Metadata
	hardState *raftpb.HardState
	marks     []wal.Mark // one a flush, in the segments that are kept
	lastTerm  uint64     // of the last entry
	logTerm   uint64     // of the entry that the store has applied last, by the log; 0 if it is not there
	problems  []string
	bad       int // entries whose request cannot be read
}

func (c *logCheck) record(r wal.Record) error {
	switch {
	case r.Metadata != nil:
		if c.metadata == nil {
			c.metadata = r.Metadata
		}
		if *c.metadata != *r.Metadata {
			c.problem("%s belongs to member %x of cluster %x, the segments before to %x of %x", filepath.Base(r.Path),
				r.Metadata.NodeID, r.Metadata.ClusterID, c.metadata.NodeID, c.metadata.ClusterID)
		}
	case r.Mark != nil:
		c.marks = append(c.marks, *r.Mark)
	case r.HardState != nil:
		c.hardState = r.HardState
	case r.Entry != nil:
		c.entry(r)
	}
	return nil
}

func (c *logCheck) entry(r wal.Record) {
	index, term := r.Entry.GetIndex(), r.Entry.GetTerm()
	switch {
	case c.log.Entries == 0:
		c.log.First = index
	case index > c.log.Last+1:
		c.problem("entries %d to %d are missing before %s", c.log.Last+1, index-1, r)
	case term < c.lastTerm:
		c.problem("%s follows on one of term %d: terms never go back", r, c.lastTerm)
	}
	c.log.Entries++
	c.log.Last, c.lastTerm = index, term
	if index == c.applied {
		c.logTerm = term
	}
	if req := decodeRequest(r.Entry, false); req.Err != nil {
		if c.bad++; c.bad == 1 {
			c.problem("%s asks for nothing that can be read: %v", r, req.Err)
		}
	}
}

// maxProblems bounds the report on a log that is wrong throughout.
const maxProblems = 20

func (c *logCheck) problem(format string, args ...any) {
	if len(c.problems) < maxProblems {
		c.problems = append(c.problems, fmt.Sprintf(format, args...))
	}
}

// finish holds what was read against the store, by the rules by which a member starts.
func (c *logCheck) finish() {
	if c.bad > 1 {
		c.problem("so do %d more entries", c.bad-1)
	}
	mark := c.newestMark()
	switch {
	case c.metadata == nil:
		c.problem("it does not say whose it is: its segments have no metadata")
	case len(c.marks) == 0:
		c.problem("it has no snapshot record to read from")
	case mark == nil:
		c.problem("it begins at index %d but the %s has applied only up to %d: the %s is older than the log",
			c.marks[0].Index, c.store, c.applied, c.store)
	case c.hardState == nil && c.applied > 0:
		c.problem("it has no state although the %s has applied index %d: it belongs to another member or was lost", c.store, c.applied)
	case c.hardState != nil:
		c.span(mark)
	}
}

// newestMark returns the snapshot record from which a start reads: the newest that is committed, and that the store
// has reached.
func (c *logCheck) newestMark() *wal.Mark {
	limit := c.hardState.GetCommit()
	if !c.alone {
		limit = min(limit, c.applied)
	}
	var newest *wal.Mark
	for i, m := range c.marks {
		if m.Index <= limit && (newest == nil || m.Index >= newest.Index) {
			newest = &c.marks[i]
		}
	}
	return newest
}

// span checks that the log reaches from where a start reads to what is committed.
func (c *logCheck) span(mark *wal.Mark) {
	l := &c.log
	l.ReadFrom = mark.Index
	last := max(l.Last, mark.Index)
	if l.Entries > 0 && l.First > mark.Index+1 {
		c.problem("entries %d to %d, which a start reads first, are missing", mark.Index+1, l.First-1)
	}
	if last < c.applied {
		c.problem("it ends at index %d but the %s has applied up to %d: it has lost its end", last, c.store, c.applied)
	} else if commit := c.hardState.GetCommit(); last < commit {
		c.problem("it ends at index %d but says that it is committed up to %d: it has lost its end", last, commit)
	}
	if c.logTerm != 0 && c.logTerm != c.term {
		c.problem("entry %d is of term %d, the %s has applied one of term %d: they belong to different histories",
			c.applied, c.logTerm, c.store, c.term)
	}
}

// checkLog reads the log. applied is nil if the store could not be read.
func (r *Report) checkLog(dir string, applied *position) error {
	c := &logCheck{log: Log{Dir: dir}, alone: applied == nil}
	if applied != nil {
		c.applied, c.term, c.store = applied.index, applied.term, applied.of
	}
	files, err := wal.Files(dir)
	if err != nil {
		return fmt.Errorf("read the raft log: %w", err)
	}
	for _, f := range files {
		c.log.Segments++
		c.log.Bytes += f.Bytes
	}
	torn, err := wal.Scan(dir, c.record)
	if err != nil && !errors.Is(err, wal.ErrCorrupt) {
		return fmt.Errorf("read the raft log: %w", err)
	}
	c.log.Term, c.log.Commit = c.hardState.GetTerm(), max(c.hardState.GetCommit(), c.applied)
	if err != nil {
		c.problem("%s", strings.TrimPrefix(err.Error(), wal.ErrCorrupt.Error()+": "))
	} else {
		c.finish()
	}
	if torn != nil {
		r.note("a crash has torn the end of the raft log, %s at offset %d; the next start cuts it off, nothing in it was acknowledged",
			torn.Path, torn.Offset)
	}
	if c.metadata != nil {
		r.Cluster.Member, r.Cluster.ID = string(hex(c.metadata.NodeID)), string(hex(c.metadata.ClusterID))
	}
	r.Log = &c.log
	for _, p := range c.problems {
		r.finding("raft log", restore, "%s", p)
	}
	return nil
}
