// Package corruption compares what members hold and says whose data is suspect. It asks through a small
// interface, decides as etcd decides, and raises nothing on one finding alone: a CORRUPT alarm stops all
// writes of a cluster.
package corruption

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/mvcc"
)

var (
	// ErrInconsistent says that other members hold something else at the same revision.
	ErrInconsistent = errors.New("found data inconsistency with peers")
	// ErrOtherCluster says that whoever was asked belongs to another cluster.
	ErrOtherCluster = errors.New("cluster ID mismatch")
)

// Answer is a checksum with what the member that took it knew at that time.
type Answer struct {
	mvcc.Hash
	// Current is the member's revision.
	Current int64
	// Finished says that the compaction which the checksum takes into account is carried out. Only this
	// member's own answers say so.
	Finished bool
}

// Peer is another member with its answer, or why there is none.
type Peer struct {
	ID   uint64
	URLs []string
	Answer
	Err error
}

// Cluster is this member and the others as the checks see them. Its methods may block; they are called
// from one goroutine at a time.
type Cluster interface {
	// Self is this member's ID, Others the number of other members.
	Self() uint64
	Others() int
	// Hash takes this member's checksum up to a revision, 0 for the current one.
	Hash(revision int64) (Answer, error)
	// Hashes are the checksums of this member's last compactions, oldest first. All of them are finished.
	Hashes() []mvcc.Hash
	// Ask asks all other members for their checksum up to a revision. Each has an entry in the result.
	Ask(ctx context.Context, revision int64) []Peer
	// Settle returns when this member has applied all that was committed before the call.
	Settle(ctx context.Context) error
	// Suspect raises the alarm for a member, 0 for nobody in particular. One that is raised stays as it is.
	Suspect(ctx context.Context, member uint64) error
}

// Checker does the checks. It belongs to one goroutine.
type Checker struct {
	lg      *zap.Logger
	cluster Cluster
	// checked is the last compaction at which all members were found equal, and found what was found amiss at
	// later ones, by revision. There are as many as Hashes returns.
	checked int64
	found   map[int64]finding
}

// New returns a checker. Its log lines are etcd's.
func New(lg *zap.Logger, c Cluster) *Checker {
	return &Checker{lg: lg, cluster: c, found: map[int64]finding{}}
}

// hexID is how log lines and errors name a member.
func hexID(id uint64) string { return strconv.FormatUint(id, 16) }

// Initial compares this member's data with that of the others before it serves anybody. Others that do
// not answer, or that are elsewhere, are no reason against it. Errors: ErrInconsistent, or that of Hash.
func (c *Checker) Initial(ctx context.Context) error {
	if c.cluster.Others() == 0 {
		return nil
	}
	self := zap.String("local-member-id", hexID(c.cluster.Self()))
	c.lg.Info("starting initial corruption check", self)
	own, err := c.cluster.Hash(0)
	if err != nil {
		return fmt.Errorf("%s failed to fetch hash (%w)", hexID(c.cluster.Self()), err)
	}
	different := false
	for _, p := range c.cluster.Ask(ctx, own.Revision) {
		fields := append(compared(c.cluster.Self(), own), zap.String("remote-peer-id", hexID(p.ID)), zap.Strings("remote-peer-endpoints", p.URLs))
		if p.Err != nil {
			c.lg.Warn(unanswered(p.Err), append(fields, zap.Error(p.Err))...)
			continue
		}
		if p.Sum == own.Sum {
			continue
		}
		fields = append(fields, zap.Int64("remote-peer-revision", p.Current),
			zap.Int64("remote-peer-compact-revision", p.Compacted), zap.Uint32("remote-peer-hash", p.Sum))
		if p.Compacted != own.Compacted {
			c.lg.Warn("found different compact revision values from remote peer", fields...)
			continue
		}
		c.lg.Warn("found different hash values from remote peer", fields...)
		different = true
	}
	if different {
		return fmt.Errorf("%s %w", hexID(c.cluster.Self()), ErrInconsistent)
	}
	c.lg.Info("initial corruption checking passed; no corruption", self)
	return nil
}

