package node

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dolmen-io/dolmen/internal/certs"
	"github.com/dolmen-io/dolmen/internal/certs/certstest"
	"github.com/dolmen-io/dolmen/internal/config"
)

// secureMember is a member that demands certificates of clients.
type secureMember struct {
	*Member
	ca   *certstest.Authority
	dir  string
	logs *observer.ObservedLogs
}

func startSecure(t *testing.T, change func(*secureMember, *config.Config)) *secureMember {
	smallSegments(t)
	s := &secureMember{ca: certstest.NewAuthority(t, "authority"), dir: t.TempDir()}
	cfg := quietConfig(t, config.EngineMemory)
	secure := []url.URL{{Scheme: "https", Host: "127.0.0.1:0"}}
	cfg.ListenPeerURLs, cfg.ListenClientURLs, cfg.ListenMetricsURLs = secure, secure, secure
	cfg.AdvertisePeerURLs, cfg.AdvertiseClientURLs = secure, secure
	cfg.InitialCluster = cfg.InitialClusterFromName()
	tlsFiles := config.TLS{TrustedCAFile: certstest.Write(t, s.dir, "ca.crt", s.ca.PEM()), ClientCertAuth: true}
	tlsFiles.CertFile, tlsFiles.KeyFile = s.ca.Issue("server", []string{"127.0.0.1"}).Write(s.dir, "server")
	cfg.ClientTLS, cfg.PeerTLS = tlsFiles, tlsFiles
	if change != nil {
		change(s, cfg)
	}
	require.NoError(t, cfg.Validate())
	core, logs := observer.New(zapcore.InfoLevel)
	m, err := Open(t.Context(), cfg, zap.New(core))
	require.NoError(t, err)
	s.Member, s.logs = m, logs
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), testPatience)
		defer cancel()
		require.NoError(t, m.Stop(ctx))
	})
	ready(t, m)
	return s
}

func (s *secureMember) client(t *testing.T, endpoint string, cfg *tls.Config) *clientv3.Client {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, TLS: cfg, Logger: zap.NewNop()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// get fetches over HTTP/1.1 or HTTP/2.
func (s *secureMember) get(t *testing.T, cfg *tls.Config, http2 bool, address string) (proto, body string, err error) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: http2}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get(address)
	if err != nil {
		return "", "", err
	}
	b, err := io.ReadAll(resp.Body)
	return resp.Proto, string(b), errors.Join(err, resp.Body.Close())
}

// TestSecureClients: gRPC and HTTP of both versions on one port, for who has a certificate.
func TestSecureClients(t *testing.T) {
	s := startSecure(t, nil)
	endpoint := s.ClientURLs()[0]
	require.True(t, strings.HasPrefix(endpoint, "https://127.0.0.1:"))
	alice := s.ca.Client(s.ca.Issue("alice", []string{"127.0.0.1"}))
	c := s.client(t, endpoint, alice)
	ctx, cancel := context.WithTimeout(t.Context(), testPatience)
	defer cancel()
	watch := c.Watch(ctx, "k", clientv3.WithCreatedNotify())
	require.True(t, (<-watch).Created)
	put, err := c.Put(ctx, "k", "v")
	require.NoError(t, err)
	got, err := c.Get(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, "v", string(got.Kvs[0].Value))
	require.Equal(t, put.Header.Revision, (<-watch).Events[0].Kv.ModRevision)

	metrics := "https://" + s.front.metrics[0].Addr().String()
	peers := "https://" + s.front.peer[0].Addr().String()
	for _, http2 := range []bool{false, true} {
		for address, want := range map[string]string{
			endpoint + "/health": `"health":"true"`, metrics + "/metrics": "dolmen_tls_certificate_expiry_seconds", peers + "/members": "clientURLs",
		} {
			proto, body, err := s.get(t, alice, http2, address)
			require.NoError(t, err)
			require.Equal(t, map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[http2], proto)
			require.Contains(t, body, want)
			_, _, err = s.get(t, s.ca.Client(nil), http2, address)
			require.Error(t, err, "no certificate")
		}
	}
	// Peers and readers of metrics must come from where their certificate says; other clients need not.
	elsewhere := s.ca.Client(s.ca.Issue("bob", []string{"10.9.8.7"}))
	for _, address := range []string{metrics + "/metrics", peers + "/members"} {
		_, _, err = s.get(t, elsewhere, false, address)
		require.Error(t, err)
	}
	_, _, err = s.get(t, elsewhere, false, endpoint+"/health")
	require.NoError(t, err)

	require.Equal(t, 1, s.logs.FilterMessage("serving client traffic securely").Len())
	require.Zero(t, s.logs.FilterMessageSnippet("insecurely").Len())
	for _, role := range []string{"client", "peer"} {
		lines := s.logs.FilterMessage("rejected connection on " + role + " endpoint").All()
		require.NotEmpty(t, lines, role)
		require.Equal(t, zapcore.WarnLevel, lines[0].Level)
		require.Equal(t, "tls: client didn't provide a certificate", lines[0].ContextMap()["error"])
	}
}

