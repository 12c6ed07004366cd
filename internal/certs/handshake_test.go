package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dolmen-io/dolmen/internal/certs/certstest"
)

// hosts is a Resolver of a few names.
type hosts map[string]string

func (h hosts) LookupAddr(_ context.Context, ip string) (names []string, err error) {
	for name, address := range h {
		if address == ip {
			names = append(names, name+".")
		}
	}
	return names, nil
}

func (h hosts) LookupHost(_ context.Context, name string) ([]string, error) {
	if h[name] == "" {
		return nil, errors.New("no such host")
	}
	return []string{h[name]}, nil
}

// fixture is a store whose files are in a directory, and the authority that signed them.
type fixture struct {
	*Store
	ca   *certstest.Authority
	own  *certstest.Pair
	dir  string
	logs *observer.ObservedLogs
}

// paths are the names under which a fixture keeps its files.
const caFile, crlFile = "ca.crt", "revoked.crl"

func newConfig(t *testing.T) (Config, *observer.ObservedLogs) {
	core, logs := observer.New(zapcore.DebugLevel)
	return Config{Role: "client", Logger: zap.New(core), Now: time.Now, Resolver: hosts{}}, logs
}

// open makes a store with a certificate for 127.0.0.1. change adds to it; files that it names must be there.
func open(t *testing.T, change func(*fixture, *Config)) *fixture {
	t.Helper()
	f := &fixture{ca: certstest.NewAuthority(t, "authority"), dir: t.TempDir()}
	f.own = f.ca.Issue("server", []string{"127.0.0.1"})
	var cfg Config
	cfg, f.logs = newConfig(t)
	cfg.CertFile, cfg.KeyFile = f.own.Write(f.dir, "server")
	if change != nil {
		change(f, &cfg)
	}
	var err error
	f.Store, err = Open(cfg)
	require.NoError(t, err)
	return f
}

// trust demands certificates of the fixture's authority.
func trust(f *fixture, cfg *Config) {
	cfg.TrustedCAFile = certstest.Write(f.ca.TB(), f.dir, caFile, f.ca.PEM())
}

// shake connects a client to a server and returns what each says of it.
func shake(t *testing.T, server, client *tls.Config) (state tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, ln.Close()) }()
	type result struct {
		state tls.ConnectionState
		err   error
	}
	served := make(chan result, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			served <- result{err: err}
			return
		}
		secure := tls.Server(conn, server)
		err = secure.HandshakeContext(t.Context())
		if err == nil {
			_, err = secure.Write([]byte{1})
		}
		served <- result{secure.ConnectionState(), err}
		_ = secure.Close()
	}()
	conn, clientErr := tls.Dial("tcp", ln.Addr().String(), client)
	if clientErr == nil {
		// With TLS 1.3 a client learns with the first answer that it was refused, and then gets tickets.
		var n int
		if n, clientErr = conn.Read(make([]byte, 1)); n == 1 {
			clientErr = nil // what may follow is the end
		}
		_ = conn.Close()
	}
	got := <-served
	return got.state, got.err, clientErr
}

// accepts demands that a client is accepted.
func (f *fixture) accepts(t *testing.T, client *tls.Config) tls.ConnectionState {
	t.Helper()
	state, serverErr, clientErr := shake(t, f.Server(false), client)
	require.NoError(t, serverErr)
	require.NoError(t, clientErr)
	return state
}

// refuses demands that a client is refused with a text.
func (f *fixture) refuses(t *testing.T, client *tls.Config, text string) {
	t.Helper()
	_, serverErr, clientErr := shake(t, f.Server(false), client)
	require.ErrorContains(t, serverErr, text)
	require.Error(t, clientErr)
}

