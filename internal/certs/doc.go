// Package certs owns the certificates of a member: it loads them with their keys, the authorities that it
// trusts and the lists of what those have revoked, notices when a file changes, and decides at each handshake
// who may connect.
package certs
