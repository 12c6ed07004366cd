package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"slices"
)

// errNotAllowed is etcd's text for a certificate without an allowed name.
var errNotAllowed = errors.New("client certificate authentication failed")

// errNotOwn says that somebody else answers at this member's own address.
var errNotOwn = errors.New("certs: the server does not show this member's own certificate")

// Server returns the configuration of a listener that speaks the protocols, the most preferred first. Each
// handshake is decided by the files as they are when it begins. With checkAddress a client's certificate
// must also name the address from which it connects.
func (s *Store) Server(checkAddress bool, protocols ...string) *tls.Config {
	base := s.base()
	base.NextProtos = protocols
	if s.demandsCertificates() {
		base.ClientAuth = tls.RequireAndVerifyClientCert
	}
	outer := base.Clone()
	outer.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		have := s.current()
		cfg := base.Clone()
		cfg.Certificates = []tls.Certificate{*have.pair(s.slots.server)}
		if s.slots.trusted >= 0 {
			cfg.ClientCAs = have.states[s.slots.trusted].value.(*authorities).pool
		}
		// Also called when a session is resumed, for which crypto/tls verifies the chain anew.
		cfg.VerifyConnection = func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return nil // and none was demanded
			}
			if err := s.checkNames(cs.VerifiedChains); err != nil {
				return err
			}
			if checkAddress {
				if err := s.checkAddress(hello.Context(), cs.PeerCertificates[0], hello.Conn.RemoteAddr()); err != nil {
					return err
				}
			}
			if s.slots.revoked >= 0 {
				return have.states[s.slots.revoked].value.(revocations).check(cs.PeerCertificates)
			}
			return nil
		}
		return cfg, nil
	}
	return outer
}

func (s *Store) base() *tls.Config {
	lowest := s.cfg.MinVersion
	if lowest == 0 {
		lowest = tls.VersionTLS12
	}
	return &tls.Config{MinVersion: lowest, MaxVersion: s.cfg.MaxVersion, CipherSuites: s.cfg.CipherSuites, Time: s.cfg.Now}
}

func (s *Store) demandsCertificates() bool { return s.cfg.TrustedCAFile != "" || s.cfg.ClientCertAuth }

// Client returns the configuration for calling servers of this role, made from the files as they are now.
// The authorities stay as they are in it: take a new one for each connection, or when Generation changes.
// The certificate that it shows is always the newest. The caller sets ServerName if its dialer does not.
func (s *Store) Client() *tls.Config {
	cfg := s.base()
	cfg.ServerName = s.cfg.ServerName
	cfg.InsecureSkipVerify = s.cfg.TrustAnyServer //nolint:gosec // generated certificates cannot be verified
	if s.slots.trusted >= 0 {
		cfg.RootCAs = s.current().states[s.slots.trusted].value.(*authorities).pool
	}
	cfg.GetClientCertificate = s.clientCertificate
	cfg.VerifyConnection = func(cs tls.ConnectionState) error { return s.checkNames(cs.VerifiedChains) }
	return cfg
}

// Loopback returns the configuration with which this member calls itself. It demands no name and no
// authority, but its own certificate.
func (s *Store) Loopback() *tls.Config {
	cfg := s.base()
	cfg.InsecureSkipVerify = true //nolint:gosec // it is compared below
	cfg.GetClientCertificate = s.clientCertificate
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		own := s.current().pair(s.slots.server).Certificate[0]
		if len(cs.PeerCertificates) == 0 || !bytes.Equal(cs.PeerCertificates[0].Raw, own) {
			return errNotOwn
		}
		return nil
	}
	return cfg
}

func (s *Store) clientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	slot := s.slots.server
	if s.slots.client >= 0 {
		slot = s.slots.client
	}
	return s.current().pair(slot), nil
}

// checkNames demands one of the allowed names of a verified leaf.
func (s *Store) checkNames(chains [][]*x509.Certificate) error {
	if len(s.cfg.AllowedCNs) == 0 && len(s.cfg.AllowedHostnames) == 0 {
		return nil
	}
	for _, chain := range chains {
		if len(chain) > 0 && s.allowed(chain[0]) {
			return nil
		}
	}
	return errNotAllowed
}

func (s *Store) allowed(leaf *x509.Certificate) bool {
	return slices.Contains(s.cfg.AllowedCNs, leaf.Subject.CommonName) ||
		slices.ContainsFunc(s.cfg.AllowedHostnames, func(name string) bool { return leaf.VerifyHostname(name) == nil })
}

func (s *Store) checkAddress(ctx context.Context, leaf *x509.Certificate, remote net.Addr) error {
	tcp, ok := remote.(*net.TCPAddr)
	if !ok {
		return nil // a socket file has no address
	}
	return checkAddress(ctx, s.cfg.Resolver, leaf, tcp.IP.String())
}
