package certstest

import (
	"crypto/tls"
	"crypto/x509"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMadeCertificatesAreSound verifies with the standard library what the authority has made.
func TestMadeCertificatesAreSound(t *testing.T) {
	a := NewAuthority(t, "authority")
	require.Equal(t, t, a.TB())
	pair := a.Issue("name", []string{"127.0.0.1", "host"})
	_, err := pair.Certificate.Verify(x509.VerifyOptions{Roots: a.Pool(), DNSName: "host"})
	require.NoError(t, err)
	require.NoError(t, pair.Certificate.VerifyHostname("127.0.0.1"))

	certFile, keyFile := pair.Write(t.TempDir(), "x")
	_, err = tls.LoadX509KeyPair(certFile, keyFile)
	require.NoError(t, err)
	require.True(t, x509.NewCertPool().AppendCertsFromPEM(a.PEM()))

	list, err := x509.ParseRevocationList(a.Revoke(pair))
	require.NoError(t, err)
	require.NoError(t, list.CheckSignatureFrom(a.Certificate))
	require.Equal(t, pair.Certificate.SerialNumber, list.RevokedCertificateEntries[0].SerialNumber)
	require.Contains(t, string(a.RevokePEM()), "X509 CRL")

	require.Nil(t, a.Client(nil).GetClientCertificate)
	shown, err := a.Client(pair).GetClientCertificate(nil)
	require.NoError(t, err)
	require.Equal(t, pair.Certificate.Raw, shown.Certificate[0])
}
