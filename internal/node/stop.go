package node

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/consensus"
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
		m.lg.Info("skipped leadership transfer of single-node cluster", zap.Stringer("local-member-id", types.ID(m.id.member)))
		m.checkpointAll()
	}
	m.pending.stop(consensus.ErrStopped)
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
	if err := m.close(); err != nil {
		m.fail(err)
	}
	m.lg.Info("closed etcd server", zap.String("name", m.cfg.Name), zap.String("data-dir", m.cfg.DataDir))
}

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
	return errors.Join(m.front.close(), m.close())
}
