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

// endpoint returns the URL of an address that a listener is bound to. One that is bound to all addresses
// is reached at the loopback.
func endpoint(addr string) string {
	if strings.HasPrefix(addr, "unix:") {
		return addr
	}
	host, port, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		addr = net.JoinHostPort("localhost", port)
	}
	return "http://" + addr
}
