//go:build rocksdb

#include "bridge.h"

#include <string.h>

enum { put, delete, delete_range };

char *dolmen_write(rocksdb_t *db, rocksdb_writeoptions_t *options, rocksdb_writebatch_t *batch, const char *ops,
                   size_t length) {
	const char *end = ops + length;
	while (ops < end) {
		uint32_t key_length, value_length;
		char kind = ops[0];
		memcpy(&key_length, ops + 1, 4);
		memcpy(&value_length, ops + 5, 4);
		const char *key = ops + 9, *value = key + key_length;
		ops = value + value_length;
		switch (kind) {
		case put:
			rocksdb_writebatch_put(batch, key, key_length, value, value_length);
			break;
		case delete:
			rocksdb_writebatch_delete(batch, key, key_length);
			break;
		case delete_range:
			rocksdb_writebatch_delete_range(batch, key, key_length, value, value_length);
			break;
		}
	}
	char *err = NULL;
	rocksdb_write(db, options, batch, &err);
	rocksdb_writebatch_clear(batch);
	return err;
}

dolmen_pinned dolmen_get(rocksdb_t *db, rocksdb_readoptions_t *options, const char *key, size_t length) {
	dolmen_pinned found = {0};
	found.slice = rocksdb_get_pinned(db, options, key, length, &found.err);
	if (found.slice != NULL) {
		found.data = rocksdb_pinnableslice_value(found.slice, &found.length);
	}
	return found;
}

struct dolmen_scan {
	rocksdb_iterator_t *iterator;
	rocksdb_readoptions_t *options;
	char bounds[]; // RocksDB keeps pointers to them
};

dolmen_scan *dolmen_scan_new(rocksdb_t *db, rocksdb_readoptions_t *options, const char *lo, size_t lo_length,
                             const char *hi, size_t hi_length) {
	dolmen_scan *scan = malloc(sizeof(*scan) + lo_length + hi_length);
	if (scan == NULL) {
		rocksdb_readoptions_destroy(options);
		return NULL;
	}
	scan->options = options;
	if (lo != NULL) {
		memcpy(scan->bounds, lo, lo_length);
		rocksdb_readoptions_set_iterate_lower_bound(options, scan->bounds, lo_length);
	}
	if (hi != NULL) {
		memcpy(scan->bounds + lo_length, hi, hi_length);
		rocksdb_readoptions_set_iterate_upper_bound(options, scan->bounds + lo_length, hi_length);
	}
	scan->iterator = rocksdb_create_iterator(db, options);
	return scan;
}

static dolmen_entry current(dolmen_scan *scan) {
	dolmen_entry entry = {0};
	if (rocksdb_iter_valid(scan->iterator)) {
		entry.found = 1;
		entry.key = rocksdb_iter_key(scan->iterator, &entry.key_length);
		entry.value = rocksdb_iter_value(scan->iterator, &entry.value_length);
	}
	return entry;
}

dolmen_entry dolmen_scan_first(dolmen_scan *scan, int reverse) {
	if (reverse) {
		rocksdb_iter_seek_to_last(scan->iterator);
	} else {
		rocksdb_iter_seek_to_first(scan->iterator);
	}
	return current(scan);
}

dolmen_entry dolmen_scan_next(dolmen_scan *scan, int reverse) {
	if (reverse) {
		rocksdb_iter_prev(scan->iterator);
	} else {
		rocksdb_iter_next(scan->iterator);
	}
	return current(scan);
}

char *dolmen_scan_error(dolmen_scan *scan) {
	char *err = NULL;
	rocksdb_iter_get_error(scan->iterator, &err);
	return err;
}

void dolmen_scan_free(dolmen_scan *scan) {
	rocksdb_iter_destroy(scan->iterator);
	rocksdb_readoptions_destroy(scan->options);
	free(scan);
}
