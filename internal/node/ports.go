package node

import (
	"net"
	"net/url"
	"strconv"

	"github.com/dolmen-io/dolmen/internal/config"
)

// bound returns the configuration with the ports that the system chose for listeners on port 0: an
// advertised URL with port 0 gets the port of the first such listener of its kind, and so does an initial
// cluster of this member alone. cfg itself is not changed.
func (f *front) bound(cfg *config.Config) *config.Config {
	settled := *cfg
	settled.AdvertiseClientURLs = withPort(cfg.AdvertiseClientURLs, chosenPort(f.client))
	settled.AdvertisePeerURLs = withPort(cfg.AdvertisePeerURLs, chosenPort(f.peer))
	if cfg.InitialCluster == cfg.InitialClusterFromName() {
		settled.InitialCluster = settled.InitialClusterFromName()
	}
	return &settled
}

// chosenPort returns the port of the first listener whose URL left it to the system, "" if there is none.
func chosenPort(listeners []*listener) string {
	for _, l := range listeners {
		if addr, ok := l.Addr().(*net.TCPAddr); ok && l.url.Port() == "0" {
			return strconv.Itoa(addr.Port)
		}
	}
	return ""
}

func withPort(urls []url.URL, port string) []url.URL {
	if port == "" {
		return urls
	}
	out := make([]url.URL, 0, len(urls))
	for _, u := range urls {
		if u.Port() == "0" {
			u.Host = net.JoinHostPort(u.Hostname(), port)
		}
		out = append(out, u)
	}
	return out
}
