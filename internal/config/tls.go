package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"slices"

	"go.etcd.io/etcd/client/pkg/v3/tlsutil"
	"go.uber.org/zap"
)

// Secure reports whether a URL asks for TLS.
func Secure(u url.URL) bool { return u.Scheme == "https" || u.Scheme == "unixs" }

// Address is what a listening URL is bound to: host and port, or the path of a socket file.
func Address(u url.URL) string {
	if isSocket(u) {
		return u.Host + u.Path
	}
	return u.Host
}

// Named reports whether a certificate or key file is given.
func (t *TLS) Named() bool { return t.CertFile != "" || t.KeyFile != "" }

// ServesTLS reports whether one of the client, HTTP or metrics URLs asks for TLS.
func (c *Config) ServesTLS() bool {
	return slices.ContainsFunc(slices.Concat(c.ListenClientURLs, c.ListenClientHTTPURLs, c.ListenMetricsURLs), Secure)
}

// TLSVersions are the lowest and the highest version as crypto/tls has them, 0 for its own choice.
func (c *Config) TLSVersions() (lowest, highest uint16, err error) {
	if lowest, err = tlsutil.GetTLSVersion(c.TLSMinVersion); err != nil {
		return 0, 0, err
	}
	highest, err = tlsutil.GetTLSVersion(c.TLSMaxVersion)
	return lowest, highest, err
}

// CipherSuiteIDs are the CipherSuites as crypto/tls has them.
func (c *Config) CipherSuiteIDs() ([]uint16, error) {
	if len(c.CipherSuites) == 0 {
		return nil, nil
	}
	return tlsutil.GetCipherSuites(c.CipherSuites)
}

func (c *Config) checkTLS() error {
	lowest, highest, err := c.TLSVersions()
	if err != nil {
		return err
	}
	if highest != 0 && lowest > highest {
		return fmt.Errorf("min version (%s) is greater than max version (%s)", c.TLSMinVersion, c.TLSMaxVersion)
	}
	if lowest == tls.VersionTLS13 && len(c.CipherSuites) > 0 {
		return errors.New("cipher suites cannot be configured when only TLS1.3 is enabled")
	}
	if _, err := c.CipherSuiteIDs(); err != nil {
		return err
	}
	return c.checkCertificates()
}

// checkCertificates refuses URLs that ask for TLS where there is no certificate. The texts are etcd's.
func (c *Config) checkCertificates() error {
	if !c.ClientTLS.Named() && !c.ClientTLS.AutoTLS {
		for _, u := range slices.Concat(c.ListenClientURLs, c.ListenClientHTTPURLs) {
			if Secure(u) {
				return fmt.Errorf("TLS key/cert (--cert-file, --key-file) must be provided for client url %s with HTTPS scheme", u.String())
			}
		}
		if slices.ContainsFunc(c.ListenMetricsURLs, Secure) {
			return errors.New("client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url")
		}
	}
	if !c.PeerTLS.Named() && !c.PeerTLS.AutoTLS {
		for _, u := range c.ListenPeerURLs {
			if Secure(u) {
				return fmt.Errorf("cannot listen on TLS for %s: KeyFile and CertFile are not presented", Address(u))
			}
		}
	}
	return nil
}

// warnOfTLS tells of settings that a URL without TLS, or another setting, leaves without effect.
func (c *Config) warnOfTLS(notices *Notices) {
	for _, one := range []struct {
		role, scheme, flag, field string
		tls                       *TLS
		urls                      []url.URL
	}{
		{"peer", "HTTP", "--peer-client-cert-auth", "peer-url", &c.PeerTLS, c.ListenPeerURLs},
		{"client", "http or unix", "--client-cert-auth", "client-url", &c.ClientTLS,
			slices.Concat(c.ListenClientURLs, c.ListenClientHTTPURLs)},
	} {
		switch {
		case one.tls.AutoTLS && one.tls.Named():
			notices.warn("ignoring " + one.role + " auto TLS since certs given")
		case one.tls.AutoTLS && one.tls.demands():
			notices.warn("a generated certificate serves everybody: ignoring authorities, allowed names and revocations of "+
				one.role+" TLS; to demand certificates give the member its own", zap.String("role", one.role))
		}
		for _, u := range one.urls {
			if Secure(u) {
				continue
			}
			if one.tls.Named() || one.tls.AutoTLS {
				notices.warn("scheme is "+one.scheme+" while key and cert files are present; ignoring key and cert files",
					zap.String(one.field, u.String()))
			}
			if one.tls.ClientCertAuth {
				notices.warn("scheme is "+one.scheme+" while "+one.flag+" is enabled; ignoring client cert auth for this URL",
					zap.String(one.field, u.String()))
			}
		}
	}
}

func (t *TLS) demands() bool {
	return t.ClientCertAuth || t.TrustedCAFile != "" || t.CRLFile != "" || len(t.AllowedCNs) > 0 || len(t.AllowedHostnames) > 0
}
