package node

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/etcd/api/v3/version"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/consensus"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// serverVersion is the etcd version that this server is, in behaviour and on the wire.
var serverVersion = version.Version

// publish tells the cluster this member's name and client URLs, which is what makes it one that has
// started. It ends when that is done.
func (m *Member) publish(ctx context.Context) error {
	urls := make([]string, 0, len(m.cfg.AdvertiseClientURLs))
	for _, u := range m.cfg.AdvertiseClientURLs {
		urls = append(urls, u.String())
	}
	set := func() *pb.InternalRaftRequest {
		return &pb.InternalRaftRequest{ClusterMemberAttrSet: &membershippb.ClusterMemberAttrSetRequest{
			Member_ID:        m.id.member,
			MemberAttributes: &membershippb.Attributes{Name: m.cfg.Name, ClientUrls: urls},
		}}
	}
	published := func() bool {
		v := m.state.View()
		defer v.Release()
		self, ok := v.Members.Member(m.id.member)
		return ok && self.Name == m.cfg.Name && slices.Equal(self.ClientURLs, urls)
	}
	if !m.insist(ctx, "publish this member's attributes", set, published) {
		return nil
	}
	m.lg.Info("published local member to cluster through raft", zap.Stringer("local-member-id", types.ID(m.id.member)),
		zap.String("local-member-attributes", m.cfg.Name), zap.Strings("client-urls", urls),
		zap.Duration("publish-timeout", m.patience))
	close(m.ready)
	return nil
}

// insistPause is the time between two attempts.
const insistPause = 100 * time.Millisecond

// insist proposes a request until it has had its effect. It returns false when ctx ends first. A member
// whose state has not caught up with its log since a restart proposes at least once: the log may hold
// something older.
func (m *Member) insist(ctx context.Context, what string, request func() *pb.InternalRaftRequest, done func() bool) bool {
	for {
		res, err := m.Propose(ctx, request())
		if err == nil && res.Err == nil && done() {
			return true
		}
		if ctx.Err() != nil || errors.Is(err, consensus.ErrStopped) {
			return false
		}
		m.lg.Warn("failed to "+what+"; trying again", zap.Error(errors.Join(err, res.Err)))
		select {
		case <-ctx.Done():
			return false
		case <-time.After(insistPause):
		}
	}
}
