package sim

import (
	"fmt"
	prng "math/rand/v2"
	"time"

	"go.etcd.io/raft/v3"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/lease"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/state"
	"github.com/dolmen-io/dolmen/internal/watch"
)

// member is a member with its disk, which outlives crashes.
type member struct {
	world *world
	name  string
	id    uint64
	who   membership.Member
	peers []consensus.Peer // of a member of the first cluster
	disk  disk
	lives int // how often it has begun to run
	up    bool
	gone  bool // for ever: it was removed from the cluster
	// paused is until when the whole machine stands still.
	paused time.Duration
	// slowDisk is until when writes take long, hungDisk until when those that begin do not end.
	slowDisk, hungDisk time.Duration
	life
}

// disk is what a member has on its disk.
type disk struct {
	log    logDisk
	engine *diskEngine
	sides  map[uint64]engine.Snapshot // received snapshots by their index, not installed
}

// crash forgets what was not synced, and returns the engine that is left.
func (d *disk) crash(rng *prng.Rand) (*diskEngine, error) {
	d.log.crash(rng)
	if d.engine.forgetful {
		return d.engine.crashForgetful(d.log.end())
	}
	return d.engine.crash(rng)
}

// life is what a member has in memory.
type life struct {
	began  time.Duration
	speed  float64 // of its clock
	node   *consensus.Node
	hand   *consensus.Hand
	eng    *diskEngine
	state  *state.State
	hub    *watch.Hub
	expiry *lease.Expiry

	turning, writing, applying, removing, flushing bool

	appending           bool   // and it is not that of a checkpoint alone, for which nobody waits
	ticks, writingSince uint64 // since the start, and at the begin of the write under way
	handOvers           uint64 // because of the disk

	waits      []wait // for an applied index
	pending    map[uint64]func(state.Result, error)
	streams    map[*watcher]bool
	unflushed  int    // entries applied since the last flush
	checkpoint uint64 // index of the newest one
	primary    bool   // expiry has times
	promoting  bool
}

// wait is somebody who waits until an index is applied.
type wait struct {
	index uint64
	done  func()
}

func stateConfig() state.Config {
	return state.Config{MinTTL: minTTL, MaxLearners: 1}
}

// minTTL is one and a half elections in seconds, as internal/node computes it.
const minTTL = 2

// addMember makes a member that begins to run. peers are those of a new cluster, none for one that joins.
func (w *world) addMember(who membership.Member, peers []consensus.Peer) error {
	eng, err := openEngine(nil)
	if err != nil {
		return err
	}
	m := &member{world: w, name: who.Name, id: who.ID, who: who, peers: peers,
		disk: disk{engine: eng, sides: map[uint64]engine.Snapshot{}}}
	m.disk.log.breaks = w.options.breaks
	m.disk.log.forgetful, eng.forgetful = w.options.breaks.dropSyncs, w.options.breaks.dropSyncs
	w.members = append(w.members, m)
	return m.begin()
}

func (w *world) byID(id uint64) *member {
	for _, m := range w.members {
		if m.id == id {
			return m
		}
	}
	return nil
}

// begin opens what is on the disk and starts a life.
func (m *member) begin() error {
	w := m.world
	m.lives++
	m.life = life{began: w.now, speed: 1 + float64(w.rng.IntN(2*maxSkew+1)-maxSkew)/100,
		pending: map[uint64]func(state.Result, error){}, streams: map[*watcher]bool{}}
	if err := m.finishInstall(); err != nil {
		return err
	}
	if err := m.openState(); err != nil {
		return err
	}
	applied := m.state.Applied()
	content, err := m.disk.log.read(applied.Index)
	if err != nil {
		return err
	}
	m.node, err = consensus.Open(consensus.Config{
		ID: m.id, Log: &m.disk.log, HardState: content.hs, Entries: content.entries, First: content.first,
		Applied: applied.Index, ConfState: applied.Conf, Bootstrap: m.peers,
		TickInterval: tickInterval, ElectionTicks: electionTicks, HeartbeatTicks: 1, PreVote: true, AdvanceTicks: true,
		Transport: carrier{m}, Logger: zap.NewNop(), StallTicks: w.stallTicks(),
	})
	if err != nil {
		return err
	}
	if m.hand, err = m.node.Take(); err != nil {
		return err
	}
	w.note("%s begins at index %d, term %d, log %d+%d", m.name, applied.Index, content.hs.GetTerm(), content.first.Index, len(content.entries))
	m.up = true
	w.began(m, content.hs)
	m.in(w.between(0, tickInterval), m.tick)
	m.in(w.between(0, leaseInterval), m.keepLeases)
	m.removeSome()
	m.wake()
	return nil
}

// openState opens the state from the engine on the disk, with what lives from it.
func (m *member) openState() (err error) {
	m.eng = m.disk.engine
	if m.state, err = state.Open(m.eng, stateConfig()); err != nil {
		return err
	}
	m.expiry = lease.NewExpiry(lease.Options{CheckpointEvery: checkpointEvery, RetryAfter: time.Second}, m.now())
	m.expiry.Apply(m.state.LoadedLeases(), m.now())
	if m.hub == nil {
		m.hub = watch.New(history{m}, watch.Options{})
	}
	return nil
}

