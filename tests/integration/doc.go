// Package integration uses ours the way programs do: through the packages of etcd's Go client, and through etcdctl.
//
// The client packages are tested for what they promise (a mutex excludes, an election has one leader). etcdctl runs
// the same commands against ours and against etcd, and its output is compared with ids and times masked.
package integration
