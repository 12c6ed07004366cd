package harness

import (
	"testing"

	"github.com/dolmen-io/dolmen/internal/certs/certstest"
)

// Secure is what a TLS server and its clients need: Authority has signed the server's certificate, which is valid for
// 127.0.0.1 and localhost, and signs those of clients. Their common names are users once a server runs with
// --client-cert-auth.
type Secure struct {
	Authority *certstest.Authority
	// Args are the server's flags --cert-file and --key-file; CAFile is for --trusted-ca-file.
	Args   []string
	CAFile string
	// Dir is where the files are.
	Dir string
}

// NewSecure makes an authority and a server's certificate, in files that go with the test.
//
//	s := harness.NewSecure(t)
//	server := harness.Start(t, harness.Subject(), harness.Options{
//		TLS:  s.Authority.Client(s.Authority.Issue("root", nil)),
//		Args: s.ArgsWithClients(),
//	})
func NewSecure(tb testing.TB) *Secure {
	tb.Helper()
	s := &Secure{Authority: certstest.NewAuthority(tb, "test authority"), Dir: tb.TempDir()}
	certFile, keyFile := s.Authority.Issue("server", []string{"127.0.0.1", "localhost"}).Write(s.Dir, "server")
	s.Args = []string{"--cert-file=" + certFile, "--key-file=" + keyFile}
	s.CAFile = certstest.Write(tb, s.Dir, "ca.crt", s.Authority.PEM())
	return s
}

// ArgsWithClients are the flags with which the server demands certificates of clients.
func (s *Secure) ArgsWithClients() []string {
	return append(s.Args[:len(s.Args):len(s.Args)], "--trusted-ca-file="+s.CAFile, "--client-cert-auth")
}
