// Package robustness kills, stops, cuts off and starves real servers under load and looks for what they had acknowledged.
//
// A single server (TestKillUnderLoad): writers put unique values, write pairs of keys in one transaction, delete, and attach
// keys to leases, and note every answer. At a moment drawn from a seed the server gets SIGKILL. After its restart the history
// of the round, read through a watch, must contain each acknowledged write at its revision, hold no revision of two writes,
// no half of a transaction and nothing that nobody wrote; and the store as a whole must be what the histories of all rounds
// add up to.
//
// A cluster is a world: processes behind proxies that cut or delay each way between two members (network, proxy), on disks
// whose fsyncs are held in the kernel (slowDisk) and that can be full (fill). Clients, holders of leases and watchers keep
// journals. When the faults are over, settle holds against each other what clients were told, what watchers were told and
// what the members have:
//
//	check_linear.go   porcupine finds an order of the operations on each key that explains all answers
//	check_answers.go  each answer is what the store was at the revision that it names; none is older than what somebody knew;
//	                  an acknowledged write is there, and each write happened once and as a whole
//	watcher.go        watches tell of each revision once, in order, without a gap over lost connections
//	check_lease.go    no lease ends before the time that was promised, and every one ends
//	settle.go         every member has the same HashKV and the same keys
//
// The faults of TestRandomFaults are drawn from a seed, and so are the operations of each client; when they meet is up to the
// processes. A failure shows the seed and what struck whom when, and the members' logs are kept.
//
// A killed process leaves the page cache behind, so these tests say nothing about a missing fsync.
package robustness
