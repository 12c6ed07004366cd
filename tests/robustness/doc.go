// Package robustness kills real servers under load and looks for what they had acknowledged.
//
// Writers put unique values, write pairs of keys in one transaction, delete, and attach keys to leases, and note every
// answer. At a moment drawn from a seed the server gets SIGKILL. After its restart the history of the round, read
// through a watch, must contain each acknowledged write at its revision, hold no revision of two writes, no half of a
// transaction and nothing that nobody wrote; and the store as a whole must be what the histories of all rounds add up to.
//
// A killed process leaves the page cache behind, so these tests say nothing about a missing fsync.
package robustness
