// Package concurrency is locks, elections and barriers between processes, kept in Dolmen or in etcd.
//
// A Session is a lease that is kept alive. What is taken through a session is gone with it, so the death
// of a process frees what it held after the session's time to live. Mutex, RWMutex, Semaphore and
// Election hand out a Hold, which has a context: it ends when the hold is released or the session is
// lost, and context.Cause says which. Work done under a hold takes that context.
//
// # Waiting
//
// Who waits, waits in the order of arrival, in a line of keys below the name, each bound to the lease of
// its session. Each waiter watches one key, that of whom it waits for, so one release wakes one waiter
// (or, where all may go on, as readers and those before a barrier, those). A call that ends without
// success takes its key out of the line again. Nothing is re-entrant: a second Lock waits for the
// first, also on one session. All types are safe for concurrent use.
//
// Mutex and Election stand in one line with those of go.etcd.io/etcd/client/v3/concurrency, with
// "etcdctl lock" and "etcdctl elect", and with the Lock and Election services, under the same name. Each
// thing needs a name of its own, and none may continue another's after a slash: the keys of "a/b" would
// stand in the line of "a".
//
// # Fencing
//
// No lock across machines is enough on its own. A process that is stopped for longer than its time to
// live (by the garbage collector, a debugger, a suspended machine) wakes up and writes before it notices
// that it lost the lock. A client that is cut off may notice seconds after the server gave the lock away:
// it counts the time to live from the last answer that it got, and gives the first answer five seconds,
// or its dial timeout and one more. Hold.Token closes that gap. It is the create revision of the key
// that holds, so each holder's is greater than those of all earlier holders under that name:
//
//   - Send the token with each write to the protected resource. The resource keeps the greatest token it
//     has seen, and refuses a write with a smaller one.
//   - If the resource is a key in the same store, put Hold.Guard into the transaction instead: the store
//     then refuses the write when the hold is over.
//   - Readers of an RWMutex overlap, and their tokens are not in the order of their reads: the resource
//     compares a reader's token with the writers' only.
//
// # Errors
//
// Errors wrap one of the sentinels here, the error of the caller's context, or an error of the client.
// What ends because the session does wraps ErrSessionLost or ErrSessionClosed.
package concurrency

import "errors"

var (
	// ErrSessionLost says that the session's lease has expired or was revoked, or that the client could
	// not keep it alive. What the session held is given to others; open another session.
	ErrSessionLost = errors.New("the session is lost: its lease has ended or was not kept alive")
	// ErrSessionClosed says that Session.Close was called.
	ErrSessionClosed = errors.New("the session is closed")
	// ErrLocked is the answer to a Try method when waiting would have been necessary.
	ErrLocked = errors.New("held by another")
	// ErrReleased is the cause with which the context of a Hold ends on release.
	ErrReleased = errors.New("released")
	// ErrNotHeld says that the key of a hold or of a waiter is gone: it was released, or deleted by
	// somebody else, or the session's lease has ended.
	ErrNotHeld = errors.New("not held: its key is gone from the store")
	// ErrNoLeader says that nobody is elected.
	ErrNoLeader = errors.New("nobody is elected")
	// ErrInvalid says that an argument cannot be used.
	ErrInvalid = errors.New("invalid argument")
)
