package robustness

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// disks are the members' disks, of those that can be made slow.
type disks struct {
	tb  testing.TB
	dir string
	all map[int]*slowDisk
}

func newDisks(tb testing.TB) *disks {
	tb.Helper()
	// Not TempDir: the name of a socket is short.
	dir, err := os.MkdirTemp("", "disks")
	if err != nil {
		tb.Fatal(err)
	}
	d := &disks{tb: tb, dir: dir, all: map[int]*slowDisk{}}
	tb.Cleanup(d.close)
	return d
}

// launcher is the command that starts member i on its disk, in a file system of so many bytes if that is not 0.
func (d *disks) launcher(i int, bytes int64) []string {
	slow := d.all[i]
	if slow == nil {
		var err error
		if slow, err = newSlowDisk(d.dir, fmt.Sprint("m", i)); err != nil {
			d.tb.Fatal(err)
		}
		d.all[i] = slow
	}
	return []string{os.Args[0], launchWord, "-fsync=" + slow.socket, "-tmpfs=" + strconv.FormatInt(bytes, 10), "--"}
}

// fillName is a file beside the member's own, in its data directory, that takes the room.
const fillName = "filler"

// fill takes the room on the file system of a member's data until no more than leave is free.
func fill(dataDir string, leave int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dataDir, &st); err != nil {
		return os.NewSyscallError("statfs", err)
	}
	size := int64(st.Bavail)*st.Bsize - leave
	if size <= 0 {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(dataDir, fillName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	held, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	return os.NewSyscallError("fallocate", unix.Fallocate(int(f.Fd()), 0, held, size))
}

// free gives back what fill has taken.
func free(dataDir string) error {
	if err := os.Remove(filepath.Join(dataDir, fillName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// unmount takes file systems away; their members have ended.
func unmount(dataDirs []string) error {
	var all error
	for _, dir := range dataDirs {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) { // it never started
			all = errors.Join(all, os.NewSyscallError("umount", err))
		}
	}
	return all
}

func (d *disks) close() {
	for i, slow := range d.all {
		if err := slow.close(); err != nil {
			d.tb.Errorf("the disk of m%d: %v", i, err)
		}
	}
	os.RemoveAll(d.dir)
}

// set makes each fsync of member i take at least delay.
func (d *disks) set(i int, delay time.Duration) { d.all[i].set(delay) }
