package membership

import "errors"

var (
	// ErrNotEnoughStarted says that a change would leave fewer started members than the quorum after it.
	ErrNotEnoughStarted = errors.New("membership: not enough started members")
	// ErrUnhealthy says that too few voters are connected to this member to risk a change.
	ErrUnhealthy = errors.New("membership: too few voters are connected")
	// ErrLastVoter says that a removal would leave a cluster without a voter.
	ErrLastVoter = errors.New("membership: the only voter cannot be removed")
)

// Connected says how the member that is asked stands to another one. It is asked about others only.
type Connected struct {
	// Now says that there is a connection, however young.
	Now bool
	// Steadily says that it has held long enough to count on.
	Steadily bool
}

// voters counts the voters other than except, and how many of them have started.
func (v *View) voters(except uint64) (all, started int) {
	for _, m := range v.members {
		if m.IsLearner || m.ID == except {
			continue
		}
		all++
		if m.Started() {
			started++
		}
	}
	return all, started
}

// connected counts the voters to which self is steadily connected, and itself if it votes.
func (v *View) connected(self uint64, ask func(id uint64) Connected) (n int) {
	for _, m := range v.members {
		if !m.IsLearner && (m.ID == self || ask(m.ID).Steadily) {
			n++
		}
	}
	return n
}

func quorum(voters int) int { return voters/2 + 1 }

// These checks protect the quorum before a change is proposed. They depend on what one member sees of the
// others, so they are no part of applying it. Their figures are etcd's.

// MayAdd reports whether a member may be added: with the new one counted as down, the quorum must hold.
// The second member may always be added, which is how a restored cluster grows. Errors:
// ErrNotEnoughStarted, for a voter; ErrUnhealthy.
func (v *View) MayAdd(isLearner bool, self uint64, ask func(id uint64) Connected) error {
	all, started := v.voters(0)
	second := all == 1 && started == 1
	if !isLearner && !second && started < quorum(all+1) {
		return ErrNotEnoughStarted
	}
	if all != 1 && v.connected(self, ask) < quorum(all+1) {
		return ErrUnhealthy
	}
	return nil
}

// MayRemove reports whether a member may be removed. A learner always may, and so may an ID that is not
// there, about which applying the change knows more. Errors: ErrNotEnoughStarted, ErrUnhealthy.
func (v *View) MayRemove(id, self uint64, ask func(id uint64) Connected) error {
	if m, found := v.Member(id); found && m.IsLearner {
		return nil
	}
	if all, started := v.voters(id); started < quorum(all) {
		return ErrNotEnoughStarted
	}
	if id != self && !ask(id).Now {
		return nil // it is down, and no part of the quorum that works
	}
	all, _ := v.voters(0)
	if v.connected(self, ask)-1 < 1+(all-1)/2 {
		return ErrUnhealthy
	}
	return nil
}

// MayPromote reports whether a learner, which counts as started, may get a vote. Error:
// ErrNotEnoughStarted.
func (v *View) MayPromote() error {
	all, started := v.voters(0)
	if started+1 < quorum(all+1) {
		return ErrNotEnoughStarted
	}
	return nil
}

// lastVoter reports whether nobody else votes.
func (v *View) lastVoter(id uint64) bool {
	all, _ := v.voters(id)
	return all == 0
}
