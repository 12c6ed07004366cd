package node

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/dolmen-io/dolmen/internal/mvcc"
	"github.com/dolmen-io/dolmen/internal/watch"
)

// change is what one operation does to one key. value is "" for a delete.
type change struct {
	key, value string
	lease      int64
}

func (c change) deletes() bool { return c.value == "" }

// attempt is what a transaction that puts a value of its own may change.
type attempt struct {
	puts []change
	// maybe is a key that is deleted if it is there.
	maybe string
}

// ledger is what clients know of a store: all that was acknowledged to them, and all that they have tried.
// Of the latter, what a crash cut off may or may not have happened.
type ledger struct {
	sync.Mutex
	// base is the content at revision folded, below which nothing is kept; changes by revision follow.
	base    map[string]change
	folded  int64
	changes map[int64][]change
	// compacted is the newest acknowledged compaction.
	compacted int64
	// leases are those acknowledged as granted, false once they are acknowledged as revoked.
	leases map[int64]bool

	attempts map[string]attempt // by value
	deletes  map[string]bool    // keys
	granting map[int64]bool
	revoking map[int64]bool

	// acked counts until limit; then full is closed. sealed ends the recording.
	acked, limit int
	full         chan struct{}
	sealed       bool
	problems     []string
}

func newLedger() *ledger {
	return &ledger{
		base: map[string]change{}, folded: 1, compacted: -1, changes: map[int64][]change{}, leases: map[int64]bool{},
		attempts: map[string]attempt{}, deletes: map[string]bool{}, granting: map[int64]bool{}, revoking: map[int64]bool{},
	}
}

// begin opens the ledger for a round that ends after limit acknowledgements.
func (l *ledger) begin(limit int) (full <-chan struct{}) {
	l.Lock()
	defer l.Unlock()
	l.acked, l.limit, l.sealed, l.full = 0, limit, false, make(chan struct{})
	return l.full
}

// seal ends the recording: what is acknowledged from now on may be lost.
func (l *ledger) seal() {
	l.Lock()
	defer l.Unlock()
	l.sealed = true
}

// try notes what is about to be proposed.
func (l *ledger) try(note func()) {
	l.Lock()
	defer l.Unlock()
	note()
}

// ack notes what was acknowledged.
func (l *ledger) ack(note func()) {
	l.Lock()
	defer l.Unlock()
	if l.sealed {
		return
	}
	note()
	if l.acked++; l.acked == l.limit {
		close(l.full)
	}
}

// happened notes the changes of a revision. It is called within ack.
func (l *ledger) happened(revision int64, changes ...change) {
	if before, ok := l.changes[revision]; ok || revision <= l.folded {
		l.complain("revision %d was acknowledged for %v and for %v", revision, before, changes)
	}
	slices.SortFunc(changes, byKey)
	l.changes[revision] = changes
}

func (l *ledger) complain(format string, args ...any) {
	l.problems = append(l.problems, fmt.Sprintf(format, args...))
}

// known returns the last revision up to which all are known.
func (l *ledger) known() int64 {
	l.Lock()
	defer l.Unlock()
	rev := l.folded
	for l.changes[rev+1] != nil {
		rev++
	}
	return rev
}

