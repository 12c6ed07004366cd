package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/interchange"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/peer"
	"github.com/dolmen-io/dolmen/internal/state"
)

const (
	// afterSnapshot is how long entries are kept for a member that has received a snapshot: it has to take it up
	// before it asks for what follows. It is etcd's figure.
	afterSnapshot = 30 * time.Second
	// sendCheck is how often it is looked whether that time is over.
	sendCheck = time.Second
)

// outgoing makes snapshots for members that lag behind the log, and sends them. A file is made at a time; several may
// be on their way, one for each member.
type outgoing struct {
	wake chan struct{} // of capacity 1
	last uint64        // number of the newest file; it belongs to the goroutine

	mu struct {
		sync.Mutex
		// waiting is what raft has asked for, the newest for each member. sending are the members to whom a
		// snapshot is on its way, held those whose entries are kept a while longer, until a time.
		waiting map[uint64]*raftpb.Message
		sending map[uint64]bool
		held    map[uint64]time.Time
	}
}

func newOutgoing() *outgoing {
	o := &outgoing{wake: make(chan struct{}, 1)}
	o.mu.waiting, o.mu.sending, o.mu.held = map[uint64]*raftpb.Message{}, map[uint64]bool{}, map[uint64]time.Time{}
	return o
}

// SendSnapshot implements peer.Receiver.
func (n *network) SendSnapshot(m *raftpb.Message) {
	o := n.outgoing
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mu.waiting[m.GetTo()] = m
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// next returns a message whose turn it is, and notes that it is being sent.
func (o *outgoing) next() *raftpb.Message {
	o.mu.Lock()
	defer o.mu.Unlock()
	for to, m := range o.mu.waiting {
		if !o.mu.sending[to] {
			delete(o.mu.waiting, to)
			o.mu.sending[to] = true
			delete(o.mu.held, to)
			return m
		}
	}
	return nil
}

// done notes that nothing is being sent to a member any more.
func (o *outgoing) done(to uint64, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.mu.sending, to)
	if ok {
		o.mu.held[to] = time.Now().Add(afterSnapshot)
	}
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// over returns the members whose entries need not be kept any more.
func (o *outgoing) over(now time.Time) (members []uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, until := range o.mu.held {
		if now.After(until) {
			members = append(members, id)
			delete(o.mu.held, id)
		}
	}
	return members
}

// sendSnapshots sends what raft asks for until ctx ends.
func (n *network) sendSnapshots(ctx context.Context) error {
	ticker := time.NewTicker(sendCheck)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			for _, id := range n.outgoing.over(now) {
				n.m.cons.LetGo(id)
			}
			n.incoming.sweep(n.m.appliedIndex())
			continue
		case <-n.outgoing.wake:
		}
		for m := n.outgoing.next(); m != nil && ctx.Err() == nil; m = n.outgoing.next() {
			if err := n.sendOne(ctx, m); err != nil {
				n.lg.Warn("could not make a snapshot for another member; it will be tried again",
					zap.Stringer("remote-peer-id", types.ID(m.GetTo())), zap.Error(err))
				select { // raft asks again at once
				case <-ctx.Done():
				case <-ticker.C:
				}
				n.sent(m.GetTo(), false)
			}
		}
	}
}

// sent tells raft what became of a snapshot.
func (n *network) sent(to uint64, ok bool) {
	if !ok {
		n.m.cons.LetGo(to)
		n.m.cons.ReportSnapshot(to, true)
	}
	n.outgoing.done(to, ok)
}

// sendOne makes a file of the engine as it is now and hands it to the transport with its message.
func (n *network) sendOne(ctx context.Context, asked *raftpb.Message) error {
	begun := time.Now()
	to := asked.GetTo()
	if !n.m.leads() {
		return errors.New("this member leads no more")
	}
	n.m.cons.Hold(to, n.m.appliedIndex()) // before the view: what follows on it must not go meanwhile
	dir := exportDirectory(memberDirectory(n.m.cfg))
	if err := os.MkdirAll(dir, fileutil.PrivateDirMode); err != nil {
		return err
	}
	n.outgoing.last++
	path := filepath.Join(dir, "peer-"+strconv.FormatUint(n.outgoing.last, 10)+".db")
	snapshot, size, err := n.export(ctx, path)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	m := &raftpb.Message{
		Type: asked.Type, To: asked.To, From: asked.From, Term: asked.Term, LogTerm: asked.LogTerm, Index: asked.Index,
		Commit: asked.Commit, Snapshot: snapshot,
	}
	n.lg.Info("sending a snapshot to a member that lags behind the log", zap.Stringer("remote-peer-id", types.ID(to)),
		zap.Uint64("snapshot-index", snapshot.GetMetadata().GetIndex()), zap.Int64("total-bytes", size), zap.Duration("took", time.Since(begun)))
	n.transport.SendSnapshot(m, &exported{File: f, release: func() {}}, size, func(ok bool) {
		if ok {
			n.lg.Info("sent database snapshot to writer", zap.Stringer("remote-peer-id", types.ID(to)), zap.Int64("bytes", size),
				zap.Duration("took", time.Since(begun)))
		}
		n.sent(to, ok)
	})
	return nil
}

// export writes the file, and what the message says of it, from one view of the engine.
func (n *network) export(ctx context.Context, path string) (snapshot *raftpb.Snapshot, size int64, err error) {
	v := n.m.state.View()
	held := v.KV.Bytes()
	v.Release()
	if err := checkRoom(filepath.Dir(path), held); err != nil {
		return nil, 0, err
	}
	err = (&backup{Member: n.m}).reading(func(sn engine.Snapshot) error {
		at, err := state.AppliedIn(sn)
		if err != nil {
			return err
		}
		table, err := membership.Load(sn, n.m.cfg.MaxLearners)
		if err != nil {
			return err
		}
		if size, err = interchange.Export(ctx, sn, path); err != nil {
			return err
		}
		sum, err := sumOf(ctx, path)
		if err != nil {
			return errors.Join(err, os.Remove(path))
		}
		data, err := encodeMembers(table.Snapshot(), sum)
		if err != nil {
			return errors.Join(err, os.Remove(path))
		}
		snapshot = &raftpb.Snapshot{Data: data, Metadata: &raftpb.SnapshotMetadata{
			Index: &at.Index, Term: &at.Term, ConfState: proto.Clone(at.Conf).(*raftpb.ConfState),
		}}
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("make a file of the data: %w", err)
	}
	return snapshot, size, nil
}

// sumOf reads a file for its SHA-256. It ends with ctx.
func sumOf(ctx context.Context, path string) (sum [sha256.Size]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	if _, err := io.Copy(h, &bounded{ctx: ctx, r: f}); err != nil {
		return sum, fmt.Errorf("take the checksum of %s: %w", path, err)
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// bounded is a reader that ends with ctx.
type bounded struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	return b.r.Read(p)
}

// encodeMembers is a view of the membership, with the checksum of the data, as the message of a snapshot holds it.
func encodeMembers(v *membership.View, sum [sha256.Size]byte) ([]byte, error) {
	var records []peer.Record
	for _, m := range v.Members() {
		records = append(records, peer.Record{ID: m.ID, PeerURLs: m.PeerURLs, IsLearner: m.IsLearner, Name: m.Name, ClientURLs: m.ClientURLs})
	}
	return peer.Membership(records, v.RemovedIDs(), v.Version(), sum)
}
