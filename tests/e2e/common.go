//go:build e2e

package main

// The tests to run are a package of nothing but tests: naming it here keeps its module and what it needs in go.mod.
import _ "go.etcd.io/etcd/tests/v3/common"
