//go:build !linux

package inspect

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// shareLock takes the kind of lock that any number of readers may hold, on a file that a running member locks for
// itself alone.
func shareLock(path string) (io.Closer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrInUse
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return f, nil
}
