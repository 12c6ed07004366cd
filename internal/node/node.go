package node

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/pkg/v3/idutil"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/discovery"
	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/etcdapi"
	"github.com/dolmen-io/dolmen/internal/lease"
	"github.com/dolmen-io/dolmen/internal/mvcc"
	"github.com/dolmen-io/dolmen/internal/state"
	"github.com/dolmen-io/dolmen/internal/watch"
)

// Member is a running member.
type Member struct {
	cfg *config.Config
	lg  *zap.Logger
	id  identity
	// patience is how long a request may take.
	patience time.Duration

	disk     disk
	log      consensus.Log // until consensus runs, which then closes it
	logged   uint64        // index of the last entry that the log held
	eng      engine.Engine // switched, once it is open
	switched *switched
	state    *state.State
	cons     *consensus.Node
	hub      *watch.Hub
	expiry   *lease.Expiry
	primary  atomic.Bool // expiry keeps times
	runs     atomic.Bool // consensus runs
	pending  *pending
	users    *users
	applier  *applier
	flusher  *flusher
	hasher   *hasher
	quota    *quota
	space    *space
	peers    *peerHashes
	ids      *idutil.Generator
	front    *front
	others   peers
	network  *network // nil in tests without one
	resolver discovery.Resolver

	versions     *versions
	defragmenter *defragmenter

	ready, done, stopping chan struct{}
	stop                  sync.Once
	failure               chan error
	err                   error // once done is closed

	// The parts that run, in the order in which they stop.
	background, core group
}

// group is goroutines that end together.
type group struct {
	sync.WaitGroup
	ctx    context.Context
	cancel context.CancelFunc
}

func newGroup() group {
	ctx, cancel := context.WithCancel(context.Background())
	return group{ctx: ctx, cancel: cancel}
}

func (g *group) end() {
	g.cancel()
	g.Wait()
}

// endWithin is end for a group of which a part may never come back, as one that waits inside an engine
// that has failed. It says whether all have ended.
func (g *group) endWithin(patience time.Duration) bool {
	g.cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		g.Wait()
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-ended:
		return true
	case <-timer.C:
		return false
	}
}

// Open starts a member: it opens what is on disk, binds the listeners and begins to run. It returns
// before the member serves; Ready says when it does. ctx bounds the opening and nothing after it. After
// an error nothing is left running.
func Open(ctx context.Context, cfg *config.Config, lg *zap.Logger) (*Member, error) {
	return openIn(ctx, cfg, lg, surroundings{openDirectory, nil, net.DefaultResolver})
}

// surroundings are what a member is opened in: a disk, other members, of which nil are those on the network, and names.
type surroundings struct {
	disk     opener
	others   peers
	resolver discovery.Resolver
}

// openOn is Open on any disk, without a network.
func openOn(ctx context.Context, cfg *config.Config, lg *zap.Logger, disk opener) (*Member, error) {
	return openAmong(ctx, cfg, lg, disk, alone{})
}

// openAmong is Open on any disk and among any peers.
func openAmong(ctx context.Context, cfg *config.Config, lg *zap.Logger, disk opener, others peers) (*Member, error) {
	return openIn(ctx, cfg, lg, surroundings{disk, others, net.DefaultResolver})
}

func openIn(ctx context.Context, cfg *config.Config, lg *zap.Logger, in surroundings) (*Member, error) {
	m := &Member{
		cfg: cfg, lg: lg, patience: requestBase + 2*cfg.ElectionTimeout,
		pending: newPending(), others: in.others, resolver: in.resolver,
		ready: make(chan struct{}), done: make(chan struct{}), stopping: make(chan struct{}),
		failure: make(chan error, 1), background: newGroup(), core: newGroup(),
	}
	var err error
	if m.users, err = newUsers(cfg, lg); err != nil {
		return nil, err
	}
	front, err := listen(cfg, lg)
	if err != nil {
		return nil, err
	}
	m.front, m.cfg = front, front.bound(cfg)
	if err := m.open(ctx, in.disk); err != nil {
		return nil, errors.Join(err, m.abandon())
	}
	// The others may be at the same point, and wait for what this one says of its data.
	m.front.servePeers(m)
	err = m.checkInitially(ctx)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		m.front.shutdownPeers()
		return nil, errors.Join(err, m.abandon())
	}
	m.run()
	return m, nil
}

