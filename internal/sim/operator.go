package sim

import (
	"time"

	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/state"
)

// startOperator replaces members, one after the other: a new one comes as a learner, is promoted when it has caught
// up, and an old one goes. A member that goes may come back with a new name only.
func (w *world) startOperator() {
	w.after(w.between(5*time.Second, 15*time.Second), w.replaceOne)
}

// ask lets a membership change be proposed by any member until it is done: an answer that says that it is already so
// counts too.
func (w *world) ask(c membership.Change, is func(*membership.View) bool, then func()) {
	m := w.someMember()
	if m.up {
		m.in(w.net.delay(), func() {
			m.change(c, func(r state.Result, err error) {
				w.note("membership change %d of %x: %v, %v", c.Kind, c.ID, r.Err, err)
			})
		})
	}
	w.after(w.between(time.Second, 3*time.Second), func() {
		for _, m := range w.members {
			if m.up && m.sees(is) {
				w.result.Changes++
				then()
				return
			}
		}
		w.ask(c, is, then)
	})
}

// sees says whether something is so at this member.
func (m *member) sees(is func(*membership.View) bool) bool {
	v := m.state.View()
	defer v.Release()
	return is(v.Members)
}

// replaceOne adds a learner.
func (w *world) replaceOne() {
	if w.settled {
		return
	}
	w.operating = true
	who := w.newIdentity(true)
	add := membership.Change{Kind: membership.AddLearnerNode, ID: who.ID, Member: who}
	w.ask(add, func(v *membership.View) bool {
		_, found := v.Member(who.ID)
		return found
	}, func() {
		w.note("%s joins", who.Name)
		if err := w.addMember(who, nil); err != nil {
			w.violated("start", "%s cannot join: %v", who.Name, err)
			return
		}
		if w.chance(40) { // in its first writes
			w.after(w.between(0, 200*time.Millisecond), func() { w.crashOne(w.byID(who.ID), w.between(0, time.Second)) })
		}
		w.promote(who)
	})
}

// promote makes a voter of a learner that has caught up.
func (w *world) promote(who membership.Member) {
	m := w.byID(who.ID)
	if !m.up || m.state.Applied().Index+50 < w.log.newest {
		w.after(500*time.Millisecond, func() { w.promote(who) })
		return
	}
	voter := who
	voter.IsLearner = false
	w.ask(membership.Change{Kind: membership.AddNode, ID: who.ID, Member: voter, Promote: true}, func(v *membership.View) bool {
		m, found := v.Member(who.ID)
		return found && !m.IsLearner
	}, func() { w.remove(who.ID) })
}

// remove removes any other member, which goes some time after.
func (w *world) remove(except uint64) {
	var others []*member
	for _, m := range w.members {
		if !m.gone && m.id != except {
			others = append(others, m)
		}
	}
	m := pick(w, others)
	w.ask(membership.Change{Kind: membership.RemoveNode, ID: m.id}, func(v *membership.View) bool { return v.Removed(m.id) }, func() {
		w.after(w.between(0, 2*time.Second), func() {
			if m.up {
				m.stop()
			}
			m.gone = true
			w.freed = append(w.freed, m.who)
			w.note("%s goes", m.name)
			w.operating = false
			w.after(w.between(5*time.Second, 20*time.Second), w.replaceOne)
		})
	})
}
