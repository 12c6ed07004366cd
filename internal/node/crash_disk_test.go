package node

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/enginetest"
	"github.com/dolmen-io/dolmen/internal/engine/memory"
	"github.com/dolmen-io/dolmen/internal/engine/pebble"
	"github.com/dolmen-io/dolmen/internal/wal"
)

// forgetful is a disk that can be cut off from power: crash returns what is left of it. The engine's file
// system is in memory and knows what was synced. The raft log is in a directory of the operating system,
// where each successful sync is noted; what lies behind the newest note was not synced.
type forgetful struct {
	tables *vfs.MemFS            // of engine/pebble, or nil
	files  *enginetest.Directory // of engine/memory, or nil
	wal    string
	opts   wal.Options
	// deaf makes the log one whose syncs do nothing. It reports success all the same.
	deaf bool

	// keep is held while no segment of the log may be released.
	keep sync.Mutex
	log  *notedLog
	// marks counts what the log was marked and released for.
	marks atomic.Int64
}

// newForgetful returns an empty disk for an engine, with the raft log in dir, which need not exist.
func newForgetful(engineName, dir string) *forgetful {
	d := &forgetful{wal: dir, opts: wal.Options{MaxWALs: 1}}
	if engineName == config.EngineMemory {
		d.files = enginetest.NewDirectory()
	} else {
		d.tables = vfs.NewCrashableMem()
	}
	return d
}

func (d *forgetful) open(context.Context, *config.Config, *zap.Logger) (disk, error) { return d, nil }

func (d *forgetful) openEngine(fatal func(error)) (engine.Engine, error) {
	if d.files != nil {
		return memory.Open("engine", memory.Options{Directory: d.files})
	}
	// Small memtables fill and are written between the flushes that the member asks for.
	return pebble.Open("engine", pebble.Options{FS: d.tables, MemTableBytes: 64 << 10, CacheBytes: 1 << 20, Fatal: fatal})
}

func (d *forgetful) hasLog() bool { return wal.Exist(d.wal) }

func (d *forgetful) createLog(md wal.Metadata) (consensus.Log, error) {
	log, err := wal.Create(zap.NewNop(), d.wal, md, d.opts)
	if err != nil {
		return nil, err
	}
	return d.note(log)
}

func (d *forgetful) openLog(applied uint64) (consensus.Log, *wal.Restored, error) {
	log, restored, err := wal.Open(zap.NewNop(), d.wal, applied, d.opts)
	if err != nil {
		return nil, nil, err
	}
	noted, err := d.note(log)
	return noted, restored, err
}

// note wraps an open log. What it holds by now has been synced.
func (d *forgetful) note(log consensus.Log) (consensus.Log, error) {
	d.log = &notedLog{Log: log, disk: d}
	if err := d.log.note(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return d.log, nil
}

func (d *forgetful) free() (int64, error) { return 0, errors.ErrUnsupported }

func (d *forgetful) close() error { return nil }

// notedLog notes where the log ends each time that it has been synced.
type notedLog struct {
	consensus.Log
	disk       *forgetful
	term, vote uint64

	mu struct {
		sync.Mutex
		segment string
		offset  int64
	}
}

func (l *notedLog) silent() bool { return l.disk.deaf || l.disk.opts.UnsafeNoFsync }

// Append implements consensus.Log. A hard state that only moves the commit index need not be synced.
func (l *notedLog) Append(hs *raftpb.HardState, ents []*raftpb.Entry) error {
	if err := l.Log.Append(hs, ents); err != nil {
		return err
	}
	voted := hs != nil && (hs.GetTerm() != l.term || hs.GetVote() != l.vote)
	if voted {
		l.term, l.vote = hs.GetTerm(), hs.GetVote()
	}
	if l.silent() || !voted && len(ents) == 0 {
		return nil
	}
	return l.note()
}

// Mark implements consensus.Log.
func (l *notedLog) Mark(index, term uint64, cs *raftpb.ConfState) error {
	if err := l.Log.Mark(index, term, cs); err != nil || l.silent() {
		return err
	}
	return l.note()
}

// Release implements consensus.Log.
func (l *notedLog) Release(index uint64) error {
	l.disk.keep.Lock()
	defer l.disk.keep.Unlock()
	l.disk.marks.Add(1)
	return l.Log.Release(index)
}

// note finds the end of the newest segment by the lengths of its records.
func (l *notedLog) note() error {
	all, err := segmentNames(l.disk.wal)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if newest := all[len(all)-1]; newest != l.mu.segment {
		l.mu.segment, l.mu.offset = newest, 0
	}
	f, err := os.Open(filepath.Join(l.disk.wal, l.mu.segment))
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		var frame [8]byte
		if n, _ := f.ReadAt(frame[:], l.mu.offset); n < len(frame) {
			return nil
		}
		length := binary.LittleEndian.Uint64(frame[:])
		if length == 0 {
			return nil
		}
		padding := int64(length>>56) & 7
		l.mu.offset += 8 + int64(length&(1<<56-1)) + padding
	}
}

func (l *notedLog) synced() (segment string, offset int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.segment, l.mu.offset
}

func segmentNames(dir string) ([]string, error) {
	all, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	for i := range all {
		all[i] = filepath.Base(all[i])
	}
	slices.Sort(all)
	return all, err
}

// crash returns what a power cut at this moment would leave, with the log in dir. The member may go on
// meanwhile. The engine goes first: its state must not be newer than the log.
func (d *forgetful) crash(rng *rand.Rand, dir string) (*forgetful, error) {
	after := &forgetful{wal: dir, opts: d.opts, deaf: d.deaf}
	d.keep.Lock()
	defer d.keep.Unlock()
	percent := []int{0, 50, 100}[rng.IntN(3)]
	if d.files != nil {
		after.files = d.files.Crash(rng, percent)
	} else {
		after.tables = d.tables.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
	}
	loss := losses[rng.IntN(len(losses))]
	for {
		err := d.copyLog(dir, func(b []byte, synced int64) []byte { return loss(rng, b, synced) })
		if !errors.Is(err, fs.ErrNotExist) { // a segment released earlier was just deleted
			return after, err
		}
	}
}

// losses are what may become of the bytes of a file behind those that were synced.
var losses = []func(rng *rand.Rand, b []byte, synced int64) []byte{
	func(_ *rand.Rand, b []byte, synced int64) []byte { return b[:synced] },
	func(_ *rand.Rand, b []byte, synced int64) []byte {
		clear(b[synced:])
		return b
	},
	func(rng *rand.Rand, b []byte, synced int64) []byte {
		const sector = 512 // disks write these whole
		size := int64(len(b))
		for at := synced; at < size; at += sector - at%sector {
			if rng.IntN(2) == 0 {
				clear(b[at:min(at+sector-at%sector, size)])
			}
		}
		return b
	},
}

func (d *forgetful) copyLog(dir string, loss func([]byte, int64) []byte) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	segment, offset := d.log.synced()
	all, err := segmentNames(d.wal)
	if err != nil {
		return err
	}
	for _, name := range all {
		if name > segment {
			break // its name was not synced
		}
		b, err := os.ReadFile(filepath.Join(d.wal, name))
		if err != nil {
			return err
		}
		if name == segment {
			b = loss(b, offset)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}