func compared(self uint64, own Answer) []zap.Field {
	return []zap.Field{
		zap.String("local-member-id", hexID(self)), zap.Int64("local-member-revision", own.Revision),
		zap.Int64("local-member-compact-revision", own.Compacted), zap.Uint32("local-member-hash", own.Sum),
	}
}

func unanswered(err error) string {
	switch {
	case errors.Is(err, mvcc.ErrFuture):
		return "cannot fetch hash from slow remote peer"
	case errors.Is(err, mvcc.ErrCompacted):
		return "cannot fetch hash from remote peer; local member is behind"
	case errors.Is(err, ErrOtherCluster):
		return "cluster ID mismatch"
	}
	return "cannot fetch hash from remote peer"
}

// suspicion is one thing that Periodic has found amiss.
type suspicion struct {
	what      string
	member    uint64
	compacted int64
}

// Periodic compares this member, which leads, with the others at the current revision. What it finds it
// looks at a second time, and raises the alarm if it finds the same again at the same compaction.
func (c *Checker) Periodic(ctx context.Context) error {
	first, err := c.look(ctx)
	if err != nil || len(first) == 0 {
		return err
	}
	second, err := c.look(ctx)
	if err != nil {
		return err
	}
	for _, s := range first {
		if slices.Contains(second, s) {
			c.lg.Error(s.what+"; raising the CORRUPT alarm", zap.String("suspect-member-id", hexID(s.member)),
				zap.Int64("compact-revision", s.compacted))
			return c.cluster.Suspect(ctx, s.member) // as in etcd, one for each check
		}
	}
	return nil
}

// look compares once.
func (c *Checker) look(ctx context.Context) (found []suspicion, err error) {
	before, err := c.cluster.Hash(0)
	if err != nil {
		return nil, err
	}
	peers := c.cluster.Ask(ctx, before.Revision)
	if err := c.cluster.Settle(ctx); err != nil {
		return nil, err
	}
	after, err := c.cluster.Hash(0)
	if err != nil {
		return nil, err
	}
	if !before.Finished || !after.Finished {
		c.lg.Info("skipped peer corruption check; a compaction is under way")
		return nil, nil
	}
	suspect := func(what string, member uint64, fields ...zap.Field) {
		c.lg.Warn(what, append(compared(c.cluster.Self(), before), fields...)...)
		found = append(found, suspicion{what, member, before.Compacted})
	}
	if after.Revision == before.Revision && after.Compacted == before.Compacted && after.Sum != before.Sum {
		suspect("found hash mismatch", c.cluster.Self(), zap.Uint32("hash-2", after.Sum))
	}
	checked := 0
	for _, p := range peers {
		if p.Err != nil {
			continue
		}
		checked++
		fields := []zap.Field{
			zap.String("follower-peer-id", hexID(p.ID)), zap.Int64("follower-revision", p.Current),
			zap.Int64("follower-compact-revision", p.Compacted), zap.Uint32("follower-hash", p.Sum),
		}
		// This member leads and has settled since: nobody can have applied more.
		if p.Current > after.Current {
			suspect("revision from follower must be less than or equal to leader's", p.ID, fields...)
		}
		if p.Compacted > after.Compacted {
			suspect("compact revision from follower must be less than or equal to leader's", p.ID, fields...)
		}
		if p.Compacted == before.Compacted && p.Sum != before.Sum {
			suspect("same compact revision then hashes must match", p.ID, fields...)
		}
	}
	c.lg.Info("finished peer corruption check", zap.Int("number-of-peers-checked", checked))
	return found, nil
}

// members orders IDs, so that two findings can be compared.
func members(ids []uint64) []uint64 {
	slices.SortFunc(ids, cmp.Compare[uint64])
	return ids
}
