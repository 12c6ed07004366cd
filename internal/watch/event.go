// Package watch knows who waits for which keys and delivers committed events to them.
//
// It is pull all the way: the applier appends the events of a turn to a ring that is bounded in bytes
// and wakes the hub; the hub matches events to watchers and queues them on streams, each queue bounded;
// a watcher that does not fit, or that starts in the past, reads the history by revision at the pace of
// its own client. No watcher can slow a write or grow memory.
package watch

// Event is one change of one key. All slices are immutable and shared by every watcher.
type Event struct {
	// Main and Sub are the revision: Main grows by one a transaction, Sub counts inside it from 0.
	Main, Sub int64
	// Key is the user key.
	Key []byte
	// KV is the encoded mvccpb.KeyValue of the event as clients see it: the whole key-value for a put,
	// key and mod_revision for a delete.
	KV []byte
	// Prev is the encoded key-value that this change replaced, nil when there was none or when it is
	// no longer known because of a compaction.
	Prev []byte
	// Delete is set for a delete.
	Delete bool
}
