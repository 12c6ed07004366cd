package pebble

import "github.com/cockroachdb/pebble/v2/vfs"

// ReadOnlyFS is what OpenReadOnly gives Pebble.
func ReadOnlyFS(fs vfs.FS) vfs.FS { return readOnlyFS{fs} }
