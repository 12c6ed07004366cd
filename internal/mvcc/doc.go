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
//	 leaf [item item item ...] + a bit for each item: exists or not
//	        |
//	       key -> version(rev 9) -> version(rev 4) -> nil
//	                 kv: encoded mvccpb.KeyValue    kv: nil, read from the engine by revision
//
// What is stored for a revision is exactly the encoded mvccpb.KeyValue that clients receive. Ranges,
// watches, transactions and the engine share those bytes; none of them modifies them.
package mvcc

import "errors"

var (
	// ErrCompacted says that the revision asked for is older than the last compaction.
	ErrCompacted = errors.New("mvcc: required revision has been compacted")
	// ErrFuture says that the revision asked for has not happened yet.
	ErrFuture = errors.New("mvcc: required revision is a future revision")
)
