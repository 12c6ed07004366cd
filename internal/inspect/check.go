package inspect

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/memory"
	"github.com/dolmen-io/dolmen/internal/engine/pebble"
	"github.com/dolmen-io/dolmen/internal/engine/rocksdb"
	"github.com/dolmen-io/dolmen/internal/node"
	"github.com/dolmen-io/dolmen/internal/state"
	"github.com/dolmen-io/dolmen/internal/wal"
)

// Check looks at the data directory of a stopped member: everything it holds is read, and held against each other.
// walDir is empty unless the raft log lies elsewhere. It needs as much memory as the member does.
//
// Damage is part of the report and no error. Errors, with which nothing can be said: ErrInUse, ErrNothing,
// node.ErrForeign for a directory that a newer version wrote, and those of the file system.
func Check(dataDir, walDir string) (*Report, error) {
	at := node.NewLayout(dataDir, walDir)
	r := &Report{DataDir: dataDir, Kind: "dolmen", Findings: []Finding{}}
	if err := r.recognise(at); err != nil {
		return nil, err
	}
	unlock, err := lockAll(at)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if r.Kind == "etcd" {
		err = r.checkEtcd(at)
	} else {
		err = r.checkOurs(at)
	}
	if err != nil {
		return nil, err
	}
	r.Sound = len(r.Findings) == 0
	return r, nil
}

func (r *Report) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

func (r *Report) finding(where, do, format string, args ...any) {
	r.Findings = append(r.Findings, Finding{Where: where, What: fmt.Sprintf(format, args...), Do: do})
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// recognise says whose directory it is.
func (r *Report) recognise(at node.Layout) error {
	if _, err := os.Stat(r.DataDir); err != nil {
		return fmt.Errorf("%w: %w", ErrNothing, err)
	}
	switch {
	case exists(at.Format):
	case exists(at.EtcdDatabase):
		r.Kind = "etcd"
	case wal.Exist(at.WAL) || exists(at.Engine):
		r.finding("FORMAT", "Restore the file, or the member from a backup: without it no member starts here.",
			"%s is missing, though there is a raft log or an engine that it belongs to", at.Format)
	default:
		return fmt.Errorf("%w: neither dolmen nor etcd has written to %s; name another --data-dir", ErrNothing, r.DataDir)
	}
	return nil
}

// lockAll keeps members from starting, and fails with ErrInUse if one is running.
func lockAll(at node.Layout) (unlock func(), err error) {
	var held []io.Closer
	unlock = func() {
		for _, h := range held {
			_ = h.Close() // it was only read
		}
	}
	paths := []string{at.Lock}
	files, err := wal.Files(at.WAL)
	if err == nil && len(files) > 0 {
		paths = append(paths, files[len(files)-1].Path) // what etcd locks
	}
	for _, path := range paths {
		h, err := shareLock(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // nobody has ever run here
		}
		if err != nil {
			unlock()
			return nil, fmt.Errorf("check %s: %w", at.Member, err)
		}
		held = append(held, h)
	}
	return unlock, nil
}

func (r *Report) checkOurs(at node.Layout) error {
	format, err := node.ReadFormat(at.Format)
	switch {
	case errors.Is(err, fs.ErrNotExist): // found already
	case errors.Is(err, node.ErrForeign) && format.Product == "":
		r.finding("FORMAT", "Restore the file, or the member from a backup: without it no member starts here.", "%v", err)
	case err != nil:
		return err
	}
	r.Format = format.Format
	dir := at.Engine
	if !exists(dir) && exists(at.Imported) {
		dir = at.Imported
		r.note("taking over the directory of an etcd member was interrupted; the next start completes it")
	}
	if err := r.checkEngine(dir, format.Engine); err != nil {
		return err
	}
	if wal.Exist(at.WAL) {
		var applied *position
		if e := r.Engine; e != nil {
			applied = &position{index: e.Applied, term: e.AppliedTerm, of: "engine"}
		}
		if err := r.checkLog(at.WAL, applied); err != nil {
			return err
		}
	} else if r.Engine != nil && r.Engine.Applied > 0 {
		r.finding("raft log", "Name the --wal-dir that the member had, or restore the member from a backup.",
			"there is none in %s, though the engine has applied index %d", at.WAL, r.Engine.Applied)
	}
	r.checkMember("engine")
	if r.Engine != nil {
		r.noteBehind("engine", r.Engine.Applied)
	}
	return nil
}

// noteBehind says that the store, of that name, does not hold all that is acknowledged, which is so after every crash.
func (r *Report) noteBehind(store string, applied uint64) {
	if r.Keys == nil || r.Log == nil || r.Log.Commit <= applied {
		return
	}
	r.note("the member has crashed: %s of the log %s not in the %s yet, and the figures below are without what they did; "+
		"the next start applies them", plural(int(r.Log.Commit-applied), "entry"), isAre(r.Log.Commit-applied), store)
}

func isAre(n uint64) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

// checkMember holds whose log it is against whom the store, of that name, knows.
func (r *Report) checkMember(store string) {
	if r.Cluster.Member == "" || len(r.Cluster.Members) == 0 {
		return
	}
	for _, m := range r.Cluster.Members {
		if m.ID == r.Cluster.Member {
			return
		}
	}
	if r.Cluster.Removed > 0 {
		r.note("member %s is no member of its cluster any more", r.Cluster.Member)
		return
	}
	r.finding("raft log", "Name the --wal-dir that belongs to the --data-dir.",
		"it is that of member %s, whom the %s does not know as a member", r.Cluster.Member, store)
}

// verifier is an engine that can look for damage in what a reading of everything does not touch.
type verifier interface{ Verify() error }

func (r *Report) checkEngine(dir, name string) error {
	var eng engine.Engine
	var err error
	switch name {
	case config.EngineMemory:
		eng, err = openMemory(dir)
	case config.EnginePebble:
		eng, err = openPebble(dir)
	case config.EngineRocksDB:
		eng, err = openRocksDB(dir)
	case "": // FORMAT could not be read
		return nil
	default:
		return fmt.Errorf("check %s: this version knows no engine %q", filepath.Dir(dir), name)
	}
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, rocksdb.ErrNotBuilt):
		return err
	case errors.Is(err, fs.ErrNotExist) && !errors.Is(err, engine.ErrCorrupt):
		r.note("the engine has not been flushed yet: everything is in the raft log")
		r.Engine = &Engine{Name: name}
		return nil
	case err != nil:
		r.finding("engine", restore, "%v", err)
		return nil
	}
	if err := r.read(eng, name); err != nil {
		r.finding("engine", restore, "%v", err)
	}
	if err := eng.Close(); err != nil && len(r.Findings) == 0 {
		r.finding("engine", restore, "%v", err)
	}
	return nil
}

