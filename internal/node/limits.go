package node

import (
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// reservedFiles are the descriptors that a member needs besides its clients' connections: segments of the
// log, the engine's files, listeners, peers. Etcd's figure.
const reservedFiles = 150

// openFileLimit returns how many descriptors the process may have, 0 if that is not known.
func openFileLimit() int {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	return int(min(l.Cur, math.MaxInt32))
}

// freeBytes returns how much an ordinary user can still write below a path.
func freeBytes(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, fmt.Errorf("read the free space of %s: %w", path, err)
	}
	return int64(min(st.Bavail, math.MaxInt64/uint64(st.Bsize)) * uint64(st.Bsize)), nil
}

// maxConnections returns how many connections a listener may have, 0 for no limit.
func maxConnections() int { return max(openFileLimit()-reservedFiles, 0) }
