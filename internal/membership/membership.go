// Package membership keeps who belongs to the cluster: its members, the IDs that may never come back, the
// cluster's version and a downgrade in progress.
//
// It is passive and replicated: a Table belongs to the applier and changes only by applied entries, in the
// same order on every member. What it holds is one immutable View, replaced as a whole by each change, so
// that readers on other goroutines take it and keep it. Membership is a few records that change a few
// times a year, which is why a copy per change costs nothing.
package membership

import (
	"errors"
	"slices"
)

var (
	// ErrRemoved says that the ID belonged to a member that was removed; it can never be used again.
	ErrRemoved = errors.New("membership: member was removed")
	// ErrExists says that a member with the ID is there already.
	ErrExists = errors.New("membership: member exists")
	// ErrNotFound says that no member has the ID.
	ErrNotFound = errors.New("membership: no such member")
	// ErrPeerURLExists says that another member has one of the peer URLs.
	ErrPeerURLExists = errors.New("membership: peer URL belongs to another member")
	// ErrNotLearner says that a member to be promoted votes already.
	ErrNotLearner = errors.New("membership: member is not a learner")
	// ErrTooManyLearners says that the cluster has as many learners as it may.
	ErrTooManyLearners = errors.New("membership: too many learners")
	// ErrCorrupt says that a stored record or a committed entry cannot be read. It is a failure: the
	// member must stop.
	ErrCorrupt = errors.New("membership: corrupt record")
)

// Downgrade is a downgrade of the cluster to the previous minor version.
type Downgrade struct {
	// TargetVersion is "3.6.0", or empty when not Enabled.
	TargetVersion string `json:"target-version"`
	Enabled       bool   `json:"enabled"`
}

// View is the membership at one applied index. It never changes and may be read from any goroutine.
type View struct {
	members   []Member // by ascending ID
	removed   []uint64 // ascending
	version   string
	downgrade Downgrade
}

// Members returns the members by ascending ID. The slice and what it refers to must not be modified.
func (v *View) Members() []Member { return v.members }

// Member returns the member with the ID and whether there is one. Its slices must not be modified.
func (v *View) Member(id uint64) (Member, bool) {
	i, found := slices.BinarySearchFunc(v.members, id, byID)
	if !found {
		return Member{}, false
	}
	return v.members[i], true
}

// Removed reports whether the ID belonged to a member that was removed.
func (v *View) Removed(id uint64) bool {
	_, found := slices.BinarySearch(v.removed, id)
	return found
}

// RemovedIDs returns the IDs that may never come back, ascending. The slice must not be modified.
func (v *View) RemovedIDs() []uint64 { return v.removed }

// Version returns the cluster's version as "3.7.0", or "" as long as the cluster has not decided it.
func (v *View) Version() string { return v.version }

// Downgrade returns the downgrade in progress.
func (v *View) Downgrade() Downgrade { return v.downgrade }
