// Package node is one running member. It is the only package that knows all the others: it opens what is
// on disk, wires the parts, runs their goroutines, and stops them in reverse order.
//
// The way of a write: etcdapi calls Propose, which registers the request and hands it to consensus; the
// log writer makes it durable; the applier takes it from consensus, applies it to state, publishes the
// events to the watch hub, and wakes the proposer with the result.
package node

import "errors"

var (
	// ErrForeign says that a data directory holds something that this version cannot open.
	ErrForeign = errors.New("the data directory cannot be used")
	// ErrMismatch says that the data directory belongs to a member that is configured otherwise.
	ErrMismatch = errors.New("the data directory does not fit the configuration")
)
