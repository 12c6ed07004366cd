package wal

import (
	"fmt"

	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
)

// Check reports, without changing anything, whether Open could open the log in dir for an engine that has applied
// up to an index. It reads all of the log.
func Check(lg *zap.Logger, dir string, applied uint64) (err error) {
	defer recovered(&err, "check", dir)
	defer func() {
		if err != nil {
			err = fmt.Errorf("check raft log %s: %w", dir, err)
		}
	}()
	if err := checkSegments(dir); err != nil {
		return err
	}
	if err := checkUnused(dir); err != nil {
		return err
	}
	if _, err := inspectEnd(dir); err != nil {
		return err
	}
	mark, err := newestMark(lg, dir, applied)
	if err != nil {
		return err
	}
	w, err := wal.OpenForRead(lg, dir, mark)
	if err != nil {
		return err
	}
	// When it only reads, it takes a torn end as the end, and closes the files itself.
	_, _, ents, err := w.ReadAll()
	if err != nil {
		return damage(dir, err)
	}
	if last := mark.GetIndex() + uint64(len(ents)); last < applied {
		return fmt.Errorf("%w: the engine has applied up to index %d, the log ends at %d: it is of another member, "+
			"or has lost its end", ErrNoMark, applied, last)
	}
	return nil
}
