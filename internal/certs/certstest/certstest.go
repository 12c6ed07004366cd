// Package certstest makes certificates for tests: authorities, what they sign, and lists of what they have
// revoked.
package certstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Authority is a certificate authority. It belongs to one test.
type Authority struct {
	Certificate *x509.Certificate

	tb  testing.TB
	key *ecdsa.PrivateKey
}

// NewAuthority makes an authority with the common name.
func NewAuthority(tb testing.TB, name string) *Authority {
	tb.Helper()
	a := &Authority{tb: tb, key: newKey(tb)}
	template := &x509.Certificate{
		SerialNumber:          newSerial(tb),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	require.NoError(tb, err)
	a.Certificate, err = x509.ParseCertificate(der)
	require.NoError(tb, err)
	return a
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(tb, err)
	return key
}

// newSerial is different for every certificate, because a list of revocations counts for all authorities.
func newSerial(tb testing.TB) *big.Int {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64))
	require.NoError(tb, err)
	return serial
}

// PEM is the authority's certificate as a file holds it.
func (a *Authority) PEM() []byte { return encode("CERTIFICATE", a.Certificate.Raw) }

// Pool holds the authority alone.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.Certificate)
	return pool
}

// Issue signs a certificate for servers and clients. Hosts are DNS names and IP addresses; changes adjust
// the template before it is signed.
func (a *Authority) Issue(commonName string, hosts []string, changes ...func(*x509.Certificate)) *Pair {
	a.tb.Helper()
	template := &x509.Certificate{
		SerialNumber: newSerial(a.tb),
		Subject:      pkix.Name{CommonName: commonName},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(12 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	for _, change := range changes {
		change(template)
	}
	key := newKey(a.tb)
	der, err := x509.CreateCertificate(rand.Reader, template, a.Certificate, &key.PublicKey, a.key)
	require.NoError(a.tb, err)
	parsed, err := x509.ParseCertificate(der)
	require.NoError(a.tb, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(a.tb, err)
	return &Pair{tb: a.tb, Certificate: parsed, PEM: encode("CERTIFICATE", der), KeyPEM: encode("PRIVATE KEY", keyDER)}
}

// Revoke returns a list, in DER, that revokes the certificates.
func (a *Authority) Revoke(revoked ...*Pair) []byte {
	a.tb.Helper()
	list := &x509.RevocationList{
		Number: big.NewInt(time.Now().UnixNano()), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
	}
	for _, p := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: p.Certificate.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.Certificate, a.key)
	require.NoError(a.tb, err)
	return der
}

// RevokePEM is Revoke in PEM.
func (a *Authority) RevokePEM(revoked ...*Pair) []byte {
	return encode("X509 CRL", a.Revoke(revoked...))
}

// Client is how a client that trusts the authority connects, with a certificate unless it is nil.
func (a *Authority) Client(certificate *Pair) *tls.Config {
	cfg := &tls.Config{RootCAs: a.Pool(), MinVersion: tls.VersionTLS12}
	if certificate != nil {
		own := certificate.TLS()
		// Not Certificates, from which crypto/tls leaves out what the server's list of authorities lacks.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil }
	}
	return cfg
}

// Pair is a certificate and its key.
type Pair struct {
	Certificate *x509.Certificate
	PEM, KeyPEM []byte

	tb testing.TB
}

// TLS is the pair as crypto/tls takes it.
func (p *Pair) TLS() tls.Certificate {
	p.tb.Helper()
	pair, err := tls.X509KeyPair(p.PEM, p.KeyPEM)
	require.NoError(p.tb, err)
	return pair
}

// Write writes the pair to <dir>/<name>.crt and <name>.key and returns both paths.
func (p *Pair) Write(dir, name string) (certFile, keyFile string) {
	p.tb.Helper()
	return Write(p.tb, dir, name+".crt", p.PEM), Write(p.tb, dir, name+".key", p.KeyPEM)
}

// Write writes a file and returns its path.
func Write(tb testing.TB, dir, name string, content []byte) string {
	tb.Helper()
	path := filepath.Join(dir, name)
	require.NoError(tb, os.WriteFile(path, content, 0o600))
	return path
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// TB is the test that the authority belongs to.
func (a *Authority) TB() testing.TB { return a.tb }
