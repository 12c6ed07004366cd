// What engine.go calls: RocksDB's C API (rocksdb/c.h), with the calls that a read or a commit needs made in one
// step, because each step from Go into C costs some tens of nanoseconds.
//
// Who owns what: memory that Go passes is read during the call and never kept. A char * returned alone, or named
// err, is an error's text or NULL; the caller frees it with rocksdb_free.

#ifndef DOLMEN_ROCKSDB_BRIDGE_H
#define DOLMEN_ROCKSDB_BRIDGE_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <rocksdb/c.h>

// dolmen_write commits the operations packed in ops, through batch, which is empty before and afterwards. Each is
//
//	+----------+-----------------+-------------------+-----+-------+
//	| kind, 1B | key length, 4 B | value length, 4 B | key | value |
//	+----------+-----------------+-------------------+-----+-------+
//
// in this machine's byte order, with the kinds of engine.OpKind.
char *dolmen_write(rocksdb_t *db, rocksdb_writeoptions_t *options, rocksdb_writebatch_t *batch, const char *ops,
                   size_t length);

// A value where RocksDB keeps it. slice is NULL if there is none, and pins the bytes until it is given to
// rocksdb_pinnableslice_destroy.
typedef struct {
	rocksdb_pinnableslice_t *slice;
	const char *data;
	size_t length;
	char *err;
} dolmen_pinned;

dolmen_pinned dolmen_get(rocksdb_t *db, rocksdb_readoptions_t *options, const char *key, size_t length);

// An iterator with what it refers to.
typedef struct dolmen_scan dolmen_scan;

// An entry where RocksDB keeps it, until the next step. found is 0 at the end of the scan.
typedef struct {
	const char *key, *value;
	size_t key_length, value_length;
	int found;
} dolmen_entry;

// dolmen_scan_new returns a scan of the keys in [lo, hi), of which either may be NULL, or NULL if memory is short.
// The options become the scan's.
dolmen_scan *dolmen_scan_new(rocksdb_t *db, rocksdb_readoptions_t *options, const char *lo, size_t lo_length,
                             const char *hi, size_t hi_length);
dolmen_entry dolmen_scan_first(dolmen_scan *scan, int reverse);
dolmen_entry dolmen_scan_next(dolmen_scan *scan, int reverse);

// dolmen_scan_error tells why the scan ended, or returns NULL if it reached its end.
char *dolmen_scan_error(dolmen_scan *scan);
void dolmen_scan_free(dolmen_scan *scan);

#endif
