//go:build rocksdb

package rocksdb

// #include "bridge.h"
import "C"

import (
	"os"
	"unsafe"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// Properties of RocksDB, with the zero byte that C wants.
const (
	propErrors    = "rocksdb.background-errors\x00"
	propStopped   = "rocksdb.is-write-stopped\x00"
	propLive      = "rocksdb.estimate-live-data-size\x00"
	propMemTables = "rocksdb.size-all-mem-tables\x00"
	propCache     = "rocksdb.block-cache-usage\x00"
	propReaders   = "rocksdb.estimate-table-readers-mem\x00"
)

// property returns a whole number that RocksDB tells of itself, 0 if it does not know the name.
func (e *Engine) property(name string) uint64 {
	var n C.uint64_t
	if C.rocksdb_property_int(e.db, (*C.char)(unsafe.Pointer(unsafe.StringData(name))), &n) != 0 {
		return 0
	}
	return uint64(n)
}

// Stats implements engine.Engine, by gate.Figures.
func (e *Engine) Stats() engine.Stats { return e.figures.Stats(e.gate, e.enter, e.measure) }

func (e *Engine) measure() engine.Stats {
	disk := diskBytes(e.name)
	return engine.Stats{
		DiskBytes:   disk,
		LiveBytes:   min(disk, int64(e.property(propLive))),
		MemoryBytes: int64(e.property(propMemTables) + e.property(propCache) + e.property(propReaders)),
	}
}

// diskBytes is the size of all files in dir. RocksDB's own figure leaves out those that are to be removed.
func diskBytes(dir string) int64 {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	sum := int64(0)
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil { // else it has just been removed
			sum += info.Size()
		}
	}
	return sum
}
