package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/interchange"
	"github.com/dolmen-io/dolmen/internal/peer"
	"github.com/dolmen-io/dolmen/internal/state"
)

// sides is a disk that can hold engines beside the one in use.
type sides interface {
	// openSide opens a new engine for the snapshot of an index, and settle makes its name durable.
	openSide(index uint64, fatal func(error)) (engine.Engine, error)
	settleSide(index uint64) error
	// removeSide removes one that is closed.
	removeSide(index uint64) error
	// adoptSide makes it, durably, the engine that the next start opens, and returns how to remove the one before.
	adoptSide(index uint64) (remove func() error, err error)
}

// maxIncoming is how many snapshots may wait to take the engine's place: one that raft has taken, and a newer one.
const maxIncoming = 2

// errSnapshot says that a snapshot is refused. What this member holds stays as it is.
var errSnapshot = errors.New("a snapshot is refused")

// incoming is the snapshots that other members have sent: each an engine beside the one in use, until the log says
// that it takes its place.
type incoming struct {
	lg   *zap.Logger
	disk sides
	// slot is held by who receives a snapshot, and for good by stop.
	slot   chan struct{}
	ctx    context.Context
	cancel context.CancelFunc
	// refused counts snapshots that were not taken in.
	refused atomic.Uint64

	mu struct {
		sync.Mutex
		engines map[uint64]engine.Engine // by index
		// adopted is the index of the newest whose directory is the engine's, or is about to be. What is applied shows it
		// later.
		adopted uint64
	}
}

func newIncoming(lg *zap.Logger, d sides) *incoming {
	in := &incoming{lg: lg, disk: d, slot: make(chan struct{}, 1)}
	in.ctx, in.cancel = context.WithCancel(context.Background())
	in.mu.engines = map[uint64]engine.Engine{}
	return in
}

// stop waits until nobody receives any more, and closes what waits. The next start decides what becomes of it.
func (in *incoming) stop() error {
	in.cancel()
	in.slot <- struct{}{}
	in.mu.Lock()
	defer in.mu.Unlock()
	var errs []error
	for _, eng := range in.mu.engines {
		errs = append(errs, eng.Close())
	}
	clear(in.mu.engines)
	return errors.Join(errs...)
}

// wants says whether a snapshot is neither here nor in use, it or a newer one.
func (in *incoming) wants(index uint64) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return index > in.mu.adopted && in.mu.engines[index] == nil
}

// adopt takes the engine of an index to make it that of the member.
func (in *incoming) adopt(index uint64) engine.Engine {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.mu.adopted = index
	eng := in.mu.engines[index]
	delete(in.mu.engines, index)
	return eng
}

func (in *incoming) count() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.mu.engines)
}

func (in *incoming) keep(index uint64, eng engine.Engine) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.mu.engines[index] = eng
}

// take returns the engine of an index, which is the caller's from then on.
func (in *incoming) take(index uint64) engine.Engine {
	in.mu.Lock()
	defer in.mu.Unlock()
	eng := in.mu.engines[index]
	delete(in.mu.engines, index)
	return eng
}

// sweep throws away what cannot take the engine's place any more.
func (in *incoming) sweep(applied uint64) {
	in.mu.Lock()
	var gone []uint64
	for index := range in.mu.engines {
		if index <= applied {
			gone = append(gone, index)
		}
	}
	in.mu.Unlock()
	for _, index := range gone {
		in.discard(index)
	}
}

func (in *incoming) discard(index uint64) {
	eng := in.take(index)
	if eng == nil {
		return
	}
	if err := errors.Join(eng.Close(), in.disk.removeSide(index)); err != nil {
		in.lg.Warn("could not remove a snapshot that is not needed; the next start will", zap.Uint64("snapshot-index", index), zap.Error(err))
	}
}

// appliedIndex is how far the state has come.
func (m *Member) appliedIndex() uint64 {
	v := m.state.View()
	defer v.Release()
	return v.Applied.Index
}

// ReceiveSnapshot implements peer.Receiver.
func (n *network) ReceiveSnapshot(ctx context.Context, m *raftpb.Message, path string) error {
	in := n.incoming
	meta := m.GetSnapshot().GetMetadata()
	if m.GetTo() != n.m.id.member {
		return fmt.Errorf("%w: it is for member %x", errSnapshot, m.GetTo())
	}
	select {
	case in.slot <- struct{}{}:
	case <-in.ctx.Done():
		return consensus.ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-in.slot }()
	if in.ctx.Err() != nil {
		return consensus.ErrStopped
	}
	applied := n.m.appliedIndex()
	in.sweep(applied)
	index := meta.GetIndex()
	fresh := index > applied && in.wants(index) // and raft has not taken it before
	if fresh {
		if in.count() >= maxIncoming {
			return fmt.Errorf("%w: %d wait to be taken up", errSnapshot, maxIncoming)
		}
		eng, err := n.takeIn(m, path)
		if err != nil {
			in.refused.Add(1)
			n.lg.Warn("a snapshot of another member is refused; what this member holds stays as it is",
				zap.Stringer("remote-peer-id", types.ID(m.GetFrom())), zap.Uint64("snapshot-index", index), zap.Error(err))
			return err
		}
		in.keep(index, eng)
	}
	if err := n.m.cons.Step(ctx, m); err != nil {
		if fresh {
			in.discard(index)
		}
		return err
	}
	return n.judge(in.ctx, index)
}

