// Package interchange moves data between real etcd and ours, in both directions, and compares all that a client can
// see after each step: keys with their revisions, HashKV, leases with their keys, members, users and roles.
package interchange
