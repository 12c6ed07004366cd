package pebble

import (
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"
)

// Options configures an engine.
type Options struct {
	// FS is the file system; nil means the operating system's.
	FS vfs.FS
	// Logger gets Pebble's messages; nil means nobody does.
	Logger *zap.Logger
	// CacheBytes is the memory for decoded blocks, DefaultCacheBytes if 0. What is being written needs
	// up to maxMemTables*MemTableBytes besides.
	CacheBytes int64
	// MemTableBytes is the size of a memtable, DefaultMemTableBytes if 0. A batch of half of it or more
	// becomes a table of its own.
	MemTableBytes int64
	// Fatal is called once, from a goroutine of Pebble's, with the error after which the engine cannot
	// go on: a flush that failed, damaged data. It must bring the process to its end and must not call
	// the engine. From then on every call of the engine returns the error. A nil Fatal leaves it at that.
	Fatal func(error)
}

const (
	// DefaultCacheBytes holds the blocks around the recent revisions and the tables' indexes. Latest
	// values are resident above the engine, so the cache is not what makes reads fast.
	DefaultCacheBytes = 64 << 20

	// DefaultMemTableBytes matches the log: a member flushes every 64 MiB of log anyway, so a smaller
	// memtable would only write more, smaller tables.
	DefaultMemTableBytes = 64 << 20

	// formatVersion is what Pebble writes on disk. It is fixed so that a new Pebble does not silently
	// make a directory unreadable for the Dolmen before. This one has checksums in table footers, and is
	// the last before values move to files of their own, which revisions do not need.
	formatVersion = pebble.FormatTableFormatV6

	// maxMemTables bounds the memory of unflushed data: one memtable is filled, one is flushed, and one
	// may wait before commits do.
	maxMemTables = 3

	// Block sizes, in bytes. Revisions are read by exact key or in runs, both served by large blocks that
	// compress well; a large index block keeps the index of a table at two levels.
	dataBlockBytes  = 32 << 10
	indexBlockBytes = 256 << 10

	// Tables of 64 MiB: a member of a few GiB has tens of files and not thousands.
	tableBytes = 64 << 20

	// L0 holds one table a flush. Four of them are worth a compaction; commits are held up only at 24,
	// when a scan would merge that many runs.
	l0CompactionTables = 4
	l0CompactionRuns   = 4
	l0StopRuns         = 24

	// Flushes add runs in order, so the base level takes about eight memtables before data moves down.
	baseLevelBytes = 512 << 20

	// Compactions run one at a time, and two at a time when they fall behind: the machine is the raft
	// log's and the clients' first.
	minCompactions = 1
	maxCompactions = 2

	// maxOpenFiles is far above the number of tables, and far below a usual limit of 1024 descriptors.
	maxOpenFiles = 500

	// syncBytes spreads the writing of a table, in bytes: the raft log's small syncs would wait behind
	// the table's one.
	syncBytes = 1 << 20

	// deletionBytes is how fast obsolete tables are removed, in bytes a second: some file systems stall
	// the log's syncs on large removals.
	deletionBytes = 512 << 20
)

// pebbleOptions returns Pebble's options. There is no bloom filter: keys are read by exact revision,
// nearly always one that is there, and an unknown one lies outside most tables' bounds.
func (o Options) pebbleOptions(events *events) *pebble.Options {
	memTable := o.MemTableBytes
	if memTable == 0 {
		memTable = DefaultMemTableBytes
	}
	cache := o.CacheBytes
	if cache == 0 {
		cache = DefaultCacheBytes
	}
	listener := events.listener()
	p := &pebble.Options{
		FS: o.FS,
		// Memtables are accounted to the cache and would push the blocks out of it.
		CacheSize:                   cache + maxMemTables*memTable,
		DisableWAL:                  true,
		FormatMajorVersion:          formatVersion,
		MemTableSize:                uint64(memTable),
		MemTableStopWritesThreshold: maxMemTables,
		L0CompactionFileThreshold:   l0CompactionTables,
		L0CompactionThreshold:       l0CompactionRuns,
		L0StopWritesThreshold:       l0StopRuns,
		LBaseMaxBytes:               baseLevelBytes,
		MaxOpenFiles:                maxOpenFiles,
		BytesPerSync:                syncBytes,
		TargetByteDeletionRate:      deletionBytes,
		CompactionConcurrencyRange:  func() (int, int) { return minCompactions, maxCompactions },
		EventListener:               &listener,
		Logger:                      events,
	}
	for i := range p.Levels {
		p.Levels[i].BlockSize = dataBlockBytes
		p.Levels[i].IndexBlockSize = indexBlockBytes
		p.TargetFileSizes[i] = tableBytes
	}
	return p
}
