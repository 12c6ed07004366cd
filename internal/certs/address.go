package certs

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
)

// maxNames is the most DNS names of a client's certificate that are looked up: the certificate is signed by a
// trusted authority, but each name may take the resolver seconds.
const maxNames = 100

// Resolver finds the names of addresses and the addresses of names, as *net.Resolver does.
type Resolver interface {
	LookupAddr(ctx context.Context, address string) (names []string, err error)
	LookupHost(ctx context.Context, host string) (addresses []string, err error)
}

// checkAddress refuses a certificate with addresses or names of which none is the IP address. A certificate
// without any is good everywhere. Rules and texts are etcd's.
func checkAddress(ctx context.Context, r Resolver, leaf *x509.Certificate, ip string) error {
	if len(leaf.IPAddresses) > 0 {
		err := leaf.VerifyHostname(ip)
		if err == nil || len(leaf.DNSNames) == 0 {
			return err
		}
	}
	if len(leaf.DNSNames) == 0 {
		return nil
	}
	found, err := hasName(ctx, r, ip, leaf.DNSNames[:min(len(leaf.DNSNames), maxNames)])
	if found {
		return nil
	}
	if err != nil {
		return fmt.Errorf("tls: %q does not match any of DNSNames %q (%w)", ip, leaf.DNSNames, err)
	}
	return fmt.Errorf("tls: %q does not match any of DNSNames %q", ip, leaf.DNSNames)
}

// hasName reports whether one of the names is the address's, or the address one of a name's. Its error is that
// of the last lookup that failed.
func hasName(ctx context.Context, r Resolver, ip string, allowed []string) (found bool, err error) {
	var names, suffixes []string
	for _, name := range allowed {
		if rest, wildcard := strings.CutPrefix(name, "*"); wildcard && strings.HasPrefix(rest, ".") {
			suffixes = append(suffixes, rest)
		} else {
			names = append(names, name)
		}
	}
	reverse, err := r.LookupAddr(ctx, ip)
	for _, name := range reverse {
		name = strings.TrimSuffix(name, ".")
		if slices.Contains(names, name) || slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(name, s) }) {
			return true, nil
		}
	}
	for _, name := range names {
		addresses, lookupErr := r.LookupHost(ctx, name)
		if lookupErr != nil {
			err = lookupErr
		}
		if slices.Contains(addresses, ip) {
			return true, nil
		}
	}
	return false, err
}
