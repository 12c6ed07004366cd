package node

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/certs"
	"github.com/dolmen-io/dolmen/internal/config"
)

// generatedDir is where generated certificates are, inside the data directory.
const generatedDir = "fixtures"

// The protocols that listeners offer in TLS handshakes.
const (
	protocolHTTP2 = "h2"
	protocolHTTP1 = "http/1.1"
)

// loadCertificates opens what the listeners that speak TLS need. Generated certificates go into the data
// directory, so it must be this member's by now.
func (f *front) loadCertificates(cfg *config.Config) (err error) {
	if cfg.ServesTLS() {
		hosts := hostsOf(cfg.ListenClientURLs, cfg.ListenClientHTTPURLs)
		if f.clientTLS, err = f.openCertificates(cfg, "client", cfg.ClientTLS, hosts); err != nil {
			return err
		}
	}
	// Other members are called with them even if none calls this one over TLS.
	if cfg.PeerTLS.Named() || cfg.PeerTLS.AutoTLS {
		f.peerTLS, err = f.openCertificates(cfg, "peer", cfg.PeerTLS, hostsOf(cfg.ListenPeerURLs))
	}
	return err
}

func hostsOf(lists ...[]url.URL) (hosts []string) {
	for _, u := range slices.Concat(lists...) {
		hosts = append(hosts, u.Host)
	}
	return hosts
}

func (f *front) openCertificates(cfg *config.Config, role string, t config.TLS, hosts []string) (*certs.Store, error) {
	generated := !t.Named()
	if generated {
		dir := filepath.Join(cfg.DataDir, generatedDir, role)
		certFile, keyFile, err := certs.Generate(dir, hosts, cfg.SelfSignedCertValidity, time.Now(), f.lg)
		if err != nil {
			return nil, fmt.Errorf("failed to get %s self-signed certs: %w", role, err)
		}
		// Nobody else's certificate can be verified by it.
		t = config.TLS{CertFile: certFile, KeyFile: keyFile}
		if role == "peer" {
			f.generatedPeers = t
		}
	}
	suites, err := cfg.CipherSuiteIDs()
	if err != nil {
		return nil, err
	}
	lowest, highest, err := cfg.TLSVersions()
	if err != nil {
		return nil, err
	}
	f.lg.Info("starting with "+role+" TLS",
		zap.String("tls-info", fmt.Sprintf("cert = %s, key = %s, client-cert=%s, client-key=%s, trusted-ca = %s, client-cert-auth = %v, crl-file = %s",
			t.CertFile, t.KeyFile, t.ClientCertFile, t.ClientKeyFile, t.TrustedCAFile, t.ClientCertAuth, t.CRLFile)),
		zap.Strings("cipher-suites", cfg.CipherSuites))
	store, err := certs.Open(certs.Config{
		Role:     role,
		CertFile: t.CertFile, KeyFile: t.KeyFile,
		ClientCertFile: t.ClientCertFile, ClientKeyFile: t.ClientKeyFile,
		TrustedCAFile: t.TrustedCAFile, ClientCertAuth: t.ClientCertAuth, CRLFile: t.CRLFile,
		AllowedCNs: t.AllowedCNs, AllowedHostnames: t.AllowedHostnames,
		TrustAnyServer: generated, ServerName: serverName(cfg, role),
		CipherSuites: suites, MinVersion: lowest, MaxVersion: highest,
		Logger: f.lg, Now: time.Now, Resolver: net.DefaultResolver,
	})
	if err != nil {
		return nil, err
	}
	if err := f.registry.Register(store); err != nil {
		return nil, fmt.Errorf("register metrics of certificates: %w", err)
	}
	return store, nil
}

// serverName is what certificates of others must be for, if not for the host in their URL: those of peers for the domain
// that lists them, where no authority of their own vouches for them. It is etcd's rule.
func serverName(cfg *config.Config, role string) string {
	if role == "peer" && cfg.PeerTLS.TrustedCAFile == "" {
		return cfg.Discovery.SRVDomain
	}
	return ""
}

// secureClients is the TLS configuration of a client listener, nil if it speaks none.
func (f *front) secureClients(l *listener, checkAddress bool, protocols ...string) *tls.Config {
	if !l.secure {
		return nil
	}
	return f.clientTLS.Server(checkAddress, protocols...)
}

// LoopbackTLS returns how this process connects to its own client URLs that ask for TLS, nil if none does.
func (m *Member) LoopbackTLS() *tls.Config {
	if m.front.clientTLS == nil {
		return nil
	}
	return m.front.clientTLS.Loopback()
}
