// Package compat holds what ours and etcd must answer alike.
//
// A scenario is one function that talks to a server through a Recorder. It runs once against etcd 3.7.3 and once
// against ours; each run leaves a transcript of requests, answers and errors, and the two transcripts must be equal.
// Scenarios use the raw gRPC stubs: a client library maps errors and hides fields. The oracle is the running etcd,
// so a scenario states no expectations of its own.
//
// With -endpoint leader or -endpoint follower each side of a scenario, and of the random comparison, is a cluster of three
// members, and the scenario talks to the one in that role (role.go). What depends on the run, as ids and addresses, is shown by
// the member's role, and terms relative to the first one (target.go). Some comparisons run in every role without being asked to:
// the scenarios of members_test.go, and one random sequence for each role.
//
// A realm is a server with users. In matrix_test.go everybody, from nobody to root and with every kind of token and
// certificate, tries every method of etcd's services; the outcomes are etcd's. coverage_test.go names the tests of each
// method, and fails if one is missing.
//
// The random comparison (random_test.go) generates sequences of operations from a seed, runs them in step on both
// servers and shrinks a sequence that shows a difference to a file in testdata/, where it is replayed ever after.
package compat
