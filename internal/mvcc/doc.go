// Package mvcc keeps every revision of every key: which keys exist, what they held at which revision,
// and what of that compaction has taken away.
//
// A Store is the side that changes. It has one owner, the applier, and no lock, goroutine or clock. A
// View is the side that is read: a root of the key index and a revision, immutable, one a turn.
//
// The key index is a counted copy-on-write B+tree of items. An item is a key with the chain of its
// versions, newest first. Putting a key that exists changes no tree node: the new version is prepended
// to the chain with one atomic store, and a reader of an older View walks past it. Only a key that
// appears, disappears or comes back changes the tree, because then counts change.
//
//	View{root, revision}
//	   |
//	 inner ---- live = number of keys that exist at this root's revision
//	   |
//	 leaf [item item item ...] + for each item a bit, exists or not, and four bytes of its key
//	        |
//	       version(rev 9) ------------> version(rev 4) -> nil
//	         encoded mvccpb.KeyValue,     a summary; the value is read from the engine by revision
//	         which begins with the key
//
// What is stored for a revision is exactly the encoded mvccpb.KeyValue that clients receive. Ranges,
// watches, transactions and the engine share those bytes; none of them modifies them. The index has no
// copy of a key either: what a key costs besides its encoded KeyValue is an item of 8 bytes, a version of 32
// and its share of a leaf (BenchmarkMemory).
package mvcc

import "errors"

var (
	// ErrCompacted says that the revision asked for is older than the last compaction.
	ErrCompacted = errors.New("mvcc: required revision has been compacted")
	// ErrFuture says that the revision asked for has not happened yet.
	ErrFuture = errors.New("mvcc: required revision is a future revision")
)
