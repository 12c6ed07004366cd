package certs

import (
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/certs/certstest"
)

func TestOpenRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*fixture, *Config)
		text   string
	}{
		"no key":            {func(_ *fixture, c *Config) { c.KeyFile = "" }, "KeyFile and CertFile must both be present[key: , cert: "},
		"no certificate":    {func(_ *fixture, c *Config) { c.CertFile = "" }, "KeyFile and CertFile must both be present[key: "},
		"half a client":     {func(_ *fixture, c *Config) { c.ClientCertFile = "x" }, "ClientKeyFile and ClientCertFile must both be present or both absent: key: , cert: x]"},
		"two kinds of name": {func(_ *fixture, c *Config) { c.AllowedCNs, c.AllowedHostnames = []string{"a"}, []string{"b"} }, `AllowedCNs and AllowedHostnames are mutually exclusive (cns=["a"], hostnames=["b"])`},
		"a missing file":    {func(_ *fixture, c *Config) { c.TrustedCAFile = "/nowhere/ca" }, "cannot load the trusted authorities /nowhere/ca: open /nowhere/ca: no such file or directory"},
		"another key": {func(f *fixture, c *Config) {
			c.KeyFile = certstest.Write(f.ca.TB(), f.dir, "other.key", f.ca.Issue("x", nil).KeyPEM)
		}, "private key does not match public key"},
		"an empty bundle": {func(f *fixture, c *Config) { c.TrustedCAFile = certstest.Write(f.ca.TB(), f.dir, caFile, nil) }, "it holds no PEM block"},
		"a key in a bundle": {func(f *fixture, c *Config) {
			c.TrustedCAFile = certstest.Write(f.ca.TB(), f.dir, caFile, f.own.KeyPEM)
		}, "cannot load the trusted authorities"},
		"no list": {func(f *fixture, c *Config) { c.CRLFile = certstest.Write(f.ca.TB(), f.dir, crlFile, []byte("x")) }, "cannot load the revocation list"},
		"a bad block in a list": {func(f *fixture, c *Config) {
			c.CRLFile = certstest.Write(f.ca.TB(), f.dir, crlFile, append(f.ca.RevokePEM(), "-----BEGIN X509 CRL-----\n"...))
		}, "1 of its 2 PEM blocks are damaged or incomplete"},
		"too large": {func(f *fixture, c *Config) {
			c.CRLFile = certstest.Write(f.ca.TB(), f.dir, crlFile, make([]byte, maxFile+1))
		}, "is larger than 16777216 bytes"},
		"a directory": {func(f *fixture, c *Config) { c.CRLFile = f.dir }, "is a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fixture{ca: certstest.NewAuthority(t, "authority"), dir: t.TempDir()}
			f.own = f.ca.Issue("server", nil)
			cfg, _ := newConfig(t)
			cfg.CertFile, cfg.KeyFile = f.own.Write(f.dir, "server")
			test.change(f, &cfg)
			_, err := Open(cfg)
			require.ErrorContains(t, err, test.text)
			require.ErrorContains(t, err, "TLS for clients: ")
		})
	}
	_, err := Open(Config{})
	require.ErrorContains(t, err, "a store needs")
}

