// Package harness runs real server processes for tests: ours and etcd 3.7.3.
//
// A Server is one member started from a binary on free loopback ports with a data directory of its own. It can be
// killed with SIGKILL, started again on the same data, and stopped cleanly. Every server advertises the same peer and
// client URLs whatever port it listens on, so that cluster and member ids, which etcd derives from those URLs, are equal
// on all of them and answers can be compared literally.
//
// A Cluster is several such members that know each other. They keep their addresses over their starts, can be paused, and
// more of them can join.
//
// Environment:
//
//	DOLMEN_TEST_SUBJECT  "dolmen" (default) or "etcd": what Subject starts. With "etcd" the comparing tests run
//	                     etcd against etcd, which shows that a test is deterministic.
//	DOLMEN_TEST_ENGINE   engine of ours: "pebble" (default) or "memory", or "rocksdb" if the tests are built with the
//	                     tag rocksdb, as our program then is too.
//	DOLMEN_BINARY, ETCD_BINARY, ETCDCTL_BINARY, ETCDUTL_BINARY
//	                     a ready binary instead of one built from source.
package harness
