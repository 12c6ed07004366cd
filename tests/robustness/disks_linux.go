package robustness

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"
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