// TestSecureAndPlain: one port serves clients of both kinds.
func TestSecureAndPlain(t *testing.T) {
	s := startSecure(t, func(_ *secureMember, cfg *config.Config) {
		cfg.ListenClientURLs = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}, {Scheme: "https", Host: "127.0.0.1:0"}}
		cfg.ListenClientHTTPURLs = []url.URL{{Scheme: "https", Host: "127.0.0.2:0"}, {Scheme: "http", Host: "127.0.0.2:0"}}
	})
	require.Len(t, s.front.client, 1)
	require.Len(t, s.front.web, 1)
	address, web := s.front.client[0].Addr().String(), s.front.web[0].Addr().String()
	require.Equal(t, []string{"http://" + address}, s.ClientURLs())
	alice := s.ca.Client(s.ca.Issue("alice", nil))
	ctx, cancel := context.WithTimeout(t.Context(), testPatience)
	defer cancel()
	for endpoint, cfg := range map[string]*tls.Config{"http://" + address: nil, "https://" + address: alice} {
		_, err := s.client(t, endpoint, cfg).Put(ctx, "k", "v")
		require.NoError(t, err, endpoint)
		_, _, err = s.get(t, cfg, false, endpoint+"/health")
		require.Error(t, err, "HTTP has URLs of its own")
	}
	_, body, err := s.get(t, nil, false, "http://"+web+"/version")
	require.NoError(t, err)
	require.Contains(t, body, serverVersion)
	anyServer := alice.Clone()
	anyServer.ServerName = "127.0.0.1"
	_, body, err = s.get(t, anyServer, true, "https://"+web+"/version")
	require.NoError(t, err)
	require.Contains(t, body, serverVersion)
}

// TestSecureReload: connections follow the files of a running member.
func TestSecureReload(t *testing.T) {
	s := startSecure(t, func(s *secureMember, cfg *config.Config) {
		cfg.ClientTLS.CRLFile = certstest.Write(t, s.dir, "revoked.crl", s.ca.Revoke())
	})
	ctx, cancel := context.WithTimeout(t.Context(), testPatience)
	defer cancel()
	alice := s.ca.Issue("alice", nil)
	get := func(cfg *tls.Config) error {
		_, _, err := s.get(t, cfg, true, s.ClientURLs()[0]+"/health")
		return err
	}
	require.NoError(t, get(s.ca.Client(alice)))
	kept := s.client(t, s.ClientURLs()[0], s.ca.Client(alice))
	_, err := kept.Put(ctx, "k", "v")
	require.NoError(t, err)

	certstest.Write(t, s.dir, "revoked.crl", s.ca.Revoke(alice))
	require.Error(t, get(s.ca.Client(alice)))
	next := certstest.NewAuthority(t, "next")
	certstest.Write(t, s.dir, "ca.crt", next.PEM())
	require.Error(t, get(s.ca.Client(s.ca.Issue("bob", nil))))
	next.Issue("server", []string{"127.0.0.1"}).Write(s.dir, "server")
	require.NoError(t, get(next.Client(next.Issue("alice", nil))))
	_, err = kept.Put(ctx, "k", "v")
	require.NoError(t, err, "what is connected stays so")
}

