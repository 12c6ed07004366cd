package rocksdb

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestOptions: with the engine in the program every test that opens one shows that RocksDB understands them.
func TestOptions(t *testing.T) {
	of := func(o Options) []string {
		return strings.FieldsFunc(o.rocksOptions(packed), func(r rune) bool { return strings.ContainsRune(";{}", r) })
	}
	defaults := of(Options{})
	require.Subset(t, defaults, []string{"write_buffer_size=67108864", "block_cache=67108864", "checksum=kXXH3", "compression=kLZ4Compression"})
	require.Subset(t, of(Options{CacheBytes: 1 << 20, MemTableBytes: 1 << 16}), []string{"write_buffer_size=65536", "block_cache=1048576"})
	names := map[string]bool{}
	for _, option := range defaults {
		name, _, _ := strings.Cut(option, "=")
		require.False(t, names[name], "%s is there twice", name)
		names[name] = true
	}
}
