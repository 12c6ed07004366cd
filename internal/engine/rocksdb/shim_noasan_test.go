//go:build rocksdb && !asan

package rocksdb_test

// sanitized says whether the tests run under the address sanitizer.
const sanitized = false
