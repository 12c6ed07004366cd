package node

import "net/http"

func (f *front) handlers(m *Member) error {
	f.clientHandler, f.metricsHandler, f.peerHandler = http.NotFoundHandler(), http.NotFoundHandler(), http.NotFoundHandler()
	return nil
}