// TestGeneratedCertificates are made in the data directory and used again.
func TestGeneratedCertificates(t *testing.T) {
	var dir string
	var first []byte
	for range 2 {
		s := startSecure(t, func(_ *secureMember, cfg *config.Config) {
			cfg.ClientTLS, cfg.PeerTLS = config.TLS{AutoTLS: true}, config.TLS{AutoTLS: true}
			if dir == "" {
				dir = cfg.DataDir
			}
			cfg.DataDir = dir
		})
		for _, role := range []string{"client", "peer"} {
			content, err := os.ReadFile(filepath.Join(dir, "fixtures", role, "cert.pem"))
			require.NoError(t, err)
			if role == "client" && first == nil {
				first = content
			} else if role == "client" {
				require.Equal(t, first, content)
			}
		}
		c := s.client(t, s.ClientURLs()[0], s.LoopbackTLS())
		_, err := c.Put(t.Context(), "k", "v")
		require.NoError(t, err)
		require.NoError(t, c.Close())
		ctx, cancel := context.WithTimeout(t.Context(), testPatience)
		require.NoError(t, s.Stop(ctx))
		cancel()
	}
}

func TestOpenRefusesCertificates(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*config.Config)
		text   string
	}{
		"no such file":  {func(c *config.Config) { c.ClientTLS = config.TLS{CertFile: "/nowhere/c", KeyFile: "/nowhere/k"} }, "open /nowhere/c: no such file"},
		"no key":        {func(c *config.Config) { c.PeerTLS = config.TLS{CertFile: "/nowhere/c"} }, "KeyFile and CertFile must both be present"},
		"no validity":   {func(c *config.Config) { c.SelfSignedCertValidity = 0 }, "failed to get client self-signed certs: selfSignedCertValidity is invalid"},
		"cipher suites": {func(c *config.Config) { c.CipherSuites = []string{"x"} }, "unexpected TLS cipher suite"},
		"versions":      {func(c *config.Config) { c.TLSMinVersion = "x" }, "unexpected TLS version"},
	} {
		t.Run(name, func(t *testing.T) {
			smallSegments(t)
			cfg := quietConfig(t, config.EngineMemory)
			cfg.ListenClientURLs = []url.URL{{Scheme: "https", Host: "127.0.0.1:0"}}
			cfg.ClientTLS.AutoTLS = true
			test.change(cfg)
			_, err := Open(t.Context(), cfg, zap.NewNop())
			require.ErrorContains(t, err, test.text)
			noGoroutines(t)
		})
	}
}

// TestPeersThatAreCalledMustHaveAllowedNames: the names that --peer-cert-allowed-* demands are demanded of who is called
// too, not only of who calls.
func TestPeersThatAreCalledMustHaveAllowedNames(t *testing.T) {
	f := &front{lg: zap.NewNop(), peerTLS: &certs.Store{}}
	for name, files := range map[string]config.TLS{
		"common names": {CertFile: "cert", KeyFile: "key", TrustedCAFile: "ca", AllowedCNs: []string{"member"}},
		"host names":   {CertFile: "cert", KeyFile: "key", TrustedCAFile: "ca", AllowedHostnames: []string{"member.example"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config.Default()
			cfg.PeerTLS = files
			info, err := f.peerTLSInfo(cfg)
			require.NoError(t, err)
			require.Equal(t, files.AllowedCNs, info.AllowedCNs)
			require.Equal(t, files.AllowedHostnames, info.AllowedHostnames)
			require.False(t, info.InsecureSkipVerify)
		})
	}
}