func TestHandshakes(t *testing.T) {
	const (
		noCertificate = "tls: client didn't provide a certificate"
		badAuthority  = "x509: certificate signed by unknown authority"
		notAllowed    = "client certificate authentication failed"
	)
	trusting := func(more func(*Config)) func(*fixture, *Config) {
		return func(f *fixture, cfg *Config) {
			trust(f, cfg)
			if more != nil {
				more(cfg)
			}
		}
	}
	as := func(cn string, hosts ...string) func(*fixture) *tls.Config {
		return func(f *fixture) *tls.Config { return f.ca.Client(f.ca.Issue(cn, hosts)) }
	}
	nobody := func(f *fixture) *tls.Config { return f.ca.Client(nil) }
	stranger := func(f *fixture) *tls.Config {
		return f.ca.Client(certstest.NewAuthority(t, "another").Issue("stranger", nil))
	}
	expired := func(f *fixture) *tls.Config {
		return f.ca.Client(f.ca.Issue("late", nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }))
	}
	version := func(v uint16) func(*fixture) *tls.Config {
		return func(f *fixture) *tls.Config {
			cfg := f.ca.Client(nil)
			cfg.MinVersion, cfg.MaxVersion = v, v
			return cfg
		}
	}
	suite := func(id uint16) func(*fixture) *tls.Config {
		return func(f *fixture) *tls.Config {
			cfg := version(tls.VersionTLS12)(f)
			cfg.CipherSuites = []uint16{id}
			return cfg
		}
	}
	addressed := []string{"127.0.0.1"}
	for name, test := range map[string]struct {
		server       func(*fixture, *Config)
		client       func(*fixture) *tls.Config
		checkAddress bool
		refused      string // "" if it is accepted
	}{
		"nobody is asked":                {nil, nobody, false, ""},
		"a certificate nobody asked for": {nil, stranger, false, ""},
		"a good certificate":             {trusting(nil), as("a"), false, ""},
		"no certificate":                 {trusting(nil), nobody, false, noCertificate},
		"another authority":              {trusting(nil), stranger, false, badAuthority},
		"expired":                        {trusting(nil), expired, false, "x509: certificate has expired"},
		"the system's authorities": {
			func(_ *fixture, cfg *Config) { cfg.ClientCertAuth = true }, as("a"), false, badAuthority},
		"the system's authorities, none shown": {
			func(_ *fixture, cfg *Config) { cfg.ClientCertAuth = true }, nobody, false, noCertificate},

		"an allowed name":      {trusting(func(c *Config) { c.AllowedCNs = []string{"a", "b"} }), as("b"), false, ""},
		"a name not allowed":   {trusting(func(c *Config) { c.AllowedCNs = []string{"a", "b"} }), as("c"), false, notAllowed},
		"an allowed host":      {trusting(func(c *Config) { c.AllowedHostnames = []string{"x", "y.z"} }), as("a", "*.z"), false, ""},
		"a host not allowed":   {trusting(func(c *Config) { c.AllowedHostnames = []string{"x"} }), as("x", "y"), false, notAllowed},
		"names without demand": {func(_ *fixture, c *Config) { c.AllowedCNs = []string{"a"} }, nobody, false, ""},

		"its address":            {trusting(nil), as("a", addressed...), true, ""},
		"no address at all":      {trusting(nil), as("a"), true, ""},
		"nobody has no address":  {nil, nobody, true, ""},
		"another address":        {trusting(nil), as("a", "127.0.0.9"), true, "x509: certificate is valid for 127.0.0.9, not 127.0.0.1"},
		"addresses do not count": {trusting(nil), as("a", "127.0.0.9"), false, ""},
		"another name": {trusting(nil), as("a", "b.test"), true,
			`tls: "127.0.0.1" does not match any of DNSNames ["b.test"] (no such host)`},
		"its name": {trusting(func(c *Config) { c.Resolver = hosts{"a.test": "127.0.0.1"} }), as("a", "a.test"), true, ""},

		"TLS 1.2":          {nil, version(tls.VersionTLS12), false, ""},
		"TLS 1.3":          {nil, version(tls.VersionTLS13), false, ""},
		"below the lowest": {func(_ *fixture, c *Config) { c.MinVersion = tls.VersionTLS13 }, version(tls.VersionTLS12), false, "unsupported versions"},
		"above the highest": {func(_ *fixture, c *Config) { c.MaxVersion = tls.VersionTLS12 }, version(tls.VersionTLS13), false,
			"unsupported versions"},
		"TLS 1.1": {nil, version(tls.VersionTLS11), false, "unsupported versions"},
		"a listed suite": {
			func(_ *fixture, c *Config) { c.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256} },
			suite(tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256), false, ""},
		"a suite not listed": {
			func(_ *fixture, c *Config) { c.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256} },
			suite(tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384), false, "no cipher suite supported"},
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t, test.server)
			_, serverErr, clientErr := shake(t, f.Server(test.checkAddress, "h2"), test.client(f))
			if test.refused == "" {
				require.NoError(t, serverErr)
				require.NoError(t, clientErr)
				return
			}
			require.ErrorContains(t, serverErr, test.refused)
			require.Error(t, clientErr)
		})
	}
}