// TestReload replaces each file, in each way in which files get replaced.
func TestReload(t *testing.T) {
	for way, replace := range map[string]func(t *testing.T, path string, content []byte){
		"in place": func(t *testing.T, path string, content []byte) {
			require.NoError(t, os.WriteFile(path, content, 0o600))
		},
		"by renaming": func(t *testing.T, path string, content []byte) {
			require.NoError(t, os.WriteFile(path+".new", content, 0o600))
			require.NoError(t, os.Rename(path+".new", path))
		},
		"through a link": func(t *testing.T, path string, content []byte) {
			target := filepath.Join(t.TempDir(), "target")
			require.NoError(t, os.WriteFile(target, content, 0o600))
			require.NoError(t, os.Symlink(target, path+".new"))
			require.NoError(t, os.Rename(path+".new", path))
		},
	} {
		t.Run(way, func(t *testing.T) {
			f := open(t, func(f *fixture, cfg *Config) {
				trust(f, cfg)
				cfg.CRLFile = certstest.Write(t, f.dir, crlFile, f.ca.Revoke())
			})
			client := f.ca.Issue("client", nil)
			require.Zero(t, f.Generation())
			f.accepts(t, f.ca.Client(client))
			require.Zero(t, f.Generation())

			next := certstest.NewAuthority(t, "next")
			replace(t, filepath.Join(f.dir, caFile), slices.Concat(f.ca.PEM(), next.PEM()))
			require.EqualValues(t, 1, f.Generation())
			mixed := f.ca.Client(next.Issue("client", nil))
			f.accepts(t, mixed)
			replace(t, filepath.Join(f.dir, caFile), next.PEM())
			f.refuses(t, f.ca.Client(client), "x509: certificate signed by unknown authority")
			f.accepts(t, mixed)
			require.EqualValues(t, 2, f.Generation())

			renewed := next.Issue("server", []string{"127.0.0.1"})
			replace(t, filepath.Join(f.dir, "server.crt"), renewed.PEM)
			f.accepts(t, mixed) // the key does not fit yet
			replace(t, filepath.Join(f.dir, "server.key"), renewed.KeyPEM)
			pair := next.Issue("client", nil)
			f.accepts(t, next.Client(pair))
			f.refuses(t, mixed, "remote error: tls: bad certificate")
			require.EqualValues(t, 3, f.Generation())

			replace(t, filepath.Join(f.dir, crlFile), next.Revoke(pair))
			f.refuses(t, next.Client(pair), "revoked")
			require.EqualValues(t, 4, f.Generation())
			require.Equal(t, 4, f.logs.FilterMessage("reloaded a TLS file").Len())
		})
	}
}

// TestBadFilesChangeNothing: whatever a file becomes, connections go on as before, and there is one line
// about it.
func TestBadFilesChangeNothing(t *testing.T) {
	const complaint = "cannot reload a TLS file; what it held before stays in use"
	for _, file := range []string{"server.crt", "server.key", caFile, crlFile} {
		for name, spoil := range map[string]func(t *testing.T, path string, content []byte){
			"half written": func(t *testing.T, path string, content []byte) {
				require.NoError(t, os.WriteFile(path, content[:len(content)*2/3], 0o600))
			},
			"emptied": func(t *testing.T, path string, _ []byte) { require.NoError(t, os.WriteFile(path, nil, 0o600)) },
			"nonsense": func(t *testing.T, path string, _ []byte) {
				require.NoError(t, os.WriteFile(path, []byte("nonsense"), 0o600))
			},
			"removed": func(t *testing.T, path string, _ []byte) { require.NoError(t, os.Remove(path)) },
		} {
			t.Run(file+" "+name, func(t *testing.T) {
				f := open(t, func(f *fixture, cfg *Config) {
					// Two authorities: half of the file still is a good one.
					cfg.TrustedCAFile = certstest.Write(t, f.dir, caFile, slices.Concat(certstest.NewAuthority(t, "first").PEM(), f.ca.PEM()))
					cfg.CRLFile = certstest.Write(t, f.dir, crlFile, f.ca.Revoke(f.own))
				})
				path := filepath.Join(f.dir, file)
				content, err := os.ReadFile(path)
				require.NoError(t, err)
				spoil(t, path, content)
				good := f.ca.Client(f.ca.Issue("client", nil))
				for range 2 {
					f.accepts(t, good)
					f.refuses(t, f.ca.Client(f.own), "revoked")
				}
				require.Zero(t, f.Generation())
				require.Equal(t, 1, f.logs.FilterMessage(complaint).Len())
				require.Equal(t, 1.0, f.metric(t, "dolmen_tls_file_outdated", path))

				require.NoError(t, os.WriteFile(path, content, 0o600))
				f.accepts(t, good)
				require.Zero(t, f.Generation())
				require.Equal(t, 0.0, f.metric(t, "dolmen_tls_file_outdated", path))
				require.Equal(t, 1, f.logs.FilterMessage("a TLS file is good again and holds what is in use").Len())
			})
		}
	}
}

// metric returns a series by its name and the value of its label "file".
func (f *fixture) metric(t *testing.T, name, file string) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	require.NoError(t, registry.Register(f.Store))
	families, err := registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				if family.GetName() == name && label.GetName() == "file" && label.GetValue() == file {
					return m.GetGauge().GetValue()
				}
			}
		}
	}
	require.Fail(t, "no such metric", "%s of %s", name, file)
	return 0
}

