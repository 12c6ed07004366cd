package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/peer"
)

// receivedDir holds snapshots while they come in. Nothing in it outlives a start.
const receivedDir = "received"

// renewInterval is how often certificates of peers are looked at: connections keep those that they were made with.
const renewInterval = 10 * time.Second

// network is what a member has for the others: connections, and what it does with what they send. It implements
// peer.Receiver and peers.
type network struct {
	*questions
	m         *Member
	lg        *zap.Logger
	transport *peer.Transport
	// founders are the members that this one knew before its log said so: those of a new cluster, or those who let
	// it join; without those of whom the log has told.
	founders []membership.Member
	// dropped are members that --force-new-cluster removes; they are not to be heard before the log says so either.
	dropped  []uint64
	outgoing *outgoing
	incoming *incoming
}

// openNetwork makes the connections' machinery. It connects to nobody.
func (m *Member) openNetwork(founders []membership.Member, dropped []uint64) error {
	dir := filepath.Join(memberDirectory(m.cfg), receivedDir)
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, fileutil.PrivateDirMode)); err != nil {
		return fmt.Errorf("make a directory for snapshots of other members: %w", err)
	}
	beside, able := m.disk.(sides)
	if !able {
		return errors.New("this disk cannot hold the snapshots of other members")
	}
	n := &network{
		questions: newQuestions(m.patience, m.front.peerTLS, maxAnswer),
		m:         m, lg: m.lg, founders: slices.Clone(founders), dropped: dropped, outgoing: newOutgoing(), incoming: newIncoming(m.lg, beside),
	}
	info, err := m.front.peerTLSInfo(m.cfg)
	if err != nil {
		return err
	}
	urls := make([]string, 0, len(m.cfg.AdvertisePeerURLs))
	for _, u := range m.cfg.AdvertisePeerURLs {
		urls = append(urls, u.String())
	}
	n.transport, err = peer.New(peer.Config{
		ID: m.id.member, Cluster: m.id.cluster, URLs: urls, TLS: info,
		DialTimeout: time.Second + m.cfg.ElectionTimeout, // etcd's
		Dir:         dir, Receiver: n, Logger: m.lg,
	})
	if err != nil {
		return err
	}
	n.only(m.id.cluster, n.transport.NoteStranger)
	m.network, m.others = n, n
	return nil
}

// peerTLSInfo is how other members are called, in the terms of etcd's transport.
func (f *front) peerTLSInfo(cfg *config.Config) (transport.TLSInfo, error) {
	t := cfg.PeerTLS
	if f.peerTLS == nil {
		return transport.TLSInfo{Logger: f.lg}, nil
	}
	generated := !t.Named()
	if generated {
		t = f.generatedPeers
	}
	suites, err := cfg.CipherSuiteIDs()
	if err != nil {
		return transport.TLSInfo{}, err
	}
	lowest, highest, err := cfg.TLSVersions()
	if err != nil {
		return transport.TLSInfo{}, err
	}
	return transport.TLSInfo{
		CertFile: t.CertFile, KeyFile: t.KeyFile, ClientCertFile: t.ClientCertFile, ClientKeyFile: t.ClientKeyFile,
		TrustedCAFile: t.TrustedCAFile, InsecureSkipVerify: generated, ServerName: serverName(cfg, "peer"),
		AllowedCNs: t.AllowedCNs, AllowedHostnames: t.AllowedHostnames,
		CipherSuites: suites, MinVersion: lowest, MaxVersion: highest, Logger: f.lg,
	}, nil
}

// follow connects to the members of a view, and to those founders of whom the log has not told yet. It is the applier's.
func (n *network) follow(v *membership.View) error {
	urls := map[uint64][]string{}
	n.founders = slices.DeleteFunc(n.founders, func(m membership.Member) bool {
		_, told := v.Member(m.ID)
		return told || v.Removed(m.ID)
	})
	for _, m := range n.founders {
		urls[m.ID] = m.PeerURLs
	}
	for _, m := range v.Members() {
		if !slices.Contains(n.dropped, m.ID) {
			urls[m.ID] = m.PeerURLs
		}
	}
	err := n.transport.Set(urls)
	if errors.Is(err, peer.ErrStopped) {
		return nil
	}
	return err
}

// renewCertificates connects anew when the certificates of --peer-* have changed.
func (n *network) renewCertificates(ctx context.Context) error {
	store := n.m.front.peerTLS
	if store == nil {
		return nil
	}
	seen := store.Generation()
	ticker := time.NewTicker(renewInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if next := store.Generation(); next != seen {
			if err := n.transport.Renew(); err != nil {
				n.lg.Warn("could not take up changed certificates for other members; those before stay in use", zap.Error(err))
				continue
			}
			seen = next
		}
	}
}

// watchRemoval stops the member when it has been removed from the cluster: as its own log says, or as the others do.
func (n *network) watchRemoval(ctx context.Context) error {
	var told error
	select {
	case <-ctx.Done():
		return nil
	case told = <-n.transport.Evicted():
	case <-n.m.applier.removed:
		// Others may still wait for what this member has to say.
		timer := time.NewTimer(removalPatience)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
	}
	n.lg.Warn("the member has been permanently removed from the cluster", zap.Stringer("local-member-id", types.ID(n.m.id.member)),
		zap.NamedError("told", told))
	n.lg.Warn("data-dir used by this member must be removed", zap.String("data-dir", n.m.cfg.DataDir))
	n.m.stop.Do(func() { close(n.m.stopping) })
	return nil
}

// removalPatience is how long a member goes on after its log has said that it was removed, etcd's figure.
const removalPatience = time.Second

// Step implements peer.Receiver.
func (n *network) Step(ctx context.Context, m *raftpb.Message) error {
	if m.GetTo() != n.m.id.member {
		return fmt.Errorf("a message for member %s has reached member %s", types.ID(m.GetTo()), types.ID(n.m.id.member))
	}
	return n.m.cons.Step(ctx, m)
}

// Removed implements peer.Receiver.
func (n *network) Removed(id uint64) bool {
	v := n.m.state.View()
	defer v.Release()
	return v.Members.Removed(id) || slices.Contains(n.dropped, id)
}

// ReportUnreachable implements peer.Receiver.
func (n *network) ReportUnreachable(id uint64) { n.m.cons.ReportUnreachable(id) }

// ReportSnapshot implements peer.Receiver.
func (n *network) ReportSnapshot(id uint64, failed bool) { n.m.cons.ReportSnapshot(id, failed) }

// ActiveSince implements peers.
func (n *network) ActiveSince(id uint64) time.Time { return n.transport.ActiveSince(id) }
