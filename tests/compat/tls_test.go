package compat

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/dolmen-io/dolmen/internal/certs/certstest"
	"github.com/dolmen-io/dolmen/tests/harness"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// securePair is etcd and the subject with the same certificates and flags.
type securePair struct {
	*harness.Secure
	servers [2]*harness.Server
	// The further addresses of each server, which the flags place; "" without.
	metrics, peers, web [2]string
}

// secureFlags are the flags of one server, for the free addresses that it may use.
type secureFlags func(s *harness.Secure, free []string) []string

func startSecurePair(t *testing.T, secure *harness.Secure, flags secureFlags) *securePair {
	t.Helper()
	p := &securePair{Secure: secure}
	for i, kind := range []harness.Kind{harness.Etcd, harness.Subject()} {
		free := freeAddresses(t, 3)
		p.metrics[i], p.peers[i], p.web[i] = free[0], free[1], free[2]
		p.servers[i] = harness.Start(t, kind, harness.Options{
			NoFsync: true, TLS: secure.Authority.Client(secure.Authority.Issue("harness", []string{"127.0.0.1"})),
			Args: flags(secure, free),
		})
	}
	return p
}

func freeAddresses(t *testing.T, n int) (all []string) {
	t.Helper()
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		all = append(all, ln.Addr().String())
	}
	return all
}

const attemptDeadline = 5 * time.Second

// grpcOutcome says whether a client gets an answer.
func grpcOutcome(ctx context.Context, address string, cfg *tls.Config) string {
	creds := insecure.NewCredentials()
	if cfg != nil {
		creds = credentials.NewTLS(cfg)
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(creds), grpc.WithDisableRetry())
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, attemptDeadline)
	defer cancel()
	_, err = pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("k")})
	switch status.Code(err) {
	case codes.OK:
		return "accepted"
	case codes.Unavailable:
		return "refused"
	}
	return err.Error()
}

// httpOutcome is the status and protocol of an answer.
func httpOutcome(ctx context.Context, url string, cfg *tls.Config, http2 bool) string {
	transport := &http.Transport{TLSClientConfig: cfg.Clone(), ForceAttemptHTTP2: http2}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, attemptDeadline)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err.Error()
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return "no answer"
		}
		return "refused"
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return fmt.Sprintf("%s %d", resp.Proto, resp.StatusCode)
}

// outcomes tries everything that a client may try, with one certificate.
func (p *securePair) outcomes(ctx context.Context, i int, cfg *tls.Config) map[string]string {
	server := p.servers[i]
	return map[string]string{
		"gRPC":               grpcOutcome(ctx, server.Endpoint(), cfg),
		"HTTP/1.1":           httpOutcome(ctx, server.URL()+"/health", cfg, false),
		"HTTP/2":             httpOutcome(ctx, server.URL()+"/health", cfg, true),
		"peer":               httpOutcome(ctx, "https://"+p.peers[i]+"/members", cfg, false),
		"metrics":            httpOutcome(ctx, "https://"+p.metrics[i]+"/metrics", cfg, false),
		"separate, HTTP/1.1": httpOutcome(ctx, "https://"+p.web[i]+"/health", cfg, false),
		"separate, HTTP/2":   httpOutcome(ctx, "https://"+p.web[i]+"/health", cfg, true),
	}
}

// plainOutcomes tries without TLS.
func (p *securePair) plainOutcomes(ctx context.Context, i int) map[string]string {
	return map[string]string{
		"gRPC": grpcOutcome(ctx, p.servers[i].Endpoint(), nil),
		"HTTP": httpOutcome(ctx, "http://"+p.servers[i].Endpoint()+"/health", nil, false),
	}
}

// secureClients are the clients that try every server.
func secureClients(t *testing.T, ca *certstest.Authority) map[string]*tls.Config {
	other := certstest.NewAuthority(t, "another authority")
	at := func(cn string, hosts ...string) *tls.Config { return ca.Client(ca.Issue(cn, hosts)) }
	late := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	onlyServer := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
	foreign := other.Issue("stranger", []string{"127.0.0.1"}).TLS()
	stranger := ca.Client(nil)
	stranger.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &foreign, nil }
	clients := map[string]*tls.Config{
		"nobody":           ca.Client(nil),
		"alice":            at("alice", "127.0.0.1", "alice.test"),
		"bob, no hosts":    at("bob"),
		"from elsewhere":   at("alice", "10.1.2.3"),
		"a server's usage": ca.Client(ca.Issue("alice", []string{"127.0.0.1"}, onlyServer)),
		"expired":          ca.Client(ca.Issue("alice", []string{"127.0.0.1"}, late)),
		"stranger":         stranger,
	}
	for _, version := range []uint16{tls.VersionTLS11, tls.VersionTLS12, tls.VersionTLS13} {
		cfg := at("alice", "127.0.0.1")
		cfg.MinVersion, cfg.MaxVersion = version, version
		clients["alice, "+tls.VersionName(version)] = cfg
	}
	for _, suite := range []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384} {
		cfg := at("alice", "127.0.0.1")
		cfg.MaxVersion, cfg.CipherSuites = tls.VersionTLS12, []uint16{suite}
		clients["alice, "+tls.CipherSuiteName(suite)] = cfg
	}
	return clients
}