// now is what the member's clock shows.
func (m *member) now() time.Time {
	return time.Unix(0, 0).Add(m.began + time.Duration(float64(m.world.now-m.began)*m.speed))
}

// in lets something happen at this member after d, in this life, and not while it stands still.
func (m *member) in(d time.Duration, run func()) {
	life := m.lives
	m.world.after(d, func() {
		switch {
		case !m.up || m.lives != life:
		case m.world.now < m.paused:
			m.in(m.paused-m.world.now, run)
		default:
			run()
			m.wake()
		}
	})
}

// stallTicks is from when on members take a disk for stalled: as in internal/node, unless they are broken.
func (w *world) stallTicks() int {
	if w.options.breaks.trustDisk {
		return 1 << 30
	}
	return 0
}

// stop ends a life: what was in memory is gone.
func (m *member) stop() {
	m.up = false
	m.pending, m.waits = nil, nil
	for x := range m.streams {
		x.lost() // each only notes it, so their order does not matter
	}
	m.streams = nil
}

// crash ends a life and forgets what was not synced. A write that is under way is torn.
func (m *member) crash() error {
	w := m.world
	w.result.Crashes++
	if m.writing && w.chance(50) && !m.disk.log.forgetful {
		m.disk.log.torn, m.disk.log.tornAt = true, w.rng.IntN(8)
		_ = m.hand.WriteLog()
	}
	eng, err := m.disk.crash(w.rng)
	if err != nil {
		return err
	}
	m.stop()
	w.note("%s crashes", m.name)
	m.disk.engine = eng
	return nil
}

// close ends a life in good order.
func (m *member) close() error {
	m.world.note("%s stops", m.name)
	if err := m.hand.Close(); err != nil {
		return err
	}
	if err := m.eng.Close(); err != nil {
		return err
	}
	m.stop()
	return nil
}

// restart lets a crashed member begin again.
func (m *member) restart() {
	if m.up || m.gone {
		return
	}
	if err := m.begin(); err != nil {
		m.world.violated("start", "%s cannot start after a crash: %v", m.name, err)
	}
}

// tick is the ticker of the member's loop, by its own clock.
func (m *member) tick() {
	m.ticks++
	m.state.Expire(m.now())
	m.did(m.hand.Tick())
	m.in(time.Duration(float64(tickInterval)/m.speed), m.tick)
}

// did notes that a step of the member has failed, which no fault of the world may lead to.
func (m *member) did(err error) bool {
	if err != nil {
		m.world.violated("failure", "%s has failed: %v", m.name, err)
		return false
	}
	m.afterTurn()
	return true
}

// wake arranges the member's next steps: a turn if something waits for the loop, a write if something waits for the
// log, a batch if one is there.
func (m *member) wake() {
	if !m.up {
		return
	}
	w := m.world
	if !m.turning && m.hand.TurnWaits() {
		m.turning = true
		m.in(w.between(0, 100*time.Microsecond), func() {
			m.turning = false
			_, err := m.hand.Turn()
			m.did(err)
		})
	}
	if !m.writing && m.hand.LogWaits() {
		m.writing, m.writingSince, m.appending = true, m.ticks, m.hand.MessagesWait()
		m.in(m.diskDelay(), func() {
			m.writing = false
			m.did(m.hand.WriteLog())
		})
	}
	if !m.applying {
		select {
		case b := <-m.node.Committed():
			m.applying = true
			m.in(m.applyDelay(), func() {
				m.applying = false
				m.apply(b)
			})
		default:
		}
	}
}

// diskDelay is how long a write with its sync takes.
func (m *member) diskDelay() time.Duration {
	w := m.world
	switch {
	case w.now < m.hungDisk:
		return m.hungDisk - w.now
	case w.now < m.slowDisk && w.chance(10):
		return w.between(200*time.Millisecond, 3*time.Second)
	case w.now < m.slowDisk:
		return w.between(5*time.Millisecond, 100*time.Millisecond)
	}
	return w.between(200*time.Microsecond, 3*time.Millisecond)
}

func (m *member) applyDelay() time.Duration {
	if m.world.chance(1) {
		return m.world.between(10*time.Millisecond, 300*time.Millisecond)
	}
	return m.world.between(20*time.Microsecond, 500*time.Microsecond)
}

// afterTurn looks at what a turn has changed.
func (m *member) afterTurn() {
	st := m.node.Status()
	if n := m.node.Counters().StallHandOvers.Load(); n != m.handOvers {
		m.handOvers = n
		m.world.result.HandOvers++
		m.world.note("%s hands over because its disk hangs", m.name)
	}
	if st.RaftState == raft.StateLeader {
		m.world.leads(m, st.Term)
	} else if m.primary {
		m.primary = false
		m.expiry.Demote()
	}
}

func (m *member) describe() string {
	if !m.up {
		return m.name + " is down;"
	}
	st := m.node.Status()
	return fmt.Sprintf("%s %v of term %d follows %x, commit %d, applied %d, voters %d, %d wait;", m.name, st.RaftState, st.Term, st.Lead,
		st.Commit, m.state.Applied().Index, len(st.Voters), len(m.waits))
}
