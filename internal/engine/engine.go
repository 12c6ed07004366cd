// Package engine defines what Dolmen asks of the store below it: an ordered map of byte keys that
// takes whole batches, one after the other, and that opens after a crash at a prefix of them.
//
// An engine has no log of its own. The raft log is the log: every batch carries the raft index it was
// made from, so after a crash the engine is behind by some batches and the raft log replays exactly
// those. That is why the contract below speaks of prefixes and of what is durable, and never of one
// batch's durability.
//
// Implementations: memory, pebble, rocksdb. The suite in enginetest holds each of them to this contract.
package engine

import "errors"

var (
	// ErrNotFound says that no value is stored under the key.
	ErrNotFound = errors.New("engine: key not found")
	// ErrClosed says that the engine or the snapshot was used after Close.
	ErrClosed = errors.New("engine: closed")
	// ErrCorrupt says that bytes on disk are not those that were written. The wrapping error names the
	// file. It is a failure: the member must stop.
	ErrCorrupt = errors.New("engine: corrupt data")
)

// Engine is an ordered map from byte keys to byte values, compared bytewise.
//
// Who may call what: Commit has a single caller at a time. All other methods may be called from any
// goroutine at any time, also while a Commit or a Flush runs.
//
// Who owns the bytes: keys and values handed to Commit belong to the engine from then on and are never
// modified by either side. Bytes that Get and Durable return are immutable and stay valid after Close.
//
// What a crash leaves: the effect of the first n committed batches, for some n that is at least the
// number of batches committed before the last Flush returned. Never a part of a batch, never a later
// batch without an earlier one.
//
// Errors other than ErrNotFound and ErrClosed are failures; the engine must not be written again.
type Engine interface {
	// Commit applies the batch as a whole. When it returns, reads see it; it is durable only after a
	// Flush that starts later. The caller may Reset and reuse the batch, but not the bytes put into it.
	Commit(b *Batch) error

	// Get returns the value of key as of the last Commit, or ErrNotFound.
	Get(key []byte) ([]byte, error)

	// Snapshot returns a view of everything committed so far. It must be closed; it holds resources.
	Snapshot() (Snapshot, error)

	// Flush makes every batch committed before the call durable. Commits go on meanwhile. Calls that
	// overlap may share one flush.
	Flush() error

	// Durable returns the value that Get would return had the machine crashed at this moment, or
	// ErrNotFound. It reads only what is on disk and synced.
	Durable(key []byte) ([]byte, error)

	// Stats returns sizes, cheaply enough to be called for every status request.
	Stats() Stats

	// Close flushes, then releases files and locks. Snapshots must have been closed before; using one
	// afterwards is ErrClosed. It waits for calls under way, so it must not be called within a Scan.
	Close() error
}

// Snapshot is an unchanging view of an Engine. It may be used from many goroutines at once.
type Snapshot interface {
	// Get returns the value of key in this view, or ErrNotFound.
	Get(key []byte) ([]byte, error)

	// Scan calls fn for every key in [lo, hi) in ascending order, or descending when reverse is set,
	// until fn returns false or the range is exhausted. A nil hi means no upper limit. The slices given
	// to fn are valid only until it returns and must not be modified. fn may call the engine and this
	// snapshot.
	Scan(lo, hi []byte, reverse bool, fn func(key, value []byte) bool) error

	// Close releases the view.
	Close() error
}

// Compactor is implemented by engines that can reclaim space on request. Compact returns when the
// space is reclaimed; reads and writes go on meanwhile.
type Compactor interface {
	Compact() error
}

// Stats are sizes in bytes.
type Stats struct {
	// DiskBytes is the size of all files of the engine, obsolete ones included.
	DiskBytes int64
	// LiveBytes is DiskBytes less what is known to be reclaimable, an estimate. LiveBytes <= DiskBytes.
	LiveBytes int64
	// MemoryBytes is what the engine holds in memory for data not yet flushed and for caches.
	MemoryBytes int64
}