// TestQuickChange: two changes within the grain of the file system's clock are two changes.
func TestQuickChange(t *testing.T) {
	f := open(t, trust)
	path := filepath.Join(f.dir, caFile)
	before, err := os.Stat(path)
	require.NoError(t, err)
	next := f.ca
	for next.Certificate.Subject.CommonName == "authority" || len(next.PEM()) != int(before.Size()) {
		next = certstest.NewAuthority(t, "next-auth") // of the same length; signatures differ by a byte or two
	}
	require.NoError(t, os.WriteFile(path, next.PEM(), 0o600))
	require.NoError(t, os.Chtimes(path, before.ModTime(), before.ModTime()))
	f.accepts(t, f.ca.Client(next.Issue("client", nil)))
}

// TestUnchangedFilesAreNotRead: once its last change is some time ago, a file's times are enough.
func TestUnchangedFilesAreNotRead(t *testing.T) {
	clock := time.Now().Add(time.Hour)
	f := open(t, func(_ *fixture, cfg *Config) { cfg.Now = func() time.Time { return clock } })
	have := f.latest.Load()
	require.Same(t, have, f.current())
	require.True(t, have.states[0].stamps[0].settled)

	clock = time.Now()
	fresh := open(t, func(_ *fixture, cfg *Config) { cfg.Now = func() time.Time { return clock } })
	have = fresh.latest.Load()
	require.NotSame(t, have, fresh.current())
	require.Zero(t, fresh.Generation())
}

// TestLooksAtOnce: looks that overlap a change tell of it once.
func TestLooksAtOnce(t *testing.T) {
	f := open(t, trust)
	path := filepath.Join(f.dir, caFile)
	for i := range 20 {
		require.NoError(t, os.WriteFile(path+".new", certstest.NewAuthority(t, fmt.Sprint(i)).PEM(), 0o600))
		require.NoError(t, os.Rename(path+".new", path))
		var looks sync.WaitGroup
		for range 8 {
			looks.Go(func() { f.Generation() })
		}
		looks.Wait()
		require.EqualValues(t, i+1, f.Generation())
	}
	require.Equal(t, 20, f.logs.FilterMessage("reloaded a TLS file").Len())
}

// TestCrowdReadsOnce: who comes while the files are looked at waits, and all that wait share one look.
func TestCrowdReadsOnce(t *testing.T) {
	f := open(t, trust)
	synctest.Test(t, func(t *testing.T) {
		f.turn = make(chan struct{}, 1) // of this bubble
		parsed, goOn := 0, make(chan struct{})
		parse := f.units[f.slots.trusted].parse
		f.units[f.slots.trusted].parse = func(contents [][]byte) (any, error) {
			parsed++ // the race detector finds two at once
			<-goOn
			return parse(contents)
		}
		first, second := certstest.NewAuthority(t, "first"), certstest.NewAuthority(t, "second")
		certstest.Write(t, f.dir, caFile, first.PEM())
		go f.current()
		synctest.Wait()
		certstest.Write(t, f.dir, caFile, second.PEM()) // after the look that waits has read
		for range 1000 {
			go func() {
				assert.True(t, f.current().states[f.slots.trusted].value.(*authorities).certs[0].Equal(second.Certificate))
			}()
		}
		synctest.Wait()
		require.Equal(t, 1, parsed)
		close(goOn)
		synctest.Wait()
		require.Equal(t, 2, parsed)
		require.EqualValues(t, 2, f.latest.Load().generation)
	})
}

