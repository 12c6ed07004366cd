package state

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/alarm"
	"github.com/dolmen-io/dolmen/internal/auth"
	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/lease"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/mvcc"
	"github.com/dolmen-io/dolmen/internal/watch"
)

// Config is what a State needs to know besides the engine's content. It must be the same on all members.
type Config struct {
	// MinTTL is the least time to live of a lease in seconds.
	MinTTL int64
	// MaxLearners is how many members may be learners at a time.
	MaxLearners int
	// Progress, if set, is called now and then while opening with the number of revisions read, and not always from
	// the same goroutine.
	Progress func(revisions int64)
	// Parallel says how the key space is read while opening; it changes nothing but the time.
	Parallel mvcc.Parallel
	// Quota is how many live bytes this member takes before it asks for an alarm, 0 or less for any number.
	// It alone may differ from member to member: it decides what is answered and never what is applied.
	Quota int64
}

// State is the state machine. Apply, RemoveSome and what they use belong to one goroutine, the applier;
// View and Leases may be called from any.
type State struct {
	eng     engine.Engine
	cfg     Config
	store   *mvcc.Store
	leases  *lease.Table
	members *membership.Table
	alarms  *alarm.Table
	users   *auth.Table

	// epoch counts the states of other members that have taken the place of this one.
	epoch atomic.Uint64

	applied   Applied
	conf      []byte // applied.Conf, encoded
	quota     int64
	others    tableSizes
	hashes    []mvcc.Hash // of the last compactions, oldest first; replaced, never changed
	batch     engine.Batch
	published atomic.Pointer[View]
	shared    atomic.Pointer[lease.Table] // leases, for others than the applier
	// retired are views that were replaced while somebody read them.
	retired []*View
}

// View is all of the state at the end of one turn. It never changes.
type View struct {
	KV      *mvcc.View
	Members *membership.View
	Alarms  *alarm.View
	Auth    *auth.View
	Applied Applied
	// Bytes are what the space quota counts.
	Bytes int64
	// Hashes are the checksums of the last compactions that this process has carried out, by revision.
	Hashes []mvcc.Hash

	pins atomic.Int64
	// epoch is that of the state when this was published, newest the state's.
	epoch  uint64
	newest *atomic.Uint64
}

// Replaced says that another member's state has taken the place of the one that this is of, or is about to: what is read
// from the engine may be of that.
func (v *View) Replaced() bool { return v.newest.Load() != v.epoch }

// Release ends the use of a view that State.View returned.
func (v *View) Release() { v.pins.Add(-1) }

// Open builds the state from what the engine holds: nothing, or what a member left there.
func Open(eng engine.Engine, cfg Config) (_ *State, err error) {
	s := &State{eng: eng, cfg: cfg, quota: cfg.Quota}
	if err := s.load(cfg); err != nil {
		return nil, fmt.Errorf("state: open: %w", err)
	}
	s.shared.Store(s.leases)
	s.publish()
	return s, nil
}

// Replace says that the engine is going to hold the state of another member, before it does. It belongs to the applier, and
// Reload must follow.
func (s *State) Replace() { s.epoch.Add(1) }

// Reload begins anew from what the engine holds now: the state of another member, which a snapshot has brought and
// which is newer than what was there. It belongs to the applier. LoadedLeases tells of its leases as after Open, and the
// changes of users come with the next turn. Checksums of compactions were of the history before and are forgotten. An
// error is a failure.
func (s *State) Reload() (*View, error) {
	next := &State{eng: s.eng}
	if err := next.load(s.cfg); err != nil {
		return nil, fmt.Errorf("state: reload: %w", err)
	}
	if next.applied.Index < s.applied.Index {
		return nil, fmt.Errorf("state: reload: the engine's index %d is older than the %d that was applied", next.applied.Index, s.applied.Index)
	}
	s.store, s.leases, s.members, s.alarms, s.users = next.store, next.leases, next.members, next.alarms, next.users
	s.applied, s.conf, s.others, s.hashes = next.applied, next.conf, next.others, nil
	s.shared.Store(s.leases)
	return s.publish(), nil
}