// openMemory, openPebble and openRocksDB keep a nil pointer from becoming an engine that is not nil.
func openMemory(dir string) (engine.Engine, error) {
	eng, err := memory.OpenReadOnly(dir, memory.Options{})
	if err != nil {
		return nil, err
	}
	return eng, nil
}

func openPebble(dir string) (engine.Engine, error) {
	eng, err := pebble.OpenReadOnly(dir, pebble.Options{})
	if err != nil {
		return nil, err
	}
	return eng, nil
}

func openRocksDB(dir string) (engine.Engine, error) {
	eng, err := rocksdb.OpenReadOnly(dir, rocksdb.Options{})
	if err != nil {
		return nil, err
	}
	return eng, nil
}

// read fills in what the engine holds. An error is damage.
func (r *Report) read(eng engine.Engine, name string) error {
	applied, err := state.Durable(eng)
	if err != nil {
		return err
	}
	r.Engine = &Engine{Name: name, Bytes: eng.Stats().DiskBytes, Applied: applied.Index, AppliedTerm: applied.Term}
	if v, ok := eng.(verifier); ok {
		if err := v.Verify(); err != nil {
			return err
		}
	}
	st, err := state.Open(eng, state.Config{MinTTL: 1, MaxLearners: 1})
	if err != nil {
		return err
	}
	revisions, err := countRevisions(eng)
	if err != nil {
		return err
	}
	r.describe(st, revisions)
	return nil
}

func countRevisions(eng engine.Engine) (n int64, err error) {
	sn, err := eng.Snapshot()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, sn.Close()) }()
	err = sn.Scan(nil, engine.RevisionsEnd, false, func(_, _ []byte) bool {
		n++
		return true
	})
	return n, err
}

func (r *Report) describe(st *state.State, revisions int64) {
	v := st.View()
	defer v.Release()
	r.Keys = &Keys{Revision: v.KV.Current(), Keys: v.KV.Keys(), Revisions: revisions, Bytes: v.KV.Bytes(),
		Compacted: max(0, v.KV.Compacted()), Finished: max(0, st.Removed())}
	r.Cluster.Version, r.Cluster.Removed = v.Members.Version(), len(v.Members.RemovedIDs())
	for _, m := range v.Members.Members() {
		r.Cluster.Members = append(r.Cluster.Members, memberOf(m))
	}
	r.Leases = &Leases{Leases: st.Leases().Len()}
	for _, l := range st.LoadedLeases() {
		r.Leases.Keys += len(st.Leases().Keys(l.Lease.ID))
	}
	for _, a := range v.Alarms.Alarms {
		r.Alarms = append(r.Alarms, Alarm{Member: string(hex(a.Member)), Type: a.Type.String()})
	}
	r.Auth = &Auth{Enabled: v.Auth.Enabled(), Revision: v.Auth.Revision(), Users: len(v.Auth.Users()), Roles: len(v.Auth.Roles())}
}
