package enginetest

import (
	"crypto/sha256"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// Put commits one key.
func Put(t *testing.T, e engine.Engine, key, value string) {
	t.Helper()
	var b engine.Batch
	b.Put([]byte(key), []byte(value))
	require.NoError(t, e.Commit(&b))
}

// Flip changes a bit of the byte at an offset of a file.
func Flip(t *testing.T, file string, offset int) {
	t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	b[offset] ^= 0x10
	require.NoError(t, os.WriteFile(file, b, 0o600))
}

// Image is the names, times and contents below a directory.
func Image(t *testing.T, dir string) map[string]any {
	t.Helper()
	all := map[string]any{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := entry.Info()
		require.NoError(t, err)
		all[path+" changed"] = info.ModTime()
		if !entry.IsDir() {
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			all[path] = sha256.Sum256(content)
		}
		return nil
	}))
	return all
}

// ReadOnlyFindsNothing holds that an open for reading finds no engine where there is none, and makes none.
func ReadOnlyFindsNothing(t *testing.T, open func(dir string) error) {
	t.Helper()
	require.ErrorIs(t, open(filepath.Join(t.TempDir(), "absent")), fs.ErrNotExist)
	empty := t.TempDir()
	err := open(empty)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NotErrorIs(t, err, engine.ErrCorrupt)
	require.Len(t, Image(t, empty), 1)
}

// CloseDuringScan holds that Close waits for a scan under way, and that the scan may still make calls, which are
// refused. The engine is empty; it is closed with the scan's snapshot open, which Close complains of.
func CloseDuringScan(t *testing.T, e engine.Engine) {
	t.Helper()
	Put(t, e, "a", "1")
	Put(t, e, "b", "2")
	s, err := e.Snapshot()
	require.NoError(t, err)
	closed := make(chan error, 1)
	n := 0
	require.NoError(t, s.Scan(nil, nil, false, func(_, _ []byte) bool {
		if n++; n == 1 {
			go func() { closed <- e.Close() }()
			for {
				if _, err := e.Get([]byte("a")); err != nil {
					require.ErrorIs(t, err, engine.ErrClosed)
					break
				}
			}
		}
		return true
	}))
	require.Equal(t, 2, n)
	require.ErrorContains(t, <-closed, "leaked snapshots")
}
