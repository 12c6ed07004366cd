package node

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/engine"
)

// stuckDisk has an engine that, once armed, reports a failure and never comes back from a commit: as
// Pebble does when a commit waits for a flush that has failed.
type stuckDisk struct {
	disk
	armed, release chan struct{}
}

func (d *stuckDisk) openEngine(fatal func(error)) (engine.Engine, error) {
	eng, err := d.disk.openEngine(fatal)
	return stuckEngine{eng, d, fatal}, err
}

type stuckEngine struct {
	engine.Engine
	disk  *stuckDisk
	fatal func(error)
}

var errStuck = errors.New("no space left for the flush")

func (e stuckEngine) Commit(b *engine.Batch) error {
	select {
	case <-e.disk.armed:
		e.fatal(errStuck)
		<-e.disk.release
		return errStuck
	default:
		return e.Engine.Commit(b)
	}
}

// TestStuckEngineDoesNotHoldUpTheEnd: a member whose engine has failed must end, so that the process does,
// although a part of it never will.
func TestStuckEngineDoesNotHoldUpTheEnd(t *testing.T) {
	d := &stuckDisk{armed: make(chan struct{}), release: make(chan struct{})}
	m, err := openOn(t.Context(), quietConfig(t, config.EngineMemory), zap.NewNop(),
		func(ctx context.Context, cfg *config.Config, lg *zap.Logger) (disk, error) {
			var err error
			d.disk, err = openDirectory(ctx, cfg, lg)
			return d, err
		})
	require.NoError(t, err)
	ready(t, m)
	close(d.armed)
	_, err = m.Propose(t.Context(), put("k", "v"))
	require.Error(t, err)
	select {
	case <-m.Done():
	case <-time.After(testPatience):
		t.Fatal("the member does not end")
	}
	require.ErrorIs(t, m.Err(), errStuck)
	close(d.release)
	m.core.Wait()
	require.NoError(t, m.close())
}