// judge throws a snapshot away that raft has not taken, as one of a leader that is no more. After two turns of the loop
// raft's commit index tells: with a snapshot it moves there.
func (n *network) judge(ctx context.Context, index uint64) error {
	for range 2 {
		if _, err := n.m.progress(ctx); err != nil {
			return err // it is unclear; the next start decides
		}
	}
	if n.m.cons.Status().Commit < index {
		n.incoming.discard(index)
	}
	return nil
}

// takeIn checks a snapshot's file against its message and makes an engine of it.
func (n *network) takeIn(m *raftpb.Message, path string) (engine.Engine, error) {
	if err := checkSum(n.incoming.ctx, m.GetSnapshot().GetData(), path); err != nil {
		return nil, err
	}
	return n.importSnapshot(m.GetSnapshot().GetMetadata(), path)
}

// checkSum compares a file with the checksum in its message. One without is of an etcd member, whose file tells less of
// itself: what its pages and records say must fit.
func checkSum(ctx context.Context, data []byte, path string) error {
	want, found, err := peer.Sum(data)
	if err != nil || !found {
		return err
	}
	got, err := sumOf(ctx, path)
	if err == nil && got != want {
		err = fmt.Errorf("%w: its SHA-256 is %x, its message says %x; it was damaged on its way", errSnapshot, got, want)
	}
	return err
}

// checkContents compares what a snapshot holds with what its message says of it.
func checkContents(meta *raftpb.SnapshotMetadata, c *interchange.Contents) error {
	switch {
	case c.Index != meta.GetIndex(), c.Term != meta.GetTerm():
		return fmt.Errorf("%w: its message says index %d of term %d, its database %d of %d", errSnapshot,
			meta.GetIndex(), meta.GetTerm(), c.Index, c.Term)
	case c.Members == 0:
		return fmt.Errorf("%w: it knows no member", errSnapshot)
	case !sameIDs(meta.GetConfState().GetVoters(), c.Conf.GetVoters()),
		!sameIDs(meta.GetConfState().GetLearners(), c.Conf.GetLearners()):
		return fmt.Errorf("%w: its message says voters %x and learners %x, its database has voters %x and learners %x", errSnapshot,
			meta.GetConfState().GetVoters(), meta.GetConfState().GetLearners(), c.Conf.GetVoters(), c.Conf.GetLearners())
	}
	return nil
}

func sameIDs(a, b []uint64) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// importSnapshot checks a file and makes an engine of it.
func (n *network) importSnapshot(meta *raftpb.SnapshotMetadata, path string) (_ engine.Engine, err error) {
	in, begun, index := n.incoming, time.Now(), meta.GetIndex()
	file, err := interchange.Open(in.ctx, path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	n.lg.Info("applying snapshot of another member: reading it", zap.Uint64("snapshot-index", index), zap.Int64("bytes", file.Size()))
	eng, err := in.disk.openSide(index, n.m.fail)
	if err != nil {
		return nil, err
	}
	last := begun
	contents, err := file.Import(in.ctx, eng, interchange.Options{
		Position: &state.Applied{Index: index, Term: meta.GetTerm(), Conf: meta.GetConfState()},
		Progress: func(bytes int64) {
			if time.Since(last) >= progressInterval {
				last = time.Now()
				n.lg.Info("reading a snapshot of another member", zap.Int64("bytes", bytes), zap.Int64("of", file.Size()),
					zap.Duration("took", last.Sub(begun)))
			}
		},
	})
	if err == nil {
		err = checkContents(meta, contents)
	}
	if err == nil {
		err = in.disk.settleSide(index)
	}
	if err != nil {
		return nil, errors.Join(err, eng.Close(), in.disk.removeSide(index))
	}
	n.lg.Info("received a snapshot of another member", append(contentFields(contents), zap.Duration("took", time.Since(begun)))...)
	return eng, nil
}

// install puts the engine of a snapshot in the place of the one in use. It is the applier's.
func (n *network) install(b consensus.Batch) error {
	index := b.Snapshot.GetIndex()
	eng := n.incoming.adopt(index)
	if eng == nil {
		return fmt.Errorf("the log says that a snapshot at index %d takes the engine's place, but there is none", index)
	}
	remove, err := n.incoming.disk.adoptSide(index)
	if err != nil {
		return errors.Join(err, eng.Close())
	}
	n.m.switched.replace(eng, func(err error) {
		if err = errors.Join(err, remove()); err != nil {
			n.lg.Warn("could not remove the engine that a snapshot has replaced; the next start will", zap.Error(err))
		}
	})
	return nil
}