func TestExpiry(t *testing.T) {
	end := time.Now().Add(time.Hour)
	f := open(t, func(f *fixture, cfg *Config) {
		var bundle []byte
		for i := range maxSeries + 10 {
			ca := f.ca.Issue(fmt.Sprint(i), nil, func(c *x509.Certificate) {
				c.NotAfter, c.SerialNumber = end.Add(time.Duration(-i)*time.Minute), big.NewInt(int64(i+1000))
			})
			bundle = append(bundle, ca.PEM...)
		}
		trust(f, cfg)
		cfg.ClientCertFile, cfg.ClientKeyFile = cfg.CertFile, cfg.KeyFile
		cfg.CRLFile = certstest.Write(t, f.dir, crlFile, f.ca.Revoke())
		certstest.Write(t, f.dir, "bundle.crt", bundle)
	})
	const name = "dolmen_tls_certificate_expiry_seconds"
	require.Equal(t, float64(f.own.Certificate.NotAfter.Unix()), f.metric(t, name, filepath.Join(f.dir, "server.crt")))
	require.Equal(t, float64(f.ca.Certificate.NotAfter.Unix()), f.metric(t, name, filepath.Join(f.dir, caFile)))

	bundle, err := os.ReadFile(filepath.Join(f.dir, "bundle.crt"))
	require.NoError(t, err)
	value, err := parseAuthorities([][]byte{bundle})
	require.NoError(t, err)
	soonest := firstToExpire(value)
	require.Len(t, soonest, maxSeries)
	require.Equal(t, fmt.Sprint(maxSeries+9), soonest[0].Subject.CommonName)
}

func TestTwoRolesShareARegistry(t *testing.T) {
	registry := prometheus.NewRegistry()
	require.NoError(t, registry.Register(open(t, trust).Store))
	require.NoError(t, registry.Register(open(t, func(_ *fixture, cfg *Config) { cfg.Role = "peer" }).Store))
	families, err := registry.Gather()
	require.NoError(t, err)
	require.Len(t, families, 2)
}

func TestGenerate(t *testing.T) {
	dir, now := filepath.Join(t.TempDir(), "fixtures", "client"), time.Now()
	hosts := []string{"127.0.0.1:2379", "localhost:2379", "localhost", "[::1]:2379", ""}
	certFile, keyFile, err := Generate(dir, hosts, 2, now, zap.NewNop())
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "cert.pem"), certFile)
	first, err := parsePair(certFile, keyFile)
	require.NoError(t, err)
	leaf := first.chain[0]
	require.Equal(t, []string{"etcd"}, leaf.Subject.Organization)
	require.Equal(t, []string{"localhost"}, leaf.DNSNames)
	require.Len(t, leaf.IPAddresses, 2)
	require.Equal(t, "P-521", first.curve)
	require.WithinDuration(t, now.Add(2*365*24*time.Hour), leaf.NotAfter, time.Second)
	info, err := os.Stat(keyFile)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	again := func(at time.Time) *parsed {
		_, _, err := Generate(dir, hosts, 2, at, zap.NewNop())
		require.NoError(t, err)
		got, err := parsePair(certFile, keyFile)
		require.NoError(t, err)
		return got
	}
	require.Equal(t, leaf.Raw, again(now).chain[0].Raw, "it is used again")
	require.NotEqual(t, leaf.Raw, again(now.Add(2 * year)).chain[0].Raw, "it has expired")
	require.NoError(t, os.WriteFile(keyFile, []byte("half"), 0o600))
	again(now)
	require.NoError(t, os.Remove(certFile))
	again(now)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 2)

	_, _, err = Generate(dir, hosts, 0, now, zap.NewNop())
	require.EqualError(t, err, "selfSignedCertValidity is invalid,it should be greater than 0")
	blocked := certstest.Write(t, t.TempDir(), "file", nil)
	_, _, err = Generate(filepath.Join(blocked, "x"), hosts, 1, now, zap.NewNop())
	require.ErrorContains(t, err, "generate a certificate")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "taken", "key.pem", "x"), 0o700))
	_, _, err = Generate(filepath.Join(dir, "taken"), hosts, 1, now, zap.NewNop())
	require.ErrorContains(t, err, "generate a certificate")
}

type parsed struct {
	chain []*x509.Certificate
	curve string
}

func parsePair(certFile, keyFile string) (*parsed, error) {
	contents := make([][]byte, 2)
	for i, path := range []string{certFile, keyFile} {
		var err error
		if contents[i], err = os.ReadFile(path); err != nil {
			return nil, err
		}
	}
	pair, err := parseKeyPair(contents)
	if err != nil {
		return nil, err
	}
	chain := pair.(*keyPair).chain
	return &parsed{chain, chain[0].PublicKey.(*ecdsa.PublicKey).Curve.Params().Name}, nil
}
