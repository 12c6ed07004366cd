package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/etcdapi"
	"github.com/dolmen-io/dolmen/internal/interchange"
	"github.com/dolmen-io/dolmen/internal/state"
)

// exportDir holds the files that are being sent to clients. Nothing in it outlives its client, or a start.
const exportDir = "export"

// maxExports is how many such files there are at a time: each is as large as the data. One for a schedule of
// backups and one for an operator; others wait until one of them is done.
const maxExports = 2

// exportPatience is how long a client may read nothing while others wait: a client that is gone without a word is
// noticed by nothing else for two hours.
const exportPatience = time.Minute

var errStalled = errors.New("the snapshot was given up: its client read nothing for a minute while others waited")

// backup implements etcdapi.Backup.
type backup struct {
	*Member
	slots    chan struct{}
	last     atomic.Uint64
	patience time.Duration

	mu struct {
		sync.Mutex
		sent map[*exported]struct{}
	}
}

func newBackup(m *Member) *backup {
	b := &backup{Member: m, slots: make(chan struct{}, maxExports), patience: exportPatience}
	b.mu.sent = map[*exported]struct{}{}
	return b
}

func exportDirectory(member string) string { return filepath.Join(member, exportDir) }

// removeExports removes what a crash has left of them.
func (d *directory) removeExports() error {
	if err := os.RemoveAll(exportDirectory(d.member)); err != nil {
		return fmt.Errorf("remove files that were being sent when the member ended: %w", err)
	}
	return nil
}

// Snapshot implements etcdapi.Backup. The engine's view is held while the file is written, and not while it
// is sent: a slow client costs disk, and nothing else.
func (b *backup) Snapshot(ctx context.Context) (_ *etcdapi.Snapshot, err error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			<-b.slots
		}
	}()
	if err := ctx.Err(); err != nil {
		return nil, err // both were possible
	}
	start := time.Now()
	dir := exportDirectory(memberDirectory(b.cfg))
	if err := os.MkdirAll(dir, fileutil.PrivateDirMode); err != nil {
		return nil, fmt.Errorf("make a file of the data: %w", err)
	}
	path := filepath.Join(dir, strconv.FormatUint(b.last.Add(1), 10)+".db")
	size, version, err := b.export(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("make a file of the data: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("send a file of the data: %w", err), os.Remove(path))
	}
	b.lg.Info("sending database snapshot to client", zap.Int64("total-bytes", size), zap.String("storage-version", version),
		zap.Duration("took", time.Since(start)))
	return &etcdapi.Snapshot{ReadCloser: b.send(f), Size: size, Version: version}, nil
}

// enter waits for a place, if need be that of a client that does not read.
func (b *backup) enter(ctx context.Context) error {
	stalled := time.NewTicker(b.patience)
	defer stalled.Stop()
	for {
		select {
		case b.slots <- struct{}{}:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-b.stopping:
			return consensus.ErrStopped
		case <-stalled.C:
			b.giveUpStalled()
		}
	}
}

func (b *backup) send(f *os.File) *exported {
	e := &exported{File: f, began: time.Now()}
	b.mu.Lock()
	b.mu.sent[e] = struct{}{}
	b.mu.Unlock()
	e.release = func() {
		b.mu.Lock()
		delete(b.mu.sent, e)
		b.mu.Unlock()
		<-b.slots
	}
	return e
}

// giveUpStalled removes the files of which nothing was read for too long. Whoever sends one learns of it when it
// reads on.
func (b *backup) giveUpStalled() {
	var stalled []*exported
	b.mu.Lock()
	for e := range b.mu.sent {
		if e.idle() >= b.patience {
			stalled = append(stalled, e)
		}
	}
	b.mu.Unlock()
	for _, e := range stalled {
		e.stalled.Store(true)
		b.lg.Warn("giving up a database snapshot that its client does not read, for others wait", zap.Error(e.Close()))
	}
}

func (b *backup) export(ctx context.Context, path string) (size int64, version string, err error) {
	v := b.state.View()
	held := v.KV.Bytes()
	v.Release()
	if err := checkRoom(filepath.Dir(path), held); err != nil {
		return 0, "", err
	}
	err = b.reading(func(sn engine.Snapshot) error {
		if version, err = interchange.StorageVersion(sn); err != nil {
			return err
		}
		size, err = interchange.Export(ctx, sn, path)
		return err
	})
	return size, version, err
}

// reading calls fn with a view of the engine.
func (b *backup) reading(fn func(engine.Snapshot) error) error {
	sn, err := b.eng.Snapshot()
	if err != nil {
		return err
	}
	return errors.Join(fn(sn), sn.Close())
}

// checkRoom refuses a file that would leave less free than writes need (see reserveBytes). held is the size of what is
// to go into it.
func checkRoom(dir string, held int64) error {
	free, err := freeBytes(dir)
	if err != nil {
		return err
	}
	// Pages are filled, so the file is a little larger than what it holds.
	if need := held + held/4 + reserveBytes; free < need {
		return fmt.Errorf("%w: %s has %d bytes free, a snapshot takes %d with what must stay free; make room, or take the "+
			"snapshot of another member", errNoRoom, dir, free, need)
	}
	return nil
}

var errNoRoom = errors.New("the disk is too full for a snapshot")

// exported is a file that is removed when it is closed, which may happen while it is read.
type exported struct {
	*os.File
	once    sync.Once
	release func()

	began   time.Time
	read    atomic.Int64 // when it was last, in nanoseconds since began
	stalled atomic.Bool  // it was closed because nobody read it
}

// Read implements io.Reader.
func (e *exported) Read(p []byte) (int, error) {
	e.read.Store(int64(time.Since(e.began)))
	n, err := e.File.Read(p)
	if err != nil && e.stalled.Load() {
		err = errStalled
	}
	return n, err
}

func (e *exported) idle() time.Duration { return time.Since(e.began) - time.Duration(e.read.Load()) }

// Close closes and removes the file, once.
func (e *exported) Close() (err error) {
	e.once.Do(func() {
		err = errors.Join(e.File.Close(), os.Remove(e.Name()))
		e.release()
	})
	return err
}

// Hash implements etcdapi.Backup.
func (b *backup) Hash(ctx context.Context) (sum uint32, revision int64, err error) {
	v := b.state.View()
	defer v.Release()
	err = b.reading(func(sn engine.Snapshot) error {
		if v.Replaced() {
			return state.ErrReplaced
		}
		sum, err = interchange.Hash(ctx, sn)
		return err
	})
	return sum, v.KV.Current(), err
}
