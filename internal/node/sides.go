package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/state"
	"github.com/dolmen-io/dolmen/internal/wal"
)

// An engine that a snapshot brought stands in member/engine.<index>. The FORMAT file names the directory in use:
//
//  1. The snapshot is copied into engine.<index>, durably.
//  2. The raft log records that it stands for everything up to index.
//  3. FORMAT names engine.<index>. The directory before is removed.
//
// A start finishes step 3 if step 2 was done, and removes other directories.

// sideName is the directory of an engine that a snapshot at an index brought.
func sideName(index uint64) string { return engineDir + "." + strconv.FormatUint(index, 10) }

// sideIndex returns the index in the name of such a directory.
func sideIndex(name string) (uint64, bool) {
	text, found := strings.CutPrefix(name, engineDir+".")
	index, err := strconv.ParseUint(text, 10, 64)
	return index, found && err == nil && sideName(index) == name
}

// directoryOf is the name of the engine's directory by what FORMAT says.
func directoryOf(f Format) (string, error) {
	if f.Directory == "" {
		return engineDir, nil
	}
	if _, ok := sideIndex(f.Directory); !ok {
		return "", fmt.Errorf("%w: the FORMAT file names %.80q as the engine's directory", ErrForeign, f.Directory)
	}
	return f.Directory, nil
}

func (d *directory) inMember(name string) string { return filepath.Join(d.member, name) }

// openSide implements sides.
func (d *directory) openSide(index uint64, fatal func(error)) (engine.Engine, error) {
	path := d.inMember(sideName(index))
	if err := os.RemoveAll(path); err != nil { // what could not be removed before
		return nil, err
	}
	return d.openEngineIn(path, fatal)
}

// settleSide implements sides. The engine syncs what it writes, not the names of the directories above.
func (d *directory) settleSide(index uint64) error {
	return errors.Join(syncDirectory(d.inMember(sideName(index))), syncDirectory(d.member))
}

// removeSide implements sides.
func (d *directory) removeSide(index uint64) error { return os.RemoveAll(d.inMember(sideName(index))) }

// adoptSide implements sides.
func (d *directory) adoptSide(index uint64) (remove func() error, err error) {
	before := d.inMember(d.current)
	f := d.format()
	f.Directory, f.Format = sideName(index), formatVersion
	if err := writeFormat(d.inMember(formatFile), f); err != nil {
		return nil, err
	}
	d.current = f.Directory
	return func() error { return os.RemoveAll(before) }, nil
}

// openCurrent opens the engine that FORMAT names, or the one that has taken its place by what the raft log says.
func (d *directory) openCurrent(fatal func(error)) (engine.Engine, error) {
	left, err := d.sidesLeft()
	if err != nil {
		return nil, err
	}
	eng, err := d.openEngineIn(d.inMember(d.current), fatal)
	if err != nil {
		return nil, err
	}
	at, err := state.Durable(eng)
	if err != nil {
		return nil, errors.Join(err, eng.Close())
	}
	adopted, found, err := d.recorded(left, at.Index)
	if err == nil && found {
		if err := eng.Close(); err != nil {
			return nil, err
		}
		if eng, err = d.finishInstall(adopted, fatal); err != nil {
			return nil, err
		}
	}
	if err == nil {
		err = d.removeOthers()
	}
	if err != nil {
		return nil, errors.Join(err, eng.Close())
	}
	return eng, nil
}

// finishInstall adopts what the log has recorded before a crash.
func (d *directory) finishInstall(index uint64, fatal func(error)) (engine.Engine, error) {
	eng, err := d.openEngineIn(d.inMember(sideName(index)), fatal)
	if err != nil {
		return nil, err
	}
	at, err := state.Durable(eng)
	if err == nil && at.Index != index {
		err = fmt.Errorf("%w: %s is at index %d", ErrMismatch, d.inMember(sideName(index)), at.Index)
	}
	if err == nil {
		_, err = d.adoptSide(index)
	}
	if err != nil {
		return nil, errors.Join(err, eng.Close())
	}
	d.lg.Info("finished taking up a snapshot of another member that a stop has interrupted", zap.Uint64("snapshot-index", index))
	return eng, nil
}

// sidesLeft returns the indexes of the engines beside the one in use.
func (d *directory) sidesLeft() (left []uint64, err error) {
	entries, err := os.ReadDir(d.member)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if index, ok := sideIndex(e.Name()); ok && e.Name() != d.current {
			left = append(left, index)
		}
	}
	return left, nil
}

// recorded returns the newest of the indexes that is above what the engine has applied and that the raft log knows as
// the place where it begins anew. A flush records only what the engine in use has reached.
func (d *directory) recorded(left []uint64, applied uint64) (index uint64, found bool, err error) {
	if !d.hasLog() || !slices.ContainsFunc(left, func(i uint64) bool { return i > applied }) {
		return 0, false, nil
	}
	marks, err := wal.Marks(d.lg, d.wal)
	if err != nil {
		return 0, false, err
	}
	for _, m := range marks {
		if m.Index > applied && m.Index > index && slices.Contains(left, m.Index) {
			index, found = m.Index, true
		}
	}
	return index, found, nil
}

// removeOthers removes all engines but the one in use.
func (d *directory) removeOthers() error {
	entries, err := os.ReadDir(d.member)
	if err != nil {
		return err
	}
	for _, e := range entries {
		_, side := sideIndex(e.Name())
		if (side || e.Name() == engineDir) && e.Name() != d.current {
			if err := os.RemoveAll(d.inMember(e.Name())); err != nil {
				return fmt.Errorf("remove an engine that is not in use: %w", err)
			}
		}
	}
	return nil
}
