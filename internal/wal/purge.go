package wal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.uber.org/zap"
)

// purger deletes released segments, on a goroutine of its own: deleting a large file can take as long as many
// fsyncs. It needs no queue, only the newest index.
type purger struct {
	lg   *zap.Logger
	dir  string
	keep uint // 0 deletes nothing
	wake chan struct{}

	mu struct {
		sync.Mutex
		index   uint64
		stopped bool
	}
}

func newPurger(lg *zap.Logger, dir string, keep uint) *purger {
	return &purger{lg: lg, dir: dir, keep: keep, wake: make(chan struct{}, 1)}
}

func (p *purger) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *purger) release(index uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.index = max(p.mu.index, index)
	p.poke()
}

func (p *purger) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.stopped = true
	p.poke()
}

func (p *purger) run() {
	for range p.wake {
		p.mu.Lock()
		index, stopped := p.mu.index, p.mu.stopped
		p.mu.Unlock()
		if err := p.purge(index); err != nil {
			// Disk space is lost for now, nothing else: the next release tries again.
			p.lg.Warn("cannot delete released raft log segments; check the permissions of the directory",
				zap.String("dir", p.dir), zap.Error(err))
		}
		if stopped {
			return
		}
	}
}

// purge deletes segments that only hold entries at or below index, oldest first, while there are more than keep.
func (p *purger) purge(index uint64) error {
	if p.keep == 0 {
		return nil
	}
	all, err := segments(p.dir)
	if err != nil {
		return err
	}
	needed := releasable(all, index)
	for i, s := range all[:needed] {
		if uint(len(all)-i) <= p.keep {
			return nil
		}
		if err := p.remove(s); err != nil {
			return err
		}
	}
	return nil
}

// releasable returns how many of the oldest segments a restart at a mark at index does not need: all before the last
// one that begins below index.
func releasable(all []segment, index uint64) int {
	needed := 0
	for i, s := range all {
		if s.first >= index {
			break
		}
		needed = i
	}
	return needed
}

// remove deletes a segment durably: after a crash no older one may be there when a newer one is gone.
func (p *purger) remove(s segment) error {
	path := filepath.Join(p.dir, s.name)
	if err := os.Remove(path); err != nil {
		return err
	}
	d, err := fileutil.OpenDir(p.dir)
	if err != nil {
		return err
	}
	if err := errors.Join(fileutil.Fsync(d), d.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", p.dir, err)
	}
	p.lg.Info("deleted a released raft log segment", zap.String("path", path))
	return nil
}
