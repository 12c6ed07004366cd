package enginetest_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/enginetest"
	"github.com/dolmen-io/dolmen/internal/engine/memory"
)

// complaining is an engine that does not close well while a snapshot is open, as those on a library do.
type complaining struct {
	engine.Engine
	closed atomic.Bool
}

func (c *complaining) Get(key []byte) ([]byte, error) {
	if c.closed.Load() {
		return nil, engine.ErrClosed
	}
	return c.Engine.Get(key)
}

func (c *complaining) Close() error {
	c.closed.Store(true)
	return errors.Join(c.Engine.Close(), errors.New("leaked snapshots: 1"))
}

func TestHelpers(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, []byte("abc"), 0o600))
	before := enginetest.Image(t, dir)
	require.Len(t, before, 3, "the directory's time, and time and content of the file")
	require.Equal(t, before, enginetest.Image(t, dir))
	enginetest.Flip(t, file, 1)
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "arc", string(content))
	require.NotEqual(t, before, enginetest.Image(t, dir))

	enginetest.ReadOnlyFindsNothing(t, func(dir string) error { _, err := fs.Stat(os.DirFS(dir), "engine"); return err })
	e, err := memory.Open(filepath.Join(t.TempDir(), "engine"), memory.Options{})
	require.NoError(t, err)
	enginetest.CloseDuringScan(t, &complaining{Engine: e})
}
