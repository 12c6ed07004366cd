package membership

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/coreos/go-semver/semver"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// Keys in engine.TableCluster, and what marks a removed member; etcd's names.
const (
	versionKey   = "clusterVersion"
	downgradeKey = "downgrade"
	removedMark  = "removed"
)

// Table is the membership that the applier changes. It is not safe for use by several goroutines; the
// views it hands out are.
//
// A method that takes a batch puts what it changed into the batch. If it returns an error, neither the
// table nor the batch has changed.
type Table struct {
	maxLearners int
	view        *View
}

// Load reads the table from an engine. MaxLearners is the most learners that an added member may bring
// the cluster to.
//
// Errors: ErrCorrupt, or what the engine reports; both are failures.
func Load(s engine.Snapshot, maxLearners int) (*Table, error) {
	v := &View{}
	if err := scan(s, engine.TableMember, func(id uint64, value []byte) error {
		var m Member
		if err := json.Unmarshal(value, &m); err != nil {
			return fmt.Errorf("%w: member %x: %w", ErrCorrupt, id, err)
		}
		if m.ID != id {
			return fmt.Errorf("%w: the record of member %x holds member %x", ErrCorrupt, id, m.ID)
		}
		v.members = append(v.members, m)
		return nil
	}); err != nil {
		return nil, err
	}
	if err := scan(s, engine.TableMemberRemoved, func(id uint64, _ []byte) error {
		v.removed = append(v.removed, id)
		return nil
	}); err != nil {
		return nil, err
	}
	// Keys are hexadecimal without leading zeros, so their order is not that of the IDs.
	slices.SortFunc(v.members, func(a, b Member) int { return byID(a, b.ID) })
	slices.Sort(v.removed)
	if err := v.loadCluster(s); err != nil {
		return nil, err
	}
	return &Table{maxLearners: maxLearners, view: v}, nil
}

func (v *View) loadCluster(s engine.Snapshot) error {
	version, err := get(s, versionKey)
	if err != nil {
		return err
	}
	if version != nil {
		if v.version, err = parseVersion(string(version)); err != nil {
			return err
		}
	}
	downgrade, err := get(s, downgradeKey)
	if err != nil || downgrade == nil {
		return err
	}
	if err := json.Unmarshal(downgrade, &v.downgrade); err != nil {
		return fmt.Errorf("%w: downgrade: %w", ErrCorrupt, err)
	}
	return v.downgrade.check()
}

// get returns nil for a key that is not there.
func get(s engine.Snapshot, key string) ([]byte, error) {
	value, err := s.Get(clusterKey(key))
	if errors.Is(err, engine.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("membership: load %s: %w", key, err)
	}
	return value, nil
}

// scan calls fn for each record of a table of member IDs. The value is valid only within the call.
func scan(s engine.Snapshot, table byte, fn func(id uint64, value []byte) error) error {
	var bad error
	lo, hi := engine.TableRange(table)
	err := s.Scan(lo, hi, false, func(k, v []byte) bool {
		var id uint64
		if id, bad = strconv.ParseUint(string(k[1:]), 16, 64); bad != nil {
			bad = fmt.Errorf("%w: key %q is not a member's ID: %w", ErrCorrupt, k[1:], bad)
			return false
		}
		bad = fn(id, v)
		return bad == nil
	})
	if err != nil {
		return fmt.Errorf("membership: load: %w", err)
	}
	return bad
}

// Snapshot returns the table as it is now.
func (t *Table) Snapshot() *View { return t.view }

// Check reports whether Apply would accept the change. Its errors are rejections, the same on every
// member: ErrRemoved, ErrExists, ErrNotFound, ErrPeerURLExists, ErrNotLearner, ErrTooManyLearners,
// ErrLastVoter.
func (t *Table) Check(c Change) error {
	if t.view.Removed(c.ID) {
		return ErrRemoved
	}
	m, found := t.view.Member(c.ID)
	switch {
	case c.Promote && !found, c.Kind == RemoveNode && !found:
		return ErrNotFound
	case c.Kind == RemoveNode:
		if !m.IsLearner && t.view.lastVoter(c.ID) {
			return ErrLastVoter // raft cannot do it either
		}
		return nil
	case c.Kind == UpdateNode:
		if !found {
			return ErrNotFound
		}
		return t.checkURLs(c.Member)
	case c.Promote:
		if !m.IsLearner {
			return ErrNotLearner
		}
		return nil
	case found:
		return ErrExists
	}
	if err := t.checkURLs(c.Member); err != nil {
		return err
	}
	if c.Kind == AddLearnerNode && c.Member.IsLearner && t.view.learners() >= t.maxLearners {
		return ErrTooManyLearners
	}
	return nil
}

