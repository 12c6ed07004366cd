//go:build !linux

package robustness

import (
	"errors"
	"testing"
	"time"
)

// disks are never slow on this system: what slows them is the kernel of Linux.
type disks struct{}

func newDisks(testing.TB) *disks { return &disks{} }

func (*disks) launcher(int, int64) []string { return nil }

func (*disks) set(int, time.Duration) {}

func fill(string, int64) error { return errors.ErrUnsupported }

func free(string) error { return nil }

func unmount([]string) error { return nil }