// TestSecureConnections: for each set of flags, etcd and ours accept and refuse the same clients.
func TestSecureConnections(t *testing.T) {
	if leftOut(t) {
		return
	}
	asPeer := func(args []string) (all []string) { // the client flags as those of peers
		for _, arg := range args {
			all = append(all, arg, strings.Replace(arg, "--", "--peer-", 1))
		}
		return all
	}
	mutual := func(s *harness.Secure) []string { return s.ArgsWithClients() }
	for name, flags := range map[string]func(s *harness.Secure) []string{
		"server only":          func(s *harness.Secure) []string { return asPeer(s.Args) },
		"authority":            func(s *harness.Secure) []string { return asPeer(append(s.Args, "--trusted-ca-file="+s.CAFile)) },
		"client-cert-auth":     func(s *harness.Secure) []string { return asPeer(mutual(s)) },
		"system's authorities": func(s *harness.Secure) []string { return asPeer(append(s.Args, "--client-cert-auth")) },
		"allowed host": func(s *harness.Secure) []string {
			return append(asPeer(mutual(s)), "--client-cert-allowed-hostname=x.test,alice.test", "--peer-cert-allowed-hostname=alice.test")
		},
		"allowed names": func(s *harness.Secure) []string {
			return append(asPeer(mutual(s)), "--peer-cert-allowed-cn=bob,carol")
		},
		"no addresses": func(s *harness.Secure) []string {
			return append(asPeer(mutual(s)), "--peer-skip-client-san-verification")
		},
		"TLS 1.3":       func(s *harness.Secure) []string { return append(asPeer(mutual(s)), "--tls-min-version=TLS1.3") },
		"up to TLS 1.2": func(s *harness.Secure) []string { return append(asPeer(mutual(s)), "--tls-max-version=TLS1.2") },
		"one suite": func(s *harness.Secure) []string {
			return append(asPeer(mutual(s)), "--cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")
		},
		"generated": func(*harness.Secure) []string { return []string{"--auto-tls", "--peer-auto-tls"} },
	} {
		for _, apart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, HTTP apart %v", name, apart), func(t *testing.T) {
				t.Parallel()
				secure := harness.NewSecure(t)
				p := startSecurePair(t, secure, func(s *harness.Secure, free []string) []string {
					args := append(flags(s), "--listen-metrics-urls=https://"+free[0], "--listen-peer-urls=https://"+free[1])
					if apart {
						args = append(args, "--listen-client-http-urls=https://"+free[2])
					}
					return args
				})
				for who, cfg := range secureClients(t, secure.Authority) {
					cfg.InsecureSkipVerify = name == "generated"
					p.compare(t, who, p.outcomes(t.Context(), 0, cfg), p.outcomes(t.Context(), 1, cfg))
				}
				p.compare(t, "without TLS", p.plainOutcomes(t.Context(), 0), p.plainOutcomes(t.Context(), 1))
			})
		}
	}
}

func (p *securePair) compare(t *testing.T, who string, want, got map[string]string) {
	t.Helper()
	for what, outcome := range want {
		if got[what] != outcome {
			t.Errorf("%s, %s: etcd: %s, ours: %s", who, what, outcome, got[what])
		}
	}
	if *showTranscript {
		t.Logf("%s: %v", who, want)
	}
}

// TestSecureChanges: a renewed certificate and a longer list of revocations count for the next connection. A new
// authority does so for ours; etcd keeps the one of its start.
func TestSecureChanges(t *testing.T) {
	if leftOut(t) {
		return
	}
	for _, apart := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP apart %v", apart), func(t *testing.T) {
			t.Parallel()
			secure := harness.NewSecure(t)
			ca := secure.Authority
			certstest.Write(t, secure.Dir, "crl", ca.Revoke())
			p := startSecurePair(t, secure, func(s *harness.Secure, free []string) []string {
				args := append(s.ArgsWithClients(), "--client-crl-file="+s.Dir+"/crl", "--listen-metrics-urls=https://"+free[0],
					"--peer-crl-file="+s.Dir+"/crl", "--listen-peer-urls=https://"+free[1])
				args = append(args, "--peer-cert-file="+s.Dir+"/server.crt", "--peer-key-file="+s.Dir+"/server.key", "--peer-trusted-ca-file="+s.CAFile)
				if apart {
					args = append(args, "--listen-client-http-urls=https://"+free[2])
				}
				return args
			})
			alice, bob := ca.Issue("alice", []string{"127.0.0.1"}), ca.Issue("bob", []string{"127.0.0.1"})
			try := func(when string, cfg *tls.Config, grpc string) {
				t.Helper()
				want, got := p.outcomes(t.Context(), 0, cfg), p.outcomes(t.Context(), 1, cfg)
				p.compare(t, when, want, got)
				if got["gRPC"] != grpc {
					t.Errorf("%s: %s, want %s", when, got["gRPC"], grpc)
				}
			}
			try("before", ca.Client(alice), "accepted")
			certstest.Write(t, secure.Dir, "crl", ca.Revoke(alice))
			try("revoked", ca.Client(alice), "refused")
			try("not revoked", ca.Client(bob), "accepted")

			ca.Issue("elsewhere", []string{"elsewhere.test"}).Write(secure.Dir, "server")
			try("a certificate for another host", ca.Client(bob), "refused")
			renewed := ca.Client(bob)
			renewed.ServerName = "elsewhere.test"
			try("the renewed certificate", renewed, "accepted")

			next := certstest.NewAuthority(t, "next authority")
			certstest.Write(t, secure.Dir, "ca.crt", append(next.PEM(), ca.PEM()...))
			carol := ca.Client(next.Issue("carol", []string{"127.0.0.1"}))
			carol.ServerName = "elsewhere.test"
			if got := p.outcomes(t.Context(), 1, carol)["gRPC"]; harness.Subject() == harness.Dolmen && got != "accepted" {
				t.Errorf("a client of the added authority: %s", got)
			}
		})
	}
}