// TestVerifiedChain: what authentication reads of a connection.
func TestVerifiedChain(t *testing.T) {
	f := open(t, trust)
	state := f.accepts(t, f.ca.Client(f.ca.Issue("alice", nil)))
	require.Equal(t, "alice", state.VerifiedChains[0][0].Subject.CommonName)
}

func TestRevocation(t *testing.T) {
	for name, write := range map[string]func(*certstest.Authority, ...*certstest.Pair) []byte{
		"DER": (*certstest.Authority).Revoke,
		"PEM": (*certstest.Authority).RevokePEM,
		"two lists in PEM": func(a *certstest.Authority, revoked ...*certstest.Pair) []byte {
			return slices.Concat(a.RevokePEM(), a.RevokePEM(revoked...))
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t, func(f *fixture, cfg *Config) {
				trust(f, cfg)
				cfg.CRLFile = certstest.Write(t, f.dir, crlFile, write(f.ca))
			})
			good, bad := f.ca.Issue("good", nil), f.ca.Issue("bad", nil, func(c *x509.Certificate) { c.SerialNumber.SetInt64(0xabcdef) })
			f.accepts(t, f.ca.Client(bad))
			certstest.Write(t, f.dir, crlFile, write(f.ca, bad))
			f.refuses(t, f.ca.Client(bad), "transport: certificate serial abcdef revoked")
			f.accepts(t, f.ca.Client(good))
		})
	}
}

// TestResumption: a session that began before a change does not outlive it.
func TestResumption(t *testing.T) {
	for name, change := range map[string]func(f *fixture, pair *certstest.Pair){
		"authority": func(f *fixture, _ *certstest.Pair) {
			certstest.Write(f.ca.TB(), f.dir, caFile, certstest.NewAuthority(f.ca.TB(), "next").PEM())
		},
		"revocation": func(f *fixture, pair *certstest.Pair) {
			certstest.Write(f.ca.TB(), f.dir, crlFile, f.ca.Revoke(pair))
		},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(name+" "+tls.VersionName(version), func(t *testing.T) {
				f := open(t, func(f *fixture, cfg *Config) {
					trust(f, cfg)
					cfg.CRLFile = certstest.Write(t, f.dir, crlFile, f.ca.Revoke())
				})
				pair := f.ca.Issue("a", nil)
				server, client := f.Server(false), f.ca.Client(pair)
				client.MaxVersion, client.ClientSessionCache = version, tls.NewLRUClientSessionCache(1)
				for i := range 2 {
					state, serverErr, clientErr := shake(t, server, client)
					require.NoError(t, errors.Join(serverErr, clientErr))
					require.Equal(t, i == 1, state.DidResume)
				}
				change(f, pair)
				_, serverErr, _ := shake(t, server, client)
				require.Error(t, serverErr)
			})
		}
	}
}

