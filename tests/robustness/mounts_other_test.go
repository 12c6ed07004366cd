//go:build !linux

package robustness

import "testing"

// withOwnDisks calls f with 0: on this system members have no file systems of their own.
func withOwnDisks(_ *testing.T, f func(size int64)) { f(0) }
