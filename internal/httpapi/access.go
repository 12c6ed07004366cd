package httpapi

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	"go.uber.org/zap"
)

// access lets through what browsers and proxies may ask of a client URL.
type access struct {
	cfg  Config
	next http.Handler
}

func newAccess(cfg Config, next http.Handler) http.Handler { return &access{cfg, next} }

// allowed reports whether a list has the value, or allows all.
func allowed(list []string, value string) bool {
	return len(list) == 0 || slices.Contains(list, "*") || slices.Contains(list, value)
}

func (a *access) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// The gateway's former name.
	if rest, found := strings.CutPrefix(r.URL.Path, "/v3beta/"); found {
		r.URL.Path = "/v3/" + rest
	}
	if host := hostname(r.Host); r.TLS == nil && !allowed(a.cfg.HostWhitelist, host) {
		a.cfg.Logger.Warn("rejecting HTTP request to prevent DNS rebinding attacks", zap.String("host", host))
		http.Error(w, unknownHost(host), http.StatusMisdirectedRequest)
		return
	}
	if a.losesName(r) {
		http.Error(w, "CommonName of client sending a request against gateway will be ignored and not used as expected", http.StatusBadRequest)
		return
	}
	if origin := r.Header.Get("Origin"); allowed(a.cfg.CORS, "*") {
		addCORS(w, "*")
	} else if allowed(a.cfg.CORS, origin) {
		addCORS(w, origin)
	}
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusOK)
		return
	}
	a.next.ServeHTTP(w, r)
}

// losesName reports whether a client relies on its certificate to say who it is, where that is not seen.
func (a *access) losesName(r *http.Request) bool {
	if r.TLS == nil || a.cfg.Gateway == nil || a.cfg.NamesInCertificates == nil || !strings.HasPrefix(r.URL.Path, "/v3/") ||
		!a.cfg.NamesInCertificates() {
		return false
	}
	return slices.ContainsFunc(r.TLS.VerifiedChains, func(chain []*x509.Certificate) bool {
		return len(chain) > 0 && chain[0].Subject.CommonName != ""
	})
}

func hostname(hostport string) string {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return hostport // it has no port
	}
	return host
}

func addCORS(w http.ResponseWriter, origin string) {
	w.Header().Set("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE")
	w.Header().Set("Access-Control-Allow-Origin", origin)
	w.Header().Set("Access-Control-Allow-Headers", "accept, content-type, authorization")
}

// unknownHost begins with the sentence that tools look for.
func unknownHost(host string) string {
	return fmt.Sprintf(`
etcd received your request, but the Host header was unrecognized.

A page in a browser can reach this member through a name that its author controls (DNS rebinding), so
without TLS only listed names are served. Either use https, or allow this name:
  etcd --host-whitelist %q
`, host)
}
