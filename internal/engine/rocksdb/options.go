// Package rocksdb is the engine that keeps data on disk in a log-structured merge tree, by RocksDB. It is a thin
// layer over the library's C API, compiled with the build tag rocksdb; without the tag Open says how to build it.
//
// RocksDB's own log is off: the raft log is the log. A commit goes to the memtable, and memtables become tables in
// the order in which they were filled, each with one synced entry in the manifest. A batch is in one memtable as a
// whole, and there is one column family. So what a crash leaves is a prefix of the batches.
//
// Nothing here may ingest files into an engine in service: they overtake the memtables.
package rocksdb

import (
	"errors"
	"fmt"
	"strings"

	"go.uber.org/zap"
)

// ErrNotBuilt says that the program was built without this engine, and how it is built with it.
var ErrNotBuilt = errors.New("this program was built without the rocksdb engine; " +
	"build it with \"make build TAGS=rocksdb\", which needs RocksDB's library and headers (Debian: librocksdb-dev)")

// Options configures an engine.
type Options struct {
	// Logger gets what the engine has to say; nil means nobody does.
	Logger *zap.Logger
	// CacheBytes is the memory for blocks, those of indexes included, DefaultCacheBytes if 0. What is being
	// written needs up to maxMemTables*MemTableBytes besides.
	CacheBytes int64
	// MemTableBytes is the size of a memtable, DefaultMemTableBytes if 0. RocksDB takes no less than 64 KiB.
	MemTableBytes int64
	// Fatal is called once, with the error after which the engine cannot go on: a flush that failed, damaged
	// data. It must bring the process to its end and must not call the engine. From then on every call of the
	// engine returns the error. A nil Fatal leaves it at that.
	Fatal func(error)
}

const (
	// DefaultCacheBytes holds the blocks around the recent revisions and the tables' indexes. Latest
	// values are resident above the engine, so the cache is not what makes reads fast.
	DefaultCacheBytes = 64 << 20

	// DefaultMemTableBytes matches the log: a member flushes every 64 MiB of log anyway, so a smaller
	// memtable would only write more, smaller tables.
	DefaultMemTableBytes = 64 << 20

	// maxMemTables bounds the memory of unflushed data: one memtable is filled, one is flushed, and one
	// may wait before commits do.
	maxMemTables = 3
)

// compression is how blocks are packed: fast where they are written again soon, small on the last level, where
// nearly all data ends. A library may have been built without either.
const (
	packed   = "compression=kLZ4Compression;bottommost_compression=kZSTD"
	unpacked = "compression=kNoCompression"
)

// rocksOptions returns the options in RocksDB's own form, which its OPTIONS files show too. There is no
// bloom filter: keys are read by exact revision, nearly always one that is there, and an unknown one lies outside
// most tables' bounds.
func (o Options) rocksOptions(compression string) string {
	memTable, cache := o.MemTableBytes, o.CacheBytes
	if memTable == 0 {
		memTable = DefaultMemTableBytes
	}
	if cache == 0 {
		cache = DefaultCacheBytes
	}
	table := []string{
		fmt.Sprintf("block_cache=%d", cache),
		// Revisions are read by exact key or in runs, both served by large blocks that compress well.
		"block_size=32768",
		// Version 5 is the newest that RocksDB 7.8 writes; xxh3 is the fastest of its checksums.
		"format_version=5",
		"checksum=kXXH3",
		// Indexes count as cache, so that memory has one bound however large the data, but the blocks of a
		// long scan do not push them out.
		"cache_index_and_filter_blocks=true",
		"cache_index_and_filter_blocks_with_high_priority=true",
		"pin_l0_filter_and_index_blocks_in_cache=true",
	}
	return strings.Join([]string{
		"create_if_missing=true",
		// A damaged block, a table of another size than the manifest says, or levels that contradict one another
		// are errors and nothing to work around.
		"paranoid_checks=true",
		"force_consistency_checks=true",
		"block_based_table_factory={" + strings.Join(table, ";") + "}",
		compression,
		fmt.Sprintf("write_buffer_size=%d", memTable),
		fmt.Sprintf("max_write_buffer_number=%d", maxMemTables),
		// Commit has one caller, so memtables need not be ready for several.
		"allow_concurrent_memtable_write=false",
		// What nobody needs any more is removed by a thread of RocksDB's and not by a reader.
		"avoid_unnecessary_blocking_io=true",
		// After an error that stops it RocksDB must not go on by itself: a member has been told by then.
		"max_bgerror_resume_count=0",
		// Close flushes, and after a failure nothing may be written.
		"avoid_flush_during_shutdown=true",
		// Tables of 64 MiB, and a base level of eight memtables: a member of a few GiB has tens of files.
		"target_file_size_base=67108864",
		"max_bytes_for_level_base=536870912",
		"level_compaction_dynamic_level_bytes=true",
		// Level 0 holds one table a flush. Four of them are worth a compaction; commits are slowed down and held
		// up only when a scan would merge so many runs.
		"level0_file_num_compaction_trigger=4",
		"level0_slowdown_writes_trigger=20",
		"level0_stop_writes_trigger=24",
		// One flush and up to two compactions: the machine is the raft log's and the clients' first.
		"max_background_jobs=3",
		// Far above the number of tables, and far below a usual limit of 1024 descriptors.
		"max_open_files=500",
		// Spreads the writing of a table: the raft log's small syncs would wait behind the table's one.
		"bytes_per_sync=1048576",
		// A manifest is written anew when it has grown to this, in bytes.
		"max_manifest_file_size=67108864",
		// The file LOG stays empty: when it cannot be written, as on a full disk, a library that was built with
		// assertions ends the process, and Debian's was. What matters is returned to us.
		"info_log_level=HEADER_LEVEL",
		"keep_log_file_num=1",
		"stats_dump_period_sec=0",
		"stats_persist_period_sec=0",
	}, ";")
}
