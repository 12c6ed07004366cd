package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/etcdapi"
)

// closePatience is what a failed member gives its requests. Otherwise what is in flight may take as long
// as a request may.
const closePatience = time.Second

// shutdown stops the member in four phases: refuse new work, drain what is in flight, stop the parts in
// reverse order of their start, flush and close. After a failure there is nothing worth waiting for, and
// nothing is written any more.
func (m *Member) shutdown(failed bool) {
	m.stop.Do(func() { close(m.stopping) })
	m.lg.Info("closing etcd server", zap.String("name", m.cfg.Name), zap.String("data-dir", m.cfg.DataDir))
	patience := m.patience
	if failed {
		patience = closePatience
		m.pending.stop(consensus.ErrStopped)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := m.front.shutdown(ctx); err != nil {
		m.lg.Warn("some requests were cut off", zap.Error(err))
	}
	if !failed {
		m.checkpointAll()
		if err := m.handOver(ctx); err != nil {
			m.lg.Warn("leadership transfer failed", zap.Stringer("local-member-id", types.ID(m.id.member)), zap.Error(err))
		}
	}
	m.pending.stop(consensus.ErrStopped)
	var leave sync.Once
	defer leave.Do(m.leave)
	if failed {
		if !m.background.endWithin(closePatience) || !m.core.endWithin(closePatience) {
			m.lg.Error("a part of the member does not end; its files stay open until the process ends",
				zap.String("data-dir", m.cfg.DataDir))
			return
		}
	} else {
		m.background.end()
		if err := m.flusher.flush(); err != nil {
			m.fail(err)
		}
		m.core.end()
	}
	leave.Do(m.leave)
	if err := m.close(); err != nil {
		m.fail(err)
	}
	m.lg.Info("closed etcd server", zap.String("name", m.cfg.Name), zap.String("data-dir", m.cfg.DataDir))
}

// leave ends the connections with other members.
func (m *Member) leave() {
	if m.network != nil {
		m.network.transport.Stop()
	}
	m.front.shutdownPeers()
	if m.network != nil {
		if err := m.network.incoming.stop(); err != nil {
			m.lg.Warn("could not close a snapshot that was received", zap.Error(err))
		}
		m.network.client.CloseIdleConnections()
	}
}

// handOver makes another voter the leader if this member leads: the one that has been connected for longest.
func (m *Member) handOver(ctx context.Context) error {
	st := m.cons.Status()
	self, leader := zap.Stringer("local-member-id", types.ID(st.ID)), zap.Stringer("current-leader-member-id", types.ID(st.Lead))
	if st.Lead != st.ID {
		m.lg.Info("skipped leadership transfer; local server is not leader", self, leader)
		return nil
	}
	if len(st.Voters) <= 1 {
		m.lg.Info("skipped leadership transfer for single voting member cluster", self, leader)
		return nil
	}
	var target uint64
	var oldest time.Time
	for _, id := range st.Voters {
		if id == st.ID {
			continue
		}
		if since := m.others.ActiveSince(id); !since.IsZero() && (target == 0 || since.Before(oldest)) {
			target, oldest = id, since
		}
	}
	if target == 0 {
		return errNobodyConnected
	}
	begun := time.Now()
	to := zap.Stringer("transferee-member-id", types.ID(target))
	m.lg.Info("leadership transfer starting", self, leader, to)
	m.cons.TransferLeader(target)
	look := time.NewTicker(m.cfg.HeartbeatInterval)
	defer look.Stop()
	for {
		changed := m.cons.LeaderChanged()
		if now := m.cons.Status().Lead; now != 0 && now != st.ID {
			m.lg.Info("leadership transfer finished", self, zap.Stringer("old-leader-member-id", types.ID(st.ID)),
				zap.Stringer("new-leader-member-id", types.ID(now)), zap.Duration("took", time.Since(begun)))
			return nil
		}
		select {
		case <-changed:
		case <-look.C:
			if m.others.ActiveSince(target).IsZero() {
				return errTransfereeGone // as when all members are stopped at once
			}
		case <-ctx.Done():
			return etcdapi.ErrTransferTimeout
		}
	}
}

// errTransfereeGone says that there is nobody to wait for.
var errTransfereeGone = errors.New("the member that should have taken over is not connected any more")

// errNobodyConnected says that no other voter can take over.
var errNobodyConnected = errors.New("unhealthy cluster: no other voting member is connected")

// close releases what is open. Consensus closes the raft log itself if it ran.
func (m *Member) close() error {
	var errs []error
	if m.log != nil {
		errs = append(errs, m.log.Close())
	}
	if m.defragmenter != nil {
		m.defragmenter.stop()
	}
	if m.eng != nil {
		errs = append(errs, m.eng.Close())
	}
	if err := errors.Join(errs...); err == nil && m.defragmenter != nil {
		m.defragmenter.running.Wait() // closing the engine has ended it
	}
	if m.disk != nil {
		errs = append(errs, m.disk.close())
	}
	return errors.Join(errs...)
}

// abandon undoes an Open that failed halfway.
func (m *Member) abandon() error {
	m.background.end()
	m.core.end()
	if m.network != nil {
		m.network.transport.Stop()
	}
	return errors.Join(m.front.close(), m.close())
}