// held returns the leases that exist as far as is known.
func (l *ledger) held() (ids []int64) {
	l.Lock()
	defer l.Unlock()
	for id, held := range l.leases {
		if held {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// check compares a member, which nobody writes to, with the ledger, and returns what is wrong. What had
// been tried and turns out to have happened is noted.
func (l *ledger) check(m *Member, rng *rand.Rand) []string {
	l.Lock()
	defer l.Unlock()
	view := m.state.View()
	defer view.Release()
	current, compacted := view.KV.Current(), view.KV.Compacted()
	if compacted < l.compacted {
		l.complain("lost: the compaction to revision %d was acknowledged, the member has compacted to %d", l.compacted, compacted)
	}
	l.checkHistory(m, max(compacted, 1), current)
	l.checkContent(view.KV, max(compacted, 1))
	for range 2 {
		l.checkContent(view.KV, max(compacted, 1)+rng.Int64N(current-max(compacted, 1)+1))
	}
	l.checkContent(view.KV, current)
	l.checkLeases(m, current)
	l.fold(max(compacted, 1))
	clear(l.deletes)
	clear(l.granting)
	clear(l.revoking)
	clear(l.attempts)
	return l.problems
}

// checkHistory compares the revisions after a compaction.
func (l *ledger) checkHistory(m *Member, compacted, current int64) {
	history := map[int64][]change{}
	last := watch.Event{}
	err := m.state.Events(compacted+1, current, []byte{0}, []byte{0}, func(e watch.Event) bool {
		if e.Main < last.Main || e.Main == last.Main && e.Sub <= last.Sub {
			l.complain("revision %d.%d follows %d.%d", e.Main, e.Sub, last.Main, last.Sub)
		}
		last = e
		c := change{key: string(e.Key)}
		if !e.Delete {
			kv, err := mvcc.DecodeKeyValue(e.KV)
			if err != nil || kv.Mod != e.Main {
				l.complain("revision %d holds a key-value that says revision %d: %v", e.Main, kv.Mod, err)
			}
			c.value, c.lease = string(kv.Value), kv.LeaseID
		}
		history[e.Main] = append(history[e.Main], c)
		return true
	})
	if err != nil {
		l.complain("history: %v", err)
		return
	}
	for rev, want := range l.changes {
		if rev > compacted && history[rev] == nil {
			l.complain("lost: revision %d with %v was acknowledged", rev, want)
		}
	}
	for rev := compacted + 1; rev <= current; rev++ {
		got := history[rev]
		slices.SortFunc(got, byKey)
		switch want, acknowledged := l.changes[rev]; {
		case len(got) == 0:
			l.complain("revision %d of %d changes nothing", rev, current)
		case acknowledged && !slices.Equal(got, want):
			l.complain("revision %d was acknowledged with %v and has %v", rev, want, got)
		case !acknowledged && !l.tried(got):
			l.complain("revision %d has %v, which nobody proposed as a whole", rev, got)
		default:
			l.changes[rev] = got
		}
	}
}

func byKey(a, b change) int { return cmp.Compare(a.key, b.key) }

// tried says whether changes are all of one attempt.
func (l *ledger) tried(changes []change) bool {
	var puts []change
	var deleted []string
	for _, c := range changes {
		if c.deletes() {
			deleted = append(deleted, c.key)
		} else {
			puts = append(puts, c)
		}
	}
	if len(puts) == 0 {
		return len(deleted) == 1 && l.deletes[deleted[0]]
	}
	a := l.attempts[puts[0].value]
	want := slices.SortedFunc(slices.Values(a.puts), byKey)
	return slices.Equal(puts, want) && (len(deleted) == 0 || len(deleted) == 1 && deleted[0] == a.maybe)
}

// at returns the content at a revision that is not below the folded one.
func (l *ledger) at(revision int64) map[string]change {
	content := maps.Clone(l.base)
	for rev := l.folded + 1; rev <= revision; rev++ {
		for _, c := range l.changes[rev] {
			if c.deletes() {
				delete(content, c.key)
			} else {
				content[c.key] = c
			}
		}
	}
	return content
}

// checkContent compares all keys at a revision.
func (l *ledger) checkContent(kv *mvcc.View, revision int64) {
	res, err := kv.Range(mvcc.RangeOptions{Key: []byte{0}, End: []byte{0}, Revision: revision})
	if err != nil {
		l.complain("range at revision %d: %v", revision, err)
		return
	}
	got := map[string]change{}
	for _, b := range res.KVs {
		kv, err := mvcc.DecodeKeyValue(b)
		if err != nil {
			l.complain("range at revision %d: %v", revision, err)
			return
		}
		got[string(kv.Key)] = change{string(kv.Key), string(kv.Value), kv.LeaseID}
	}
	if want := l.at(revision); !maps.Equal(got, want) {
		l.complain("at revision %d the keys are %v, the history says %v", revision, got, want)
	}
}

// checkLeases compares the leases and what is attached to them.
func (l *ledger) checkLeases(m *Member, current int64) {
	for id := range l.granting {
		if _, acknowledged := l.leases[id]; !acknowledged && m.state.Leases().Exists(id) {
			l.leases[id] = true
		}
	}
	attached := map[int64][]string{}
	for _, c := range l.at(current) {
		attached[c.lease] = append(attached[c.lease], c.key)
	}
	for id, held := range l.leases {
		switch exists := m.state.Leases().Exists(id); {
		case held && !exists && !l.revoking[id]:
			l.complain("lost: lease %x was granted and not revoked", id)
		case !held && exists:
			l.complain("lost: lease %x was revoked", id)
		case !exists:
			delete(l.leases, id)
		default:
			slices.Sort(attached[id])
			if keys := m.state.Leases().Keys(id); !slices.Equal(keys, attached[id]) {
				l.complain("lease %x has the keys %v, the history says %v", id, keys, attached[id])
			}
		}
	}
}

// fold forgets the revisions below one that everything is known of.
func (l *ledger) fold(revision int64) {
	l.base = l.at(revision)
	l.folded = revision
	maps.DeleteFunc(l.changes, func(rev int64, _ []change) bool { return rev <= revision })
}
