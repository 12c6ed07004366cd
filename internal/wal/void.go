package wal

// dropVoid forgets the entries that were in the log before the snapshot at r.Mark was installed.
//
// etcd's reader returns every entry above the mark that it starts at. A mark that a flush has made has its own entry
// before it, and those behind that are good. An installed snapshot is there because the log did not have its entry, or
// another one: what was written before it belongs to another history, and etcd's reader would resurrect it if no entry
// has overwritten it since. Raft would then believe in a newest entry that this member does not have.
func (r *Restored) dropVoid(dir string) error {
	if len(r.Entries) == 0 || r.Mark.Index == 0 {
		return nil
	}
	s := voidScan{mark: r.Mark}
	if _, err := Scan(dir, s.take); err != nil {
		return err
	}
	if s.installed && !s.follows {
		r.Entries = nil
	}
	return nil
}

// voidScan looks at records in the order in which they were written.
type voidScan struct {
	mark      Mark
	term      uint64 // of the entry at the mark's index, 0 if there was none
	installed bool   // the newest record of the mark is of a snapshot that was installed
	follows   bool   // an entry above the mark was written after it
}

func (s *voidScan) take(rec Record) error {
	switch {
	case rec.Entry != nil:
		if rec.Entry.GetIndex() == s.mark.Index {
			s.term = rec.Entry.GetTerm()
		}
		s.follows = s.follows || rec.Entry.GetIndex() > s.mark.Index
	case rec.Mark != nil && *rec.Mark == s.mark && s.term != s.mark.Term:
		s.installed, s.follows = true, false
		s.term = s.mark.Term // a flush may mark the same index later
	}
	return nil
}
