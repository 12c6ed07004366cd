// Package certs owns the certificates of a member: it loads them with their keys, the authorities that it
// trusts and the lists of what those have revoked, notices when a file changes, and decides at each handshake
// who may connect.
//
// A [Store] runs nothing by itself. It looks at its files whenever it is used: at each handshake, when its
// metrics are read, and when it is asked for its generation. So a new certificate, authority or revocation
// counts for the next connection. A file that cannot be read or does not parse, because it is half written
// or wrong, changes nothing: what it held before stays in use, one log line says so, and a metric until it
// is good again.
package certs
