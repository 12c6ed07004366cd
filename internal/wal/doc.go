// Package wal is the durable raft log of a member: etcd's write-ahead log, in etcd's format and directory layout, made
// safe to open after any crash and to refuse after any damage.
//
// A log is a directory of segments, named after their sequence number and the index of their first entry:
//
//	member/wal/0000000000000000-0000000000000000.wal   crc, metadata, mark 0, entries, hard states ...
//	member/wal/0000000000000001-00000000000186a3.wal   crc, metadata, hard state, entries, marks ...
//	member/wal/0.tmp                                   the next segment, preallocated
//
// A record is framed by a length of eight bytes, aligned to eight bytes; its checksum covers its data and, through
// the checksum before, everything ahead of it in the log.
//
// What a crash may leave is a record at the end that is not whole: it was never synced, nobody was told of it, and it
// is cut off. Everything else that does not read as it was written is damage, and the log is refused with an error
// that names the file: a member that forgets what it has acknowledged would harm the whole cluster.
package wal
