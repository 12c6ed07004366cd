package node

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/alarm"
	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/corruption"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/mvcc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// compared is the member as the checks of data see it.
type compared struct{ *Member }

// Self implements corruption.Cluster.
func (c compared) Self() uint64 { return c.id.member }

// Others implements corruption.Cluster.
func (c compared) Others() int { return len(c.others()) }

func (c compared) others() []membership.Member {
	v := c.state.View()
	defer v.Release()
	var others []membership.Member
	for _, m := range v.Members.Members() {
		if m.ID != c.id.member {
			others = append(others, m)
		}
	}
	return others
}

// Hash implements corruption.Cluster.
func (c compared) Hash(revision int64) (corruption.Answer, error) {
	v := c.state.View()
	defer v.Release()
	h, err := v.Hash(revision)
	return corruption.Answer{Hash: h, Current: v.KV.Current(), Finished: v.KV.Finished() == v.KV.Compacted()}, err
}

// Hashes implements corruption.Cluster.
func (c compared) Hashes() []mvcc.Hash {
	v := c.state.View()
	defer v.Release()
	return v.Hashes
}

// Ask implements corruption.Cluster.
func (c compared) Ask(ctx context.Context, revision int64) []corruption.Peer {
	return c.peers.ask(ctx, c.others(), revision)
}

// Settle implements corruption.Cluster.
func (c compared) Settle(ctx context.Context) error { return c.readIndex(ctx) }

// Suspect implements corruption.Cluster.
func (c compared) Suspect(ctx context.Context, member uint64) error {
	if c.state.Alarms().Raised(member, alarm.Corrupt) {
		return nil
	}
	return c.proposeAlarm(ctx, &pb.InternalRaftRequest{Alarm: &pb.AlarmRequest{
		Action: pb.AlarmRequest_ACTIVATE, MemberID: member, Alarm: pb.AlarmType_CORRUPT,
	}})
}

// checkInitially compares the data of a member that has been here before with that of the others. It must
// not serve when they differ.
func (m *Member) checkInitially(ctx context.Context) error {
	if !m.cfg.FeatureGates.Enabled(config.GateInitialCorruptCheck) || m.state.Applied().Index == 0 {
		return nil
	}
	if m.cfg.ForceNewCluster {
		return nil // whatever others hold, this member goes on without them
	}
	defer m.peers.questions.client.CloseIdleConnections()
	err := corruption.New(m.lg, compared{m}).Initial(ctx)
	if err != nil {
		m.lg.Error("checkInitialHashKV failed", zap.Error(err))
	}
	return err
}

// checkData compares the data of all members from time to time, while this member leads.
func (m *Member) checkData(ctx context.Context) error {
	defer m.peers.questions.client.CloseIdleConnections()
	checker := corruption.New(m.lg, compared{m})
	var whole, compactions <-chan time.Time
	if every := m.cfg.CorruptCheckTime; every > 0 {
		m.lg.Info("enabled corruption checking", zap.Duration("interval", every))
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		whole = ticker.C
	}
	if m.cfg.FeatureGates.Enabled(config.GateCompactHashCheck) {
		ticker := time.NewTicker(m.cfg.CompactHashCheckTime)
		defer ticker.Stop()
		compactions = ticker.C
	}
	for {
		check := checker.Compactions
		select {
		case <-ctx.Done():
			return nil
		case <-compactions:
		case <-whole:
			check = checker.Periodic
		}
		if !m.leads() {
			continue
		}
		if err := check(ctx); err != nil && ctx.Err() == nil {
			m.lg.Warn("failed to check hash KV", zap.Error(err))
		}
	}
}