// open opens the storage and builds every part.
func (m *Member) open(ctx context.Context, disk opener) (err error) {
	if m.disk, err = disk(ctx, m.cfg, m.lg); err != nil {
		return err
	}
	if err := m.front.loadCertificates(m.cfg); err != nil {
		return err
	}
	eng, err := m.disk.openEngine(m.fail)
	if err != nil {
		return err
	}
	m.switched = newSwitched(eng)
	m.eng = m.switched
	start := time.Now()
	m.state, err = state.Open(m.eng, state.Config{
		MinTTL:      minTTL(m.cfg.ElectionTimeout),
		MaxLearners: m.cfg.MaxLearners,
		Quota:       quotaBytes(m.cfg.QuotaBackendBytes),
		Parallel:    mvcc.Parallel{Parts: runtime.GOMAXPROCS(0), Run: runBeside},
		Progress: func(revisions int64) {
			m.lg.Info("reading the key index", zap.Int64("revisions", revisions), zap.Duration("took", time.Since(start)))
		},
	})
	if err != nil {
		return err
	}
	applied := m.state.Applied()
	asking := newPeerClient(m.front.peerTLS)
	from, err := openLog(ctx, &newcomer{cfg: m.cfg, lg: m.lg, client: asking, resolver: m.resolver}, m.disk, applied)
	asking.CloseIdleConnections()
	if err != nil {
		return err
	}
	m.id, m.log = from.id, from.consensus.Log
	if from.reopened {
		if err := m.checkRestarted(); err != nil {
			return err
		}
	}
	var dropped []uint64
	if m.cfg.ForceNewCluster && from.reopened {
		if from.consensus, dropped, err = m.forceAlone(from.consensus); err != nil {
			return err
		}
		from.founders = nil
	}
	m.logged = lastIndex(from.consensus.Entries)
	if m.others == nil {
		if err := m.openNetwork(from.founders, dropped); err != nil {
			return err
		}
		from.consensus.Transport = m.network.transport
	}
	if err := m.openConsensus(from.consensus); err != nil {
		return err
	}
	m.logStart(applied)
	if err := m.build(); err != nil {
		return err
	}
	return m.front.build(m)
}

// minTTL is the least time to live of a lease in seconds: one and a half elections, so that a change of
// leader does not end it.
func minTTL(election time.Duration) int64 {
	return int64(math.Ceil(1.5 * election.Seconds()))
}

func (m *Member) openConsensus(c consensus.Config) (err error) {
	c.TickInterval = m.cfg.HeartbeatInterval
	c.ElectionTicks = m.cfg.ElectionTicks()
	c.HeartbeatTicks = 1
	c.PreVote = m.cfg.PreVote
	c.AdvanceTicks = m.cfg.InitialElectionTickAdvance
	c.Logger, c.Now = m.lg, time.Now
	m.cons, err = consensus.Open(c)
	return err
}

// build makes the parts that run on top of storage and consensus.
func (m *Member) build() (err error) {
	m.ids = idutil.NewGenerator(uint16(m.id.member), time.Now())
	replaced := newReplacements()
	m.hub = watch.New(history{m.state, replaced}, watch.Options{ProgressInterval: m.cfg.WatchProgressNotifyInterval})
	m.expiry = lease.NewExpiry(lease.Options{RetryAfter: m.patience}, time.Now())
	m.expiry.Apply(m.state.LoadedLeases(), time.Now())
	applied := m.state.Applied()
	m.flusher = &flusher{
		lg: m.lg, eng: m.eng, cons: m.cons, wake: make(chan struct{}, 1),
		policy: flushPolicy{
			entries: m.cfg.SnapshotCount, bytes: flushBytes, keep: m.cfg.SnapshotCatchUpEntries,
			whole: m.cfg.StorageEngine == config.EngineMemory,
		},
	}
	m.quota = &quota{
		lg: m.lg, limit: quotaBytes(m.cfg.QuotaBackendBytes), self: m.id.member, state: m.state,
		propose: m.proposeAlarm, over: make(chan struct{}, 1),
	}
	m.quota.logStart()
	m.peers = newPeerHashes(m.lg, m.id.cluster, m.patience, m.front.peerTLS)
	if m.network != nil {
		m.peers.questions.only(m.id.cluster, m.network.transport.NoteStranger)
	}
	m.space = &space{lg: m.lg, free: m.disk.free}
	m.space.look()
	pace := pace{batch: m.cfg.CompactionBatchLimit, pause: m.cfg.CompactionSleepInterval}.withDefaults()
	m.hasher = newHasher(m.state, pace)
	m.applier = &applier{
		lg: m.lg, state: m.state, cons: m.cons, hub: m.hub, expiry: m.expiry, pending: m.pending, users: m.users,
		logged:  m.logged,
		applied: newMilestones(applied.Index), flusher: m.flusher, quota: m.quota, slow: m.cfg.WarningApplyDuration,
		remover: &remover{
			lg: m.lg, state: m.state, eng: m.eng, hasher: m.hasher, pace: pace,
			metrics: newCompactionMetrics(), removed: newMilestones(removedUpTo(m.state.Removed())),
		},
		members: make(chan struct{}, 1), removed: make(chan struct{}), self: m.id.member, replaced: replaced,
	}
	if m.network != nil {
		m.applier.follow, m.applier.install = m.network.follow, m.network.install
	}
	m.defragmenter = &defragmenter{lg: m.lg, eng: m.eng}
	v := m.state.View()
	defer v.Release()
	m.versions, err = openVersions(v.Members)
	return err
}

