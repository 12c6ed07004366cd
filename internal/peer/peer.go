// Package peer carries raft's messages and snapshots between members, and the few questions that members ask each
// other over HTTP. It is a thin layer over etcd's rafthttp and speaks as etcd's members do, so that members of both
// kinds stand in one cluster.
package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"
	"go.etcd.io/etcd/server/v3/etcdserver/api/snap"
	stats "go.etcd.io/etcd/server/v3/etcdserver/api/v2stats"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// ErrStopped says that the transport does not run any more.
var ErrStopped = errors.New("peer: the transport is stopped")

// ErrURL says that a peer URL cannot be used.
var ErrURL = errors.New("peer: bad peer URL")

// Receiver is the member that a Transport works for. Its methods are called from many goroutines.
type Receiver interface {
	// Step takes a message. Its error ends the stream that brought it.
	Step(ctx context.Context, m *raftpb.Message) error
	// ReceiveSnapshot takes the message of a snapshot whose database was saved, synced, at path. It returns when the
	// state is durable and the message stepped, or refuses it. The file is removed afterwards.
	ReceiveSnapshot(ctx context.Context, m *raftpb.Message, path string) error
	// SendSnapshot is told that a member needs a snapshot. It must not block; the snapshot goes out by
	// Transport.SendSnapshot.
	SendSnapshot(m *raftpb.Message)
	// Removed reports whether a member was removed: it is refused for good.
	Removed(id uint64) bool
	// ReportUnreachable and ReportSnapshot tell raft what became of what was sent.
	ReportUnreachable(id uint64)
	ReportSnapshot(id uint64, failed bool)
}

// Config is what a Transport needs.
type Config struct {
	ID, Cluster uint64
	// URLs are this member's own, which others are told.
	URLs []string
	// TLS is how other members are reached. Its files are read when the transport starts and at each Renew.
	TLS transport.TLSInfo
	// DialTimeout bounds a connect to another member.
	DialTimeout time.Duration
	// Dir is where a snapshot is kept while it is received; it must exist.
	Dir      string
	Receiver Receiver
	Logger   *zap.Logger
}

// Transport sends and receives. All methods may be called by any goroutine; Send blocks nobody.
type Transport struct {
	cfg     Config
	current atomic.Pointer[running]
	removed chan error
	// strangers are members of other clusters.
	strangers *strangers

	mu struct {
		sync.Mutex
		peers   map[types.ID][]string
		stopped bool
	}
}

// running is a started transport of rafthttp with its handler.
type running struct {
	*rafthttp.Transport
	handler http.Handler
}

// New returns a transport that has no peers yet. Its errors are those of TLS files and URLs.
func New(cfg Config) (*Transport, error) {
	t := &Transport{cfg: cfg, removed: make(chan error, 1), strangers: newStrangers(cfg.Logger, cfg.ID, cfg.Cluster)}
	t.mu.peers = map[types.ID][]string{}
	inner, err := t.build()
	if err != nil {
		return nil, err
	}
	t.current.Store(inner)
	return t, nil
}

func (t *Transport) build() (*running, error) {
	urls, err := types.NewURLs(t.cfg.URLs)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrURL, err)
	}
	id := types.ID(t.cfg.ID)
	inner := &rafthttp.Transport{
		Logger: t.strangers.logger(), DialTimeout: t.cfg.DialTimeout, TLSInfo: t.cfg.TLS,
		ID: id, URLs: urls, ClusterID: types.ID(t.cfg.Cluster),
		Raft: inbound{t}, Snapshotter: snap.New(t.cfg.Logger, t.cfg.Dir),
		ServerStats: stats.NewServerStats("", id.String()), LeaderStats: stats.NewLeaderStats(t.cfg.Logger, id.String()),
		ErrorC: t.removed,
	}
	if err := inner.Start(); err != nil {
		return nil, fmt.Errorf("peer: start the transport: %w", err)
	}
	return &running{inner, inner.Handler()}, nil
}

// Renew builds the transport anew, with certificates and authorities as they are on disk now, and connects to all
// peers again: rafthttp reads them once. If it fails, the transport before stays in use.
func (t *Transport) Renew() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.stopped {
		return ErrStopped
	}
	next, err := t.build()
	if err != nil {
		return err
	}
	for id, urls := range t.mu.peers {
		next.AddPeer(id, urls)
	}
	t.current.Swap(next).Stop()
	return nil
}

// Handler serves the paths below /raft.
func (t *Transport) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { t.current.Load().handler.ServeHTTP(w, r) })
}

// Guard serves what members of this cluster, or of none, ask of next, and refuses those of others.
func (t *Transport) Guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !t.strangers.refuse(w, r) {
			next.ServeHTTP(w, r)
		}
	})
}