// checkURLs fails if a member other than m has one of m's peer URLs.
func (t *Table) checkURLs(m Member) error {
	for _, other := range t.view.members {
		if other.ID == m.ID {
			continue
		}
		for _, u := range m.PeerURLs {
			if slices.Contains(other.PeerURLs, u) {
				return ErrPeerURLExists
			}
		}
	}
	return nil
}

func (v *View) learners() int {
	n := 0
	for _, m := range v.members {
		if m.IsLearner {
			n++
		}
	}
	return n
}

// Apply makes a committed change, or returns Check's error.
func (t *Table) Apply(b *engine.Batch, c Change) error {
	if err := t.Check(c); err != nil {
		return err
	}
	switch {
	case c.Kind == RemoveNode:
		t.remove(b, c.ID)
		return nil
	case c.Promote:
		return t.update(b, c.ID, func(m *Member) { m.IsLearner = false })
	case c.Kind == UpdateNode:
		// An update changes where a member is reached and nothing else, whatever its context says.
		return t.update(b, c.ID, func(m *Member) { m.PeerURLs = slices.Clone(c.Member.PeerURLs) })
	}
	return t.put(b, c.Member)
}

// SetAttributes notes what a member published about itself when it started. For a member that was removed
// meanwhile it does nothing. Error: ErrNotFound for an ID that never was a member, which is a failure.
func (t *Table) SetAttributes(b *engine.Batch, id uint64, name string, clientURLs []string) error {
	if t.view.Removed(id) {
		return nil
	}
	if _, found := t.view.Member(id); !found {
		return fmt.Errorf("%w: attributes of %x", ErrNotFound, id)
	}
	return t.update(b, id, func(m *Member) {
		m.Name, m.ClientURLs = name, slices.Clone(clientURLs)
	})
}

// SetVersion sets the cluster's version, "3.7.0". Its error is ErrCorrupt for text that is no version.
func (t *Table) SetVersion(b *engine.Batch, version string) error {
	version, err := parseVersion(version)
	if err != nil {
		return err
	}
	b.Put(clusterKey(versionKey), []byte(version))
	next := *t.view
	next.version = version
	t.view = &next
	return nil
}

// SetDowngrade begins a downgrade, or ends it with the zero value. Its error is ErrCorrupt for a target
// that is no version.
func (t *Table) SetDowngrade(b *engine.Batch, d Downgrade) error {
	if err := d.check(); err != nil {
		return err
	}
	value, err := encode(d)
	if err != nil {
		return err
	}
	b.Put(clusterKey(downgradeKey), value)
	next := *t.view
	next.downgrade = d
	t.view = &next
	return nil
}

func (d Downgrade) check() error {
	if !d.Enabled {
		return nil
	}
	_, err := parseVersion(d.TargetVersion)
	return err
}

func parseVersion(text string) (string, error) {
	v, err := semver.NewVersion(text)
	if err != nil {
		return "", fmt.Errorf("%w: cluster version %q: %w", ErrCorrupt, text, err)
	}
	return v.String(), nil
}

// update changes one member, which is there, and stores it.
func (t *Table) update(b *engine.Batch, id uint64, change func(*Member)) error {
	m, _ := t.view.Member(id)
	change(&m)
	return t.put(b, m)
}

// put adds or replaces a member.
func (t *Table) put(b *engine.Batch, m Member) error {
	value, err := encode(m)
	if err != nil {
		return err
	}
	b.Put(memberKey(engine.TableMember, m.ID), value)
	next := *t.view
	next.members = slices.Clone(next.members)
	i, found := slices.BinarySearchFunc(next.members, m.ID, byID)
	if found {
		next.members[i] = m
	} else {
		next.members = slices.Insert(next.members, i, m)
	}
	t.view = &next
	return nil
}

func (t *Table) remove(b *engine.Batch, id uint64) {
	b.Delete(memberKey(engine.TableMember, id))
	b.Put(memberKey(engine.TableMemberRemoved, id), []byte(removedMark))
	next := *t.view
	next.members = slices.DeleteFunc(slices.Clone(next.members), func(m Member) bool { return m.ID == id })
	i, _ := slices.BinarySearch(next.removed, id)
	next.removed = slices.Insert(slices.Clone(next.removed), i, id)
	t.view = &next
}

func memberKey(table byte, id uint64) []byte {
	return strconv.AppendUint([]byte{table}, id, 16)
}

func clusterKey(name string) []byte { return engine.TableKey(engine.TableCluster, []byte(name)) }
