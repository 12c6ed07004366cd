//go:build rocksdb && asan

package rocksdb_test

const sanitized = true
