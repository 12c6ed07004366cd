package sim

import (
	"errors"
	"fmt"
	prng "math/rand/v2"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/dolmen-io/dolmen/internal/consensus"
)

// errCrash is what a write returns that a crash has cut short. Nobody lives to see it.
var errCrash = errors.New("sim: the machine has crashed")

// logDisk is a raft log on a simulated disk: records in the order of writing, of which the first synced ones survive
// a crash for sure. What a record is and how a start reads them is as in internal/wal.
type logDisk struct {
	records []logRecord
	synced  int
	hs      *raftpb.HardState // the newest written
	last    uint64            // index of the newest entry

	// torn makes the next append stop after so many records, and crash.
	torn   bool
	tornAt int

	forgetful bool // break: nothing is synced, and nobody told
	breaks    breaks
}

// logRecord is one of an entry, a hard state or a mark.
type logRecord struct {
	entry *raftpb.Entry
	hs    *raftpb.HardState
	mark  *logMark
}

type logMark struct {
	index, term uint64
	installed   bool // what was written before is void
}

// Append implements consensus.Log.
func (d *logDisk) Append(hs *raftpb.HardState, ents []*raftpb.Entry) error {
	add := make([]logRecord, 0, len(ents)+1)
	for _, e := range ents {
		add = append(add, logRecord{entry: e})
	}
	if hs != nil {
		add = append(add, logRecord{hs: hs})
	}
	if d.torn {
		d.records = append(d.records, add[:min(d.tornAt, len(add))]...)
		d.synced = len(d.records)
		return errCrash
	}
	d.records = append(d.records, add...)
	if len(ents) > 0 || hs.GetTerm() != d.hs.GetTerm() || hs.GetVote() != d.hs.GetVote() {
		d.sync()
	}
	if hs != nil {
		d.hs = hs
	}
	if len(ents) > 0 {
		d.last = ents[len(ents)-1].GetIndex()
	}
	return nil
}

func (d *logDisk) sync() {
	if !d.forgetful {
		d.synced = len(d.records)
	}
}

// Mark implements consensus.Log.
func (d *logDisk) Mark(index, term uint64, _ *raftpb.ConfState) error {
	if index > d.last {
		return fmt.Errorf("sim: mark index %d in a log whose last entry is %d", index, d.last)
	}
	if d.hs.GetCommit() < index {
		d.hs = &raftpb.HardState{Term: new(d.hs.GetTerm()), Vote: new(d.hs.GetVote()), Commit: &index}
		d.records = append(d.records, logRecord{hs: d.hs})
	}
	d.records = append(d.records, logRecord{mark: &logMark{index: index, term: term}})
	d.sync()
	return nil
}

// Install implements consensus.Log.
func (d *logDisk) Install(index, term uint64, _ *raftpb.ConfState) error {
	d.last = index
	if d.breaks.forgetInstalled {
		return nil
	}
	d.records = append(d.records, logRecord{mark: &logMark{index: index, term: term, installed: true}})
	if d.hs.GetCommit() < index && !d.breaks.lazyInstall {
		d.hs = &raftpb.HardState{Term: new(d.hs.GetTerm()), Vote: new(d.hs.GetVote()), Commit: &index}
		d.records = append(d.records, logRecord{hs: d.hs})
	}
	d.sync()
	return nil
}

// Release implements consensus.Log.
func (d *logDisk) Release(index uint64) error {
	if d.synced < len(d.records) {
		return nil // as a log that keeps whole segments
	}
	r, err := d.read(index)
	if err != nil {
		return err
	}
	kept := []logRecord{{hs: r.hs}, {mark: &logMark{index: r.first.Index, term: r.first.Term}}}
	for _, e := range r.entries {
		kept = append(kept, logRecord{entry: e})
	}
	for _, rec := range d.records {
		if rec.mark != nil && rec.mark.index > r.first.Index {
			kept = append(kept, rec)
		}
	}
	d.records, d.synced = kept, len(kept)
	return nil
}

// Close implements consensus.Log.
func (d *logDisk) Close() error {
	d.sync()
	return nil
}

// crash forgets what was not synced, except for as much of its beginning as chance leaves.
func (d *logDisk) crash(rng *prng.Rand) {
	keep := d.synced + rng.IntN(len(d.records)-d.synced+1)
	if d.forgetful {
		keep = d.synced + (len(d.records)-d.synced)*3/4
	}
	d.records = d.records[:keep:keep]
	d.synced, d.torn = keep, false
}

// end returns the index of the newest entry there is.
func (d *logDisk) end() (index uint64) {
	for _, rec := range d.records {
		if rec.entry != nil {
			index = rec.entry.GetIndex()
		}
	}
	return index
}

// logContent is what a start reads.
type logContent struct {
	hs      *raftpb.HardState
	entries []*raftpb.Entry
	first   consensus.First
}

// marks returns the marks that a start believes: those that are committed.
func (d *logDisk) marks() []logMark {
	all := []logMark{{}}
	var commit uint64
	for _, rec := range d.records {
		if rec.mark != nil {
			all = append(all, *rec.mark)
		}
		if rec.hs != nil {
			commit = rec.hs.GetCommit()
		}
	}
	valid := all[:0]
	for _, m := range all {
		if m.index <= commit {
			valid = append(valid, m)
		}
	}
	return valid
}

// read reads the log from its newest mark that is not above applied.
func (d *logDisk) read(applied uint64) (logContent, error) {
	var c logContent
	found := d.records == nil
	for _, m := range d.marks() {
		if m.index <= applied && m.index >= c.first.Index {
			c.first, found = consensus.First{Index: m.index, Term: m.term}, true
		}
	}
	if !found {
		return c, fmt.Errorf("sim: the log has no mark at or below index %d", applied)
	}
	d.hs, d.last = nil, c.first.Index
	for _, rec := range d.records {
		switch {
		case rec.hs != nil:
			c.hs = rec.hs
		case rec.mark != nil && rec.mark.installed && rec.mark.index == c.first.Index:
			c.entries = nil
		case rec.entry != nil && rec.entry.GetIndex() > c.first.Index:
			at := rec.entry.GetIndex() - c.first.Index - 1
			if at > uint64(len(c.entries)) {
				return c, fmt.Errorf("sim: the log read from index %d has a gap before entry %d", c.first.Index, rec.entry.GetIndex())
			}
			c.entries = append(c.entries[:at:at], rec.entry)
		}
	}
	d.hs, d.last = c.hs, c.first.Index+uint64(len(c.entries))
	return c, nil
}