// run starts the goroutines. From the bottom up: what writes the log, what applies it, what lives from it.
func (m *Member) run() {
	m.log = nil
	m.runs.Store(true)
	if m.network != nil {
		m.start(&m.background, "certificates of peers", m.network.renewCertificates)
		m.start(&m.background, "removal", m.network.watchRemoval)
		m.start(&m.background, "snapshots for members", m.network.sendSnapshots)
	}
	m.start(&m.core, "consensus", m.cons.Run)
	m.start(&m.core, "applier", func(context.Context) error { return m.applier.run() })
	m.start(&m.background, "watch", m.hub.Run)
	m.start(&m.background, "flush", m.flusher.run)
	m.start(&m.background, "leases", m.keepLeases)
	m.start(&m.background, "publish", m.publish)
	m.start(&m.background, "tokens", m.users.maintain)
	m.start(&m.background, "compaction hash", m.hasher.run)
	m.start(&m.background, "auto compaction", m.autoCompact)
	m.start(&m.background, "corruption checks", m.checkData)
	m.start(&m.background, "quota", m.quota.run)
	m.start(&m.background, "free space", m.space.run)
	m.start(&m.background, "versions", m.keepVersions)
	m.front.serve(m)
	go m.supervise()
}

// start runs one part. An error of any part stops the member, and so does a panic: what the part was
// doing is no longer known, but the program around the member is not to blame.
func (m *Member) start(g *group, name string, run func(context.Context) error) {
	g.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				m.lg.Error("a part of the member has panicked", zap.String("part", name), zap.Any("panic", p), zap.Stack("stack"))
				m.fail(fmt.Errorf("%s: panic: %v", name, p))
			}
		}()
		if err := run(g.ctx); err != nil {
			m.fail(fmt.Errorf("%s: %w", name, err))
		}
	})
}

// fail stops the member because of an error. The first one counts.
func (m *Member) fail(err error) {
	select {
	case m.failure <- err:
	default:
	}
}

// supervise waits for the end and brings it about in order.
func (m *Member) supervise() {
	defer close(m.done)
	select {
	case m.err = <-m.failure:
		m.lg.Error("a part of the member has failed; stopping", zap.Error(m.err))
		m.shutdown(true)
	case <-m.stopping:
		m.shutdown(false)
		select {
		case m.err = <-m.failure:
		default:
		}
	}
}

// Ready is closed when the member serves clients.
func (m *Member) Ready() <-chan struct{} { return m.ready }

// Done is closed when the member has stopped, whatever the reason.
func (m *Member) Done() <-chan struct{} { return m.done }

// Err returns why the member stopped, nil if it was asked to. It must be called after Done.
func (m *Member) Err() error { return m.err }

// Stop stops the member and waits until it has: it refuses new requests, lets those under way finish,
// stops its parts, and makes everything durable. When ctx ends it returns its error; the member goes on
// stopping.
func (m *Member) Stop(ctx context.Context) error {
	m.stop.Do(func() { close(m.stopping) })
	select {
	case <-m.done:
		return m.err
	case <-ctx.Done():
		return fmt.Errorf("stop the member: %w", ctx.Err())
	}
}

// ClientURLs returns the URLs on which clients are served, as bound.
func (m *Member) ClientURLs() []string { return m.front.clientURLs() }

// Registry returns the member's own metrics.
func (m *Member) Registry() prometheus.Gatherer { return m.front.registry }

// Status implements etcdapi.Member.
func (m *Member) Status() etcdapi.Status {
	st := m.cons.Status()
	v := m.state.View()
	defer v.Release()
	sizes := m.sizes()
	down := v.Members.Downgrade()
	return etcdapi.Status{
		Version: serverVersion, StorageVersion: *m.versions.storage.Load(),
		DiskBytes: sizes.total, LiveBytes: sizes.inUse, QuotaBytes: m.quota.limit,
		Leader: st.Lead, RaftIndex: st.Commit, RaftApplied: v.Applied.Index, IsLearner: st.IsLearner,
		DowngradeEnabled: down.Enabled, DowngradeTarget: down.TargetVersion,
	}
}

// dbSizes are what etcd calls the size of its database, in bytes.
type dbSizes struct{ total, inUse int64 }

// sizes returns as in use what the space quota counts, and as total the engine's files, but not less than
// that: what was written last is not in a file yet, and files may be compressed. So the quota can be held
// against either, and no alarm on the total comes too late.
func (m *Member) sizes() dbSizes {
	inUse := m.state.Bytes()
	return dbSizes{total: max(m.eng.Stats().DiskBytes, inUse), inUse: inUse}
}