// NoteStranger notes that a URL of a member has answered for another cluster.
func (t *Transport) NoteStranger(url, cluster string) { t.strangers.answered(url, cluster) }

// Strangers returns how many requests of other clusters were refused, and how many of this member's have come to other
// clusters.
func (t *Transport) Strangers() (received, sent uint64) {
	return t.strangers.received.Load(), t.strangers.sent.Load()
}

// Evicted gets one value if other members say that this one was removed from the cluster.
func (t *Transport) Evicted() <-chan error { return t.removed }

// Send implements consensus.Transport. The message of a snapshot goes to Receiver.SendSnapshot, which makes what
// belongs to it.
func (t *Transport) Send(msgs []*raftpb.Message) {
	if slices.ContainsFunc(msgs, isSnapshot) {
		for _, m := range msgs {
			if isSnapshot(m) {
				t.cfg.Receiver.SendSnapshot(m)
			}
		}
		msgs = slices.DeleteFunc(slices.Clone(msgs), isSnapshot)
	}
	t.current.Load().Send(msgs)
}

func isSnapshot(m *raftpb.Message) bool { return m.GetType() == raftpb.MsgSnap }

// SendSnapshot sends a snapshot of size bytes, which it reads and closes, to the member in the message's To field. sent
// is called once, when it is known what became of it; Receiver.ReportSnapshot is called too.
func (t *Transport) SendSnapshot(m *raftpb.Message, body io.ReadCloser, size int64, sent func(ok bool)) {
	msg := snap.NewMessage(m, body, size)
	t.current.Load().SendSnapshot(msg)
	go func() { sent(<-msg.CloseNotify()) }()
}

// Set makes peers of exactly these members, by their peer URLs; this member itself is left out. Members that stay keep
// their connections.
func (t *Transport) Set(members map[uint64][]string) error {
	for id, urls := range members {
		if _, err := types.NewURLs(urls); err != nil {
			return fmt.Errorf("%w of member %x: %w", ErrURL, id, err)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.stopped {
		return ErrStopped
	}
	inner := t.current.Load()
	for id := range t.mu.peers {
		if _, stays := members[uint64(id)]; !stays {
			inner.RemovePeer(id)
			delete(t.mu.peers, id)
		}
	}
	for raw, urls := range members {
		id := types.ID(raw)
		known, found := t.mu.peers[id]
		switch {
		case raw == t.cfg.ID:
			continue
		case !found:
			inner.AddPeer(id, urls)
		case !slices.Equal(known, urls):
			inner.UpdatePeer(id, urls)
		}
		t.mu.peers[id] = slices.Clone(urls)
	}
	return nil
}

// ActiveSince returns since when a peer has been connected, the zero time if it is not.
func (t *Transport) ActiveSince(id uint64) time.Time {
	return t.current.Load().ActiveSince(types.ID(id))
}

// Stop ends all connections. Nothing is sent or received afterwards.
func (t *Transport) Stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.stopped {
		return
	}
	t.mu.stopped = true
	t.current.Load().Stop()
}

// inbound is the Transport as rafthttp sees the member.
type inbound struct{ t *Transport }

// Process implements rafthttp.Raft.
func (in inbound) Process(ctx context.Context, m *raftpb.Message) error {
	cfg := &in.t.cfg
	if cfg.Receiver.Removed(m.GetFrom()) {
		return refusal{fmt.Errorf("peer: a message of member %s, which was removed from the cluster", types.ID(m.GetFrom()))}
	}
	if m.GetType() != raftpb.MsgSnap {
		return cfg.Receiver.Step(ctx, m)
	}
	path, err := in.t.current.Load().Snapshotter.DBFilePath(m.GetSnapshot().GetMetadata().GetIndex())
	if err != nil {
		return fmt.Errorf("peer: receive a snapshot: %w", err)
	}
	return errors.Join(cfg.Receiver.ReceiveSnapshot(ctx, m, path), os.Remove(path))
}

// refusal is an error that the other member is told.
type refusal struct{ error }

// WriteTo answers a request with the refusal.
func (r refusal) WriteTo(w http.ResponseWriter) { http.Error(w, r.Error(), http.StatusForbidden) }

// IsIDRemoved implements rafthttp.Raft.
func (in inbound) IsIDRemoved(id uint64) bool { return in.t.cfg.Receiver.Removed(id) }

// ReportUnreachable implements rafthttp.Raft.
func (in inbound) ReportUnreachable(id uint64) { in.t.cfg.Receiver.ReportUnreachable(id) }

// ReportSnapshot implements rafthttp.Raft.
func (in inbound) ReportSnapshot(id uint64, status raft.SnapshotStatus) {
	in.t.cfg.Receiver.ReportSnapshot(id, status == raft.SnapshotFailure)
}
