package node

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// spacePoll is how often the free space is looked at. A disk takes less than half the reserve in that time.
const spacePoll = 250 * time.Millisecond

// space watches the free space under the data. A log that cannot be written ends the member, so writes are
// refused while there is still room for what is on its way; they are taken again when there is room.
type space struct {
	lg   *zap.Logger
	free func() (int64, error)
	low  atomic.Bool
}

// reserveBytes is two segments of the raft log, of 64 MB each, and what an engine writes in a flush.
const reserveBytes = 2*64<<20 + flushBytes

// look reads the free space. A disk that cannot tell is not low.
func (s *space) look() {
	free, err := s.free()
	if err != nil {
		s.low.Store(false)
		return
	}
	low := free < reserveBytes
	if s.low.Swap(low) == low {
		return
	}
	if low {
		s.lg.Warn("the disk is nearly full: writes are refused until there is room; reads and deletes go on",
			zap.Int64("free-bytes", free), zap.Int64("reserve-bytes", reserveBytes))
		return
	}
	s.lg.Info("the disk has room again: writes are taken", zap.Int64("free-bytes", free), zap.Int64("reserve-bytes", reserveBytes))
}

// run looks from time to time.
func (s *space) run(ctx context.Context) error {
	if _, err := s.free(); errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	ticker := time.NewTicker(spacePoll)
	defer ticker.Stop()
	for {
		s.look()
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
