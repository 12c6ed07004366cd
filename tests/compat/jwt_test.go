package compat

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/dolmen-io/dolmen/tests/harness"
)

// signer is a key that signs tokens, and the files and the flag with which a server uses it.
type signer struct {
	method  jwt.SigningMethod
	key     any    // what signs
	public  string // file, "" for HMAC
	private string // file
	other   any    // another key of the same kind
}

func newSigner(t *testing.T, method jwt.SigningMethod) *signer {
	t.Helper()
	s := &signer{method: method}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		text := der
		if kind != "" {
			text = pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	must := func(b []byte, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	generate := func() any {
		var key any
		var err error
		switch method.(type) {
		case *jwt.SigningMethodRSA, *jwt.SigningMethodRSAPSS:
			key, err = rsa.GenerateKey(rand.Reader, 2048)
		case *jwt.SigningMethodECDSA:
			key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		case *jwt.SigningMethodEd25519:
			_, key, err = ed25519.GenerateKey(rand.Reader)
		default:
			secret := make([]byte, 32)
			_, err = rand.Read(secret)
			key = secret
		}
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	s.key, s.other = generate(), generate()
	if secret, ok := s.key.([]byte); ok {
		s.private = write("secret", "", secret)
		return s
	}
	s.private = write("private.pem", "PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(s.key)))
	if key, ok := s.key.(*ecdsa.PrivateKey); ok {
		s.private = write("private.pem", "EC PRIVATE KEY", must(x509.MarshalECPrivateKey(key)))
	}
	s.public = write("public.pem", "PUBLIC KEY", must(x509.MarshalPKIXPublicKey(s.key.(crypto.Signer).Public())))
	return s
}

// flag is the server's --auth-token.
func (s *signer) flag(more ...string) string {
	parts := []string{"jwt", "sign-method=" + s.method.Alg(), "priv-key=" + s.private}
	if s.public != "" {
		parts = append(parts, "pub-key="+s.public)
	}
	return "--auth-token=" + strings.Join(append(parts, more...), ",")
}

// claims are those of a token that holds.
func (w *realm) claims(user string) jwt.MapClaims {
	return jwt.MapClaims{"username": user, "revision": w.authRevision(), "exp": time.Now().Add(time.Hour).Unix()}
}

// signed is a caller whose token the test makes itself for a user, changed by edit.
func signed(name string, method jwt.SigningMethod, key any, user string, edit func(jwt.MapClaims)) caller {
	return caller{name: name + ", of " + user, metadata: func(w *realm) []string {
		claims := w.claims(user)
		if edit != nil {
			edit(claims)
		}
		token, err := jwt.NewWithClaims(method, claims).SignedString(key)
		if err != nil {
			w.fatalf("sign a token: %v", err)
		}
		return []string{"token", token}
	}}
}

// older makes a token n revisions of the users and roles old.
func older(n int64) func(jwt.MapClaims) {
	return func(c jwt.MapClaims) { c["revision"] = int64(c["revision"].(uint64)) - n }
}

// forgedCallers do not hold the key, or hold it and say what does not hold.
func (s *signer) forgedCallers(t *testing.T) []caller {
	t.Helper()
	expired := func(c jwt.MapClaims) { c["exp"] = time.Now().Add(-time.Minute).Unix() }
	set := func(name string, value any) func(jwt.MapClaims) { return func(c jwt.MapClaims) { c[name] = value } }
	unset := func(name string) func(jwt.MapClaims) { return func(c jwt.MapClaims) { delete(c, name) } }
	var out []caller
	for _, user := range []string{"reader", "root"} {
		out = append(out,
			signed("expired", s.method, s.key, user, expired),
			signed("old revision", s.method, s.key, user, older(1)),
			signed("another key", s.method, s.other, user, nil),
			signed("no algorithm", jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, user, nil),
			signed("HMAC with nothing", jwt.SigningMethodHS256, []byte{}, user, nil),
		)
		if s.public != "" {
			public, err := os.ReadFile(s.public)
			if err != nil {
				t.Fatal(err)
			}
			block, _ := pem.Decode(public)
			out = append(out, signed("HMAC with the public key's file", jwt.SigningMethodHS256, public, user, nil),
				signed("HMAC with the public key", jwt.SigningMethodHS256, block.Bytes, user, nil))
		}
	}
	const user = "reader"
	return append(out,
		signed("of the test", s.method, s.key, user, nil),
		signed("of the test", s.method, s.key, "deleted", nil),
		signed("of the test", s.method, s.key, "nopassword", nil),
		signed("of the test", s.method, s.key, "", nil),
		signed("very old revision", s.method, s.key, user, set("revision", 1)),
		signed("revision 0", s.method, s.key, user, set("revision", 0)),
		signed("revision 0", s.method, s.key, "root", set("revision", 0)),
		signed("future revision", s.method, s.key, user, older(-5)),
		signed("revision as text", s.method, s.key, user, set("revision", "9")),
		signed("no revision", s.method, s.key, user, unset("revision")),
		signed("no user", s.method, s.key, user, unset("username")),
		signed("user as a number", s.method, s.key, user, set("username", 5)),
		signed("no expiry", s.method, s.key, user, unset("exp")),
		signed("expiry as text", s.method, s.key, user, set("exp", "tomorrow")),
		signed("not yet", s.method, s.key, user, set("nbf", time.Now().Add(time.Hour).Unix())),
		signed("issued tomorrow", s.method, s.key, user, set("iat", time.Now().Add(24*time.Hour).Unix())),
		with("simple token", "token", "abcdefghijklmnop.3"), with("three parts", "token", "a.b.c"), with("empty", "token", ""),
		caller{name: "signature cut", metadata: func(w *realm) []string { t := w.token("root"); return []string{"token", t[:len(t)-4]} }},
		caller{name: "claims of another", metadata: func(w *realm) []string {
			root, reader := strings.Split(w.token("root"), "."), strings.Split(w.token("reader"), ".")
			return []string{"token", reader[0] + "." + root[1] + "." + reader[2]}
		}},
		caller{name: "reader in authorization", metadata: func(w *realm) []string { return []string{"authorization", "Bearer " + w.token("reader")} }},
	)
}

// methods are the algorithms of etcd's documentation.
func signingMethods() []jwt.SigningMethod {
	return []jwt.SigningMethod{jwt.SigningMethodRS256, jwt.SigningMethodPS256, jwt.SigningMethodES256, jwt.SigningMethodEdDSA, jwt.SigningMethodHS256}
}

// TestSignedTokens: what everybody may do, each user with a signed token. The short run takes one algorithm: which one
// signs is nothing that the checks of a request see.
func TestSignedTokens(t *testing.T) {
	for _, method := range signingMethods() {
		if testing.Short() && method != jwt.SigningMethodES256 {
			continue
		}
		t.Run(method.Alg(), func(t *testing.T) {
			s := newSigner(t, method)
			compare(t, harness.Options{Args: []string{cheapPasswords, s.flag("ttl=10m")}}, func(r *Recorder) {
				w := newRealm(r)
				w.tryAll(nobody)
				for _, c := range mostUsers() {
					w.tryAll(c)
				}
			})
		})
	}
}

// TestForgedSignedTokens: what those may do whose token does not hold.
func TestForgedSignedTokens(t *testing.T) {
	for _, method := range signingMethods() {
		t.Run(method.Alg(), func(t *testing.T) {
			s := newSigner(t, method)
			compare(t, harness.Options{Args: []string{cheapPasswords, s.flag()}}, func(r *Recorder) {
				w := newRealm(r)
				for _, c := range s.forgedCallers(t) {
					w.tryOne(c)
				}
				if method != jwt.SigningMethodES256 {
					return // which algorithm signs is nothing that the checks of a request see
				}
				for _, c := range s.forgedCallers(t) {
					if !testing.Short() || strings.HasPrefix(c.name, "expired") || strings.HasPrefix(c.name, "old") || strings.HasPrefix(c.name, "another") {
						w.tryAll(c)
					}
				}
			})
		})
	}
}

// TestSignedTokenOfOtherMethod: the algorithm of a token is the server's to choose, even if the key fits.
func TestSignedTokenOfOtherMethod(t *testing.T) {
	s := newSigner(t, jwt.SigningMethodRS256)
	compare(t, harness.Options{Args: []string{cheapPasswords, s.flag()}}, func(r *Recorder) {
		w := newRealm(r)
		for _, method := range []jwt.SigningMethod{jwt.SigningMethodRS384, jwt.SigningMethodRS512, jwt.SigningMethodPS256} {
			w.tryOne(signed(method.Alg(), method, s.key, "root", nil))
		}
	})
}

// TestExpiringSignedToken: a signed token ends when its time is over, used or not.
func TestExpiringSignedToken(t *testing.T) {
	s := newSigner(t, jwt.SigningMethodES256)
	compare(t, harness.Options{Args: []string{cheapPasswords, s.flag("ttl=2s")}}, func(r *Recorder) {
		w := newRealm(r)
		token, err := w.login("reader")
		if err != nil {
			w.fatalf("log in: %v", err)
		}
		c := with("a token of two seconds", "token", token)
		<-time.After(3 * time.Second) // expiry is in whole seconds
		w.tryOne(c)
	})
}

// TestVerifyOnlyTokens: with a public key only, tokens of others hold and none are made.
func TestVerifyOnlyTokens(t *testing.T) {
	for _, method := range []jwt.SigningMethod{jwt.SigningMethodRS256, jwt.SigningMethodES256, jwt.SigningMethodEdDSA} {
		t.Run(method.Alg(), func(t *testing.T) {
			s := newSigner(t, method)
			flag := "--auth-token=jwt,sign-method=" + method.Alg() + ",pub-key=" + s.public
			compare(t, harness.Options{Args: []string{cheapPasswords, flag}}, func(r *Recorder) {
				w := newRealm(r)
				w.tryOne(nobody)
				w.tryOne(signed("of the test", s.method, s.key, "reader", nil))
				w.tryOne(signed("of the test", s.method, s.key, "root", nil))
			})
		})
	}
}
