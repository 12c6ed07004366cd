package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap"
)

// Resolver looks up names; *net.Resolver does.
type Resolver interface {
	// LookupSRV returns the records of _service._proto.name.
	LookupSRV(ctx context.Context, service, proto, name string) (cname string, records []*net.SRV, err error)
	// LookupNetIP returns the addresses of a host; network is "ip".
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

var (
	// ErrNotListed says that DNS does not list the member that asks.
	ErrNotListed = errors.New("cannot find local etcd member")
	// ErrUnresolved says that DNS lists a member whose host it does not know. Without that one the cluster would be
	// another one; etcd goes on.
	ErrUnresolved = errors.New("cannot resolve a member in SRV records")
)

// Records says whose records are looked up, and who asks.
type Records struct {
	// Domain is where they are, Suffix follows on the services' names after a dash, if it is not empty.
	Domain, Suffix string
	// Name is that of the member that asks, Advertised are its peer URLs.
	Name       string
	Advertised []url.URL
}

// FromDNS returns the members that DNS lists below _etcd-server-ssl._tcp, with https, and _etcd-server._tcp, with http,
// in the form of --initial-cluster. This member is the one whose addresses are those that it advertises, and has its
// name; the others are numbered in the order of their hosts and ports, because names count for nothing there.
//
// Errors: ErrNotListed, ErrUnresolved, those of the look-ups if neither service has a usable record, and URLs that do not agree.
func FromDNS(ctx context.Context, r Resolver, q Records, lg *zap.Logger) (string, error) {
	own, err := resolveAll(ctx, r, q.Advertised)
	if err != nil {
		return "", err
	}
	var members []string
	var failures []error
	seen := map[string]bool{}
	for _, s := range []struct{ scheme, service string }{{"https", "etcd-server-ssl"}, {"http", "etcd-server"}} {
		if q.Suffix != "" {
			s.service += "-" + q.Suffix
		}
		found, err := q.lookup(ctx, r, s.scheme, s.service, own, seen)
		lg.Info("get cluster for "+s.service+" SRV", zap.String("service-scheme", s.scheme), zap.String("service-name", s.service),
			zap.String("server-name", q.Name), zap.String("discovery-srv", q.Domain), zap.Strings("found-cluster", found), zap.Error(err))
		if errors.Is(err, ErrUnresolved) {
			return "", err
		}
		members, failures = append(members, found...), append(failures, err)
	}
	cluster := strings.Join(members, ",")
	switch {
	case len(members) == 0:
		return "", errors.Join(failures...)
	case len(seen) == 0:
		return "", fmt.Errorf("%w %q in SRV records: %s has %s, and none of them is at the addresses of --initial-advertise-peer-urls=%s; "+
			"correct the records or the URLs: %w", ErrNotListed, q.Name, q.Domain, cluster, texts(q.Advertised), errors.Join(failures...))
	}
	for _, u := range q.Advertised {
		if !seen[u.String()] {
			return "", fmt.Errorf("--initial-advertise-peer-urls has %s but missing from --initial-cluster=%s, which the SRV records of %s make; "+
				"correct the records or the URLs", u.String(), cluster, q.Domain)
		}
	}
	return cluster, nil
}

func texts(urls []url.URL) string {
	list := make([]string, 0, len(urls))
	for _, u := range urls {
		list = append(list, u.String())
	}
	return strings.Join(list, ",")
}

// advertised is a URL of this member with the addresses that its host has.
type advertised struct {
	url   url.URL
	addrs []netip.AddrPort
}

func resolveAll(ctx context.Context, r Resolver, urls []url.URL) (all []advertised, err error) {
	for _, u := range urls {
		addrs, err := resolve(ctx, r, u.Hostname(), u.Port())
		if err != nil {
			return nil, fmt.Errorf("resolve %s of --initial-advertise-peer-urls: %w", u.String(), err)
		}
		all = append(all, advertised{u, addrs})
	}
	return all, nil
}

func resolve(ctx context.Context, r Resolver, host, port string) (all []netip.AddrPort, err error) {
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("port %q: %w", port, err)
	}
	addrs := make([]netip.Addr, 1)
	if addrs[0], err = netip.ParseAddr(host); err != nil {
		if addrs, err = r.LookupNetIP(ctx, "ip", host); err != nil {
			return nil, err
		}
	}
	for _, a := range addrs {
		all = append(all, netip.AddrPortFrom(a.Unmap(), uint16(number)))
	}
	return all, nil
}

// lookup returns the members of one service, and notes in seen which URLs of this member are among them. A record of
// this member that cannot be used is left out; the error says why.
func (q Records) lookup(ctx context.Context, r Resolver, scheme, service string, own []advertised, seen map[string]bool) ([]string, error) {
	_, records, err := r.LookupSRV(ctx, service, "tcp", q.Domain)
	if err != nil {
		return nil, fmt.Errorf("error querying DNS SRV records for _%s %w", service, err)
	}
	// They come in a random order.
	records = slices.Clone(records)
	slices.SortFunc(records, func(a, b *net.SRV) int {
		return cmp.Or(strings.Compare(a.Target, b.Target), cmp.Compare(a.Port, b.Port))
	})
	var members []string
	var failures []error
	others := 0
	for _, rec := range records {
		host, port := strings.TrimSuffix(rec.Target, "."), strconv.Itoa(int(rec.Port))
		addrs, err := resolve(ctx, r, host, port)
		if err != nil {
			return nil, fmt.Errorf("%w: _%s._tcp.%s lists %s:%s: %w", ErrUnresolved, service, q.Domain, host, port, err)
		}
		at := scheme + "://" + net.JoinHostPort(host, port)
		mine := slices.IndexFunc(own, func(a advertised) bool {
			return slices.ContainsFunc(a.addrs, func(p netip.AddrPort) bool { return slices.Contains(addrs, p) })
		})
		switch {
		case mine < 0:
			if strconv.Itoa(others) == q.Name {
				others++
			}
			members = append(members, strconv.Itoa(others)+"="+at)
			others++
		case own[mine].url.Scheme != scheme:
			failures = append(failures, fmt.Errorf("bootstrap at %s from DNS for %s has scheme mismatch with expected peer %s",
				at, service, own[mine].url.String()))
		default:
			seen[own[mine].url.String()] = true
			members = append(members, q.Name+"="+at)
		}
	}
	return members, errors.Join(failures...)
}
