package node

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strings"

	"github.com/dolmen-io/dolmen/internal/certs"
)

// newPeerClient returns a client for what members ask each other. certificates, which may be nil, are those of --peer-*.
func newPeerClient(certificates *certs.Store) *http.Client {
	transport := newPeerTransport(certificates, "tcp")
	sockets := newPeerTransport(certificates, "unix")
	transport.RegisterProtocol("unix", overSockets{sockets})
	transport.RegisterProtocol("unixs", overSockets{sockets})
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// newPeerTransport returns what reaches members on a network: "tcp", or "unix", where a URL's host and port are the name
// of a socket.
func newPeerTransport(certificates *certs.Store, network string) *http.Transport {
	t := &http.Transport{} // no proxy: the environment's are not for members
	if network == "unix" {
		t.DisableKeepAlives = true // nobody would close those that the client of all networks does not know
	}
	t.DialContext = func(ctx context.Context, _, address string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	if certificates != nil {
		t.DialTLSContext = func(ctx context.Context, _, address string) (net.Conn, error) {
			// From the files as they are now.
			return (&tls.Dialer{Config: certificates.Client()}).DialContext(ctx, network, address)
		}
	}
	return t
}

// overSockets sends requests whose URL begins with unix or unixs, which http.Transport does not know.
type overSockets struct{ transport *http.Transport }

// RoundTrip implements http.RoundTripper.
func (o overSockets) RoundTrip(req *http.Request) (*http.Response, error) {
	address := *req.URL
	address.Scheme = strings.Replace(address.Scheme, "unix", "http", 1)
	changed := req.WithContext(req.Context()) // a round tripper leaves its request as it is
	changed.URL = &address
	return o.transport.RoundTrip(changed)
}