func (s *State) load(cfg Config) (err error) {
	sn, err := s.eng.Snapshot()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sn.Close()) }()
	if s.applied, err = readApplied(sn.Get(appliedKey)); err != nil {
		return err
	}
	if s.conf, err = proto.Marshal(s.applied.Conf); err != nil {
		return err
	}
	if s.members, err = membership.Load(sn, cfg.MaxLearners); err != nil {
		return err
	}
	if s.alarms, err = alarm.Load(sn); err != nil {
		return err
	}
	if s.users, err = auth.Load(sn); err != nil {
		return err
	}
	if s.leases, err = lease.Load(sn, cfg.MinTTL); err != nil {
		return err
	}
	if s.others, err = loadTableSizes(sn); err != nil {
		return err
	}
	var failed error
	s.store, err = mvcc.LoadParallel(s.eng, cfg.Parallel, cfg.Progress, func(a mvcc.Attachment) {
		// A key may name a lease that is not there in data taken over from elsewhere: it stays without.
		if err := s.leases.Attach(a.Lease, string(a.Key)); err != nil && !errors.Is(err, lease.ErrNotFound) {
			failed = errors.Join(failed, err)
		}
	})
	return errors.Join(err, failed)
}

// Applied returns the position of the last applied entry. It belongs to the applier.
func (s *State) Applied() Applied { return s.applied }

// Leases returns the lease table, whose reading methods may be called from any goroutine.
func (s *State) Leases() *lease.Table { return s.shared.Load() }

// LoadedLeases returns, once after Open, all leases as changes from nothing, for an Expiry to begin with.
func (s *State) LoadedLeases() []lease.Change { return s.leases.Changes() }

// View returns the newest view. The caller must Release it soon: while it is held, compaction removes
// nothing that it can read.
func (s *State) View() *View {
	for {
		v := s.published.Load()
		v.pins.Add(1)
		if s.published.Load() == v {
			return v
		}
		// Replaced in between: the applier may not have seen the pin.
		v.pins.Add(-1)
	}
}

// publish makes the state visible to readers. The batch must have been committed.
func (s *State) publish() *View {
	v := &View{
		epoch: s.epoch.Load(), newest: &s.epoch,
		KV: s.store.Publish(), Members: s.members.Snapshot(), Alarms: s.alarms.Snapshot(), Auth: s.users.Snapshot(),
		Applied: s.applied, Bytes: s.bytes(), Hashes: s.hashes,
	}
	old := s.published.Swap(v)
	kept := s.retired[:0]
	for _, r := range s.retired {
		if r.pins.Load() != 0 {
			kept = append(kept, r)
		}
	}
	clear(s.retired[len(kept):])
	s.retired = kept
	if old != nil && old.pins.Load() != 0 {
		s.retired = append(s.retired, old)
	}
	return v
}

// Expire lets go of what only cheap reads at revisions of more than a minute ago need. It belongs to the applier and
// is to be called every few seconds; mvcc.Store.Expire says what happens without.
func (s *State) Expire(now time.Time) {
	if s.store.Expire(now) {
		s.publish()
	}
}

// readableFrom returns the oldest revision that any view in use may still be asked for: a view does not
// learn of compactions that come after it.
func (s *State) readableFrom() int64 {
	oldest := s.published.Load().KV.Compacted()
	for _, v := range s.retired {
		if v.pins.Load() != 0 {
			oldest = min(oldest, v.KV.Compacted())
		}
	}
	return oldest
}

// commit ends a turn: everything it changed, and the position it led to, in one engine batch.
func (s *State) commit() (*View, error) {
	s.batch.Put(appliedKey, s.applied.encode(s.conf))
	s.others.note(s.batch.Ops())
	err := s.eng.Commit(&s.batch)
	s.batch.Reset()
	if err != nil {
		return nil, fmt.Errorf("state: commit at index %d: %w", s.applied.Index, err)
	}
	return s.publish(), nil
}

// Events reads the history of the newest view for watchers. It returns watch.ErrCompacted when some of
// what was asked for is gone.
func (s *State) Events(from, to int64, key, end []byte, fn func(watch.Event) bool) error {
	v := s.View()
	defer v.Release()
	err := v.KV.Events(from, to, key, end, fn)
	if errors.Is(err, mvcc.ErrCompacted) {
		return watch.ErrCompacted
	}
	return err
}

// Users returns the users and roles of the newest view.
func (s *State) Users() *auth.View { return s.published.Load().Auth }

// Bytes returns what the space quota counts, as of the newest view.
func (s *State) Bytes() int64 { return s.published.Load().Bytes }

// Alarms returns the alarms of the newest view.
func (s *State) Alarms() *alarm.View { return s.published.Load().Alarms }

// Revisions returns the current and the compacted revision of the newest view.
func (s *State) Revisions() (current, compacted int64) {
	kv := s.published.Load().KV
	return kv.Current(), kv.Compacted()
}
