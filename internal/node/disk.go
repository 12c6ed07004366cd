package node

import (
	"context"

	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/wal"
)

// disk is what a member keeps and must find again after a crash: an engine and a raft log. It belongs to
// one member at a time. directory is the one that members run on; tests have one that loses what was not
// synced.
//
// openEngine comes first, then createLog or openLog. close comes after both are closed, and gives the
// disk up.
type disk interface {
	// openEngine opens the engine. fatal is called, from any goroutine, when the engine cannot go on.
	openEngine(fatal func(error)) (engine.Engine, error)
	// hasLog says whether a raft log was created.
	hasLog() bool
	// createLog makes the log of a new member.
	createLog(wal.Metadata) (consensus.Log, error)
	// openLog opens the log and reads it from the newest mark that is not above applied, the index that
	// the engine has applied.
	openLog(applied uint64) (consensus.Log, *wal.Restored, error)
	// free returns how many bytes can still be written, errors.ErrUnsupported where nobody knows.
	free() (int64, error)
	close() error
}

// opener opens the disk that a configuration names. It may wait for another process to leave it, until
// ctx ends.
type opener func(ctx context.Context, cfg *config.Config, lg *zap.Logger) (disk, error)
