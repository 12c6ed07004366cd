// Package sim runs a whole cluster in one goroutine, from one seed, and checks that what it does is right.
//
// Its members are internal/consensus, driven by hand, and internal/state over an engine in memory: the code that a
// real member steps and applies with. The world around them is simulated. A scheduler holds what is going to happen,
// in the order of simulated time; nothing else makes anything happen, and everything random comes from the seed:
//
//	        clients, watchers, operator              nemesis
//	                 │ requests                         │ crashes, partitions, slow disks, skewed clocks
//	                 v                                  v
//	member: state <── batches ── consensus ── messages ──> network: loss, delay, duplicates, order
//	                 │               │
//	                 v               v
//	disk:          engine           log: what was not synced may be gone after a crash
//
// Checkers look at all of it from outside, each in a file of its own that begins with check. The first violation ends
// the run with a Failure, which names the seed, the step and what happened last; the same seed fails in the same way.
//
// raft takes its election timeouts from crypto/rand.Reader, which belongs to the process. Run puts a reader of the
// seed in its place while it runs and holds a lock meanwhile, so seeds of one process run one after the other; for
// more of them at a time there are processes. A program that runs simulations must do nothing else that needs
// randomness at the same time.
package sim
