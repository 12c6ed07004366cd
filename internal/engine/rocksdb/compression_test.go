//go:build rocksdb

package rocksdb

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// TestCompressionThatIsMissing opens with one that no library outside of Windows has.
func TestCompressionThatIsMissing(t *testing.T) {
	const missing = "compression=kXpressCompression"
	dir := filepath.Join(t.TempDir(), "engine")
	require.NoError(t, makeDirectory(dir))
	core, logged := observer.New(zap.WarnLevel)
	db, err := openWith(dir, Options{Logger: zap.New(core)}, false, missing, unpacked)
	require.NoError(t, err)
	require.Equal(t, 1, logged.Len())
	e := newEngine(dir, db, Options{})
	close(e.watched)
	require.NoError(t, e.Close())
	_, err = openWith(dir, Options{}, false, missing)
	require.ErrorContains(t, err, "no compression that could be used")
}
