package compat

import (
	"testing"

	"google.golang.org/grpc"

	"github.com/dolmen-io/dolmen/tests/harness"
)

// certified is a caller with a client certificate of a common name.
func (w *realm) certified(secure *harness.Secure, name string, pairs ...string) caller {
	return caller{name: "certificate of " + name, conn: w.dialAs(secure, name), metadata: func(*realm) []string { return pairs }}
}

func (w *realm) dialAs(secure *harness.Secure, name string) *grpc.ClientConn {
	return w.server.DialAs(secure.Authority.Client(secure.Authority.Issue(name, nil)))
}

// TestCertificates: with --client-cert-auth the common name of a client's certificate is a user, unless a token says
// something else.
func TestCertificates(t *testing.T) {
	secure := harness.NewSecure(t)
	nameless := secure.Authority.Client(secure.Authority.Issue("", nil))
	for _, user := range []string{"root", "reader", "writer", "foreign", "open", "joined", "roleless", "deleted", "nopassword", "no such user", ""} {
		t.Run(user, func(t *testing.T) {
			compare(t, harness.Options{TLS: nameless, Args: append(secure.ArgsWithClients(), cheapPasswords)}, func(r *Recorder) {
				w := newRealm(r)
				w.tryAll(w.certified(secure, user))
			})
		})
	}
	t.Run("with tokens", func(t *testing.T) {
		compare(t, harness.Options{TLS: nameless, Args: append(secure.ArgsWithClients(), cheapPasswords)}, func(r *Recorder) {
			w := newRealm(r)
			reader, root := w.token("reader"), w.token("root")
			for _, user := range []string{"root", "reader"} {
				for _, pairs := range [][]string{
					{"token", "nonsense"}, {"token", "abcdefghijklmnop.3"}, {"token", ""}, {"authorization", "nonsense"}, {"authorization", ""},
					{"token", reader}, {"token", root}, {"grpcgateway-accept", "application/json"},
					{"grpcgateway-accept", "application/json", "token", root},
				} {
					c := w.certified(secure, user, pairs...)
					c.name += " and " + pairs[0]
					w.tryOne(c)
				}
			}
			bad := w.certified(secure, "root", "token", "nonsense")
			bad.name += " and a bad token"
			w.tryAll(bad)
		})
	})
}

// TestCertificatesWithoutAuth: a certificate that is only demanded names nobody.
func TestCertificatesWithoutAuth(t *testing.T) {
	secure := harness.NewSecure(t)
	root := secure.Authority.Client(secure.Authority.Issue("root", nil))
	args := append([]string{"--trusted-ca-file=" + secure.CAFile, cheapPasswords}, secure.Args...)
	compare(t, harness.Options{TLS: root, Args: args}, func(r *Recorder) {
		w := newRealm(r)
		w.tryOne(w.certified(secure, "root"))
		w.tryOne(w.certified(secure, "reader"))
	})
}
