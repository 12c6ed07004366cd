package embed

import (
	"net"
	"strings"
)

// args returns the configuration as a command line, so that it passes the same checks.
func (c *Config) args() []string {
	orListen := func(advertise, listen []string) string {
		if len(advertise) > 0 {
			listen = advertise
		}
		return strings.Join(listen, ",")
	}
	peers := orListen(c.AdvertisePeerURLs, c.ListenPeerURLs)
	var alone []string
	for u := range strings.SplitSeq(peers, ",") {
		alone = append(alone, c.Name+"="+u)
	}
	args := []string{
		"--name=" + c.Name,
		"--data-dir=" + c.DataDir,
		"--storage-engine=" + c.StorageEngine,
		"--listen-client-urls=" + strings.Join(c.ListenClientURLs, ","),
		"--advertise-client-urls=" + orListen(c.AdvertiseClientURLs, c.ListenClientURLs),
		"--listen-peer-urls=" + strings.Join(c.ListenPeerURLs, ","),
		"--initial-advertise-peer-urls=" + peers,
		"--initial-cluster=" + strings.Join(alone, ","),
	}
	return append(args, c.Flags...)
}

// endpoint returns a URL that a listener is bound to as clients on this machine reach it: at the loopback if
// it is bound to all addresses.
func endpoint(bound string) string {
	scheme, addr, found := strings.Cut(bound, "://")
	if !found {
		return bound // a socket file
	}
	host, port, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		addr = net.JoinHostPort("localhost", port)
	}
	return scheme + "://" + addr
}

// plain returns the URLs without TLS.
func plain(urls []string) (all []string) {
	for _, u := range urls {
		if !strings.HasPrefix(u, "https:") && !strings.HasPrefix(u, "unixs:") {
			all = append(all, u)
		}
	}
	return all
}