func TestCallingServers(t *testing.T) {
	for name, test := range map[string]struct {
		change  func(*fixture, *Config)
		refused string
	}{
		"trusted":                   {trust, ""},
		"not trusted":               {nil, "x509: certificate signed by unknown authority"},
		"trusting anybody":          {func(_ *fixture, c *Config) { c.TrustAnyServer = true }, ""},
		"by the name that all have": {func(f *fixture, c *Config) { trust(f, c); c.ServerName = "127.0.0.1" }, ""},
		"not by that name": {func(f *fixture, c *Config) { trust(f, c); c.ServerName = "cluster.test" },
			"wanted to match cluster.test"},
		"an allowed name": {func(f *fixture, c *Config) { trust(f, c); c.AllowedCNs = []string{"server"} }, ""},
		"a name not allowed": {func(f *fixture, c *Config) { trust(f, c); c.AllowedCNs = []string{"x"} },
			"client certificate authentication failed"},
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t, test.change)
			client := f.Client()
			if client.ServerName == "" {
				client.ServerName = "127.0.0.1"
			}
			server := &tls.Config{Certificates: []tls.Certificate{f.own.TLS()}, MinVersion: tls.VersionTLS12}
			_, _, err := shake(t, server, client)
			if test.refused == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, test.refused)
			}
		})
	}
}

// TestShownCertificate: a client shows its own certificate if it has one, the server's otherwise, and always
// the newest.
func TestShownCertificate(t *testing.T) {
	for _, own := range []bool{false, true} {
		f := open(t, func(f *fixture, cfg *Config) {
			trust(f, cfg)
			if own {
				cfg.ClientCertFile, cfg.ClientKeyFile = f.ca.Issue("client", nil).Write(f.dir, "client")
			}
		})
		shown := func(client *tls.Config) string {
			client.ServerName = "127.0.0.1"
			return f.accepts(t, client).PeerCertificates[0].Subject.CommonName
		}
		client := f.Client()
		if !own {
			require.Equal(t, "server", shown(client))
			continue
		}
		require.Equal(t, "client", shown(client))
		f.ca.Issue("renewed", nil).Write(f.dir, "client")
		require.Equal(t, "renewed", shown(client))
		require.Equal(t, "renewed", shown(f.Loopback()))
	}
}

func TestLoopback(t *testing.T) {
	f := open(t, trust)
	f.accepts(t, f.Loopback())
	f.ca.Issue("renewed", []string{"elsewhere"}).Write(f.dir, "server")
	f.accepts(t, f.Loopback())
	other := open(t, trust)
	_, _, err := shake(t, other.Server(false), f.Loopback())
	require.ErrorIs(t, err, errNotOwn)
}

func TestCheckAddress(t *testing.T) {
	resolver := hosts{"a.one.test": "10.0.0.1", "b.test": "10.0.0.2"}
	ca := certstest.NewAuthority(t, "authority")
	for _, test := range []struct {
		ip      string
		hosts   []string
		refused string
	}{
		{"10.0.0.1", nil, ""},
		{"10.0.0.1", []string{"10.0.0.1"}, ""},
		{"10.0.0.1", []string{"10.0.0.2"}, "x509: certificate is valid for 10.0.0.2, not 10.0.0.1"},
		{"10.0.0.1", []string{"10.0.0.2", "a.one.test"}, ""},
		{"10.0.0.1", []string{"*.one.test"}, ""},
		{"10.0.0.1", []string{"*.two.test"}, `tls: "10.0.0.1" does not match any of DNSNames ["*.two.test"]`},
		{"10.0.0.2", []string{"unknown.test", "b.test"}, ""},
		{"10.0.0.3", []string{"b.test"}, `tls: "10.0.0.3" does not match any of DNSNames ["b.test"]`},
		{"10.0.0.3", []string{"b.test", "c.test"}, `tls: "10.0.0.3" does not match any of DNSNames ["b.test" "c.test"] (no such host)`},
	} {
		err := checkAddress(t.Context(), resolver, ca.Issue("x", test.hosts).Certificate, test.ip)
		if test.refused == "" {
			require.NoError(t, err, "%v", test)
		} else {
			require.EqualError(t, err, test.refused, "%v", test)
		}
	}
}

// TestSocketFile: a socket file has no address to compare.
func TestSocketFile(t *testing.T) {
	f := open(t, nil)
	leaf := f.ca.Issue("x", []string{"10.0.0.1"}).Certificate
	require.NoError(t, f.checkAddress(t.Context(), leaf, &net.UnixAddr{Name: "@", Net: "unix"}))
}
