// Package consensus is the loop around go.etcd.io/raft: it turns proposals into an ordered, durable, committed log.
//
// One turn of the loop takes everything that waits (proposals, reads, peers' messages, finished writes, applied
// batches), steps it through raft, and hands out what follows from it:
//
//	Propose, ReadIndex, Step, Applied ──> inbox ──> loop ──┬──> log writer: one Log.Append for all that waits
//	                                        ^               ├──> Transport.Send (before our own fsync ends)
//	                                        │               └──> Committed(): batches for the applier
//	                                        └── written, applied ──┘
//
// Two goroutines run here: the loop owns raft (core, tail, queues), the log writer owns the Log. The applier is the
// caller's: it pulls batches from Committed, applies them and says so with Applied; it never waits for the loop.
//
// A Hand drives the same two without goroutines, clock or waiting, for a simulation of many members in one goroutine.
//
// raft runs with asynchronous storage writes, so only entries that are in our own durable log are ever applied. A
// single voter is a cluster of one through the same code.
package consensus
