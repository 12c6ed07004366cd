package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io/fs"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
)

// files stands for a file system.
type files map[string][]byte

func (f files) read(name string) ([]byte, error) {
	if f[name] == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return f[name], nil
}

// add writes a pair of keys as NAME.key and NAME.pub.
func (f files) add(t *testing.T, name string, private crypto.Signer) {
	der, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	f[name+".key"] = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	der, err = x509.MarshalPKIXPublicKey(private.Public())
	require.NoError(t, err)
	f[name+".pub"] = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func newFiles(t *testing.T) files {
	f := files{"secret": []byte("a secret"), "empty": {}, "junk": []byte("junk")}
	for _, name := range []string{"rsa", "rsa2"} {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		require.NoError(t, err)
		f.add(t, name, key)
	}
	for name, curve := range map[string]elliptic.Curve{"p256": elliptic.P256(), "p256b": elliptic.P256(), "p384": elliptic.P384(), "p521": elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		require.NoError(t, err)
		f.add(t, name, key)
	}
	for _, name := range []string{"ed", "ed2"} {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		require.NoError(t, err)
		f.add(t, name, key)
	}
	return f
}

func (f files) tokens(options string) (Tokens, error) {
	o, err := ParseTokenOptions(options)
	if err != nil {
		return nil, err
	}
	return NewTokens(TokenConfig{Options: o, Random: rand.Reader, ReadFile: f.read}, start())
}

func methods() map[string]string {
	return map[string]string{
		"RS256": "rsa", "RS384": "rsa", "RS512": "rsa", "PS256": "rsa", "PS384": "rsa", "PS512": "rsa",
		"ES256": "p256", "ES384": "p384", "ES512": "p521", "EdDSA": "ed",
	}
}

func TestJWTMethods(t *testing.T) {
	f := newFiles(t)
	issued := map[string]string{}
	verifiers := map[string]Tokens{}
	l := Login{User: "alice", Revision: 1 << 40, Prefix: "ignored", Index: 9}
	for method, key := range methods() {
		both, err := f.tokens("jwt,sign-method=" + method + ",pub-key=" + key + ".pub,priv-key=" + key + ".key,ttl=10s")
		require.NoError(t, err, method)
		private, err := f.tokens("jwt,sign-method=" + method + ",priv-key=" + key + ".key")
		require.NoError(t, err, method)
		public, err := f.tokens("jwt,sign-method=" + method + ",pub-key=" + key + ".pub")
		require.NoError(t, err, method)

		token, err := both.Issue(l, start())
		require.NoError(t, err, method)
		for _, tokens := range []Tokens{both, private, public} {
			who, err := tokens.Identify(token, 3, start().Add(9*time.Second))
			require.NoError(t, err, method)
			require.Equal(t, Identity{"alice", 1 << 40}, who)
			_, err = tokens.Identify(token, 3, start().Add(10*time.Second))
			require.ErrorIs(t, err, ErrInvalidToken, "expired")
			require.ErrorIs(t, err, jwt.ErrTokenExpired)
		}
		_, err = public.Issue(l, start())
		require.ErrorIs(t, err, ErrVerifyOnly)
		require.EqualError(t, err, "auth: token signing attempted with verify-only key")

		token, err = private.Issue(l, start())
		require.NoError(t, err)
		_, err = public.Identify(token, 3, start().Add(5*time.Minute-time.Second))
		require.NoError(t, err, "the default lifetime is 5 minutes")
		_, err = public.Identify(token, 3, start().Add(5*time.Minute))
		require.ErrorIs(t, err, ErrInvalidToken)

		prefix, err := both.NewPrefix()
		require.NoError(t, err)
		require.Empty(t, prefix)
		require.Zero(t, both.AppliedIndex("x.5"))
		both.Apply([]Change{{Kind: Reset}}, start())
		issued[method], verifiers[method] = token, public
	}
	// A token of one method is none of another, even of the same key.
	for method, token := range issued {
		for other, tokens := range verifiers {
			_, err := tokens.Identify(token, 3, start())
			require.Equal(t, method == other, err == nil, "%s token, %s expected", method, other)
		}
	}
}

func TestJWTWithSharedSecret(t *testing.T) {
	f := newFiles(t)
	for _, method := range []string{"HS256", "HS384", "HS512"} {
		tokens, err := f.tokens("jwt,sign-method=" + method + ",priv-key=secret")
		require.NoError(t, err)
		token, err := tokens.Issue(Login{User: "u", Revision: 3}, start())
		require.NoError(t, err)
		who, err := tokens.Identify(token, 9, start())
		require.NoError(t, err)
		require.Equal(t, Identity{"u", 3}, who)
	}
}

func TestJWTBadOptions(t *testing.T) {
	f := newFiles(t)
	for options, want := range map[string]error{
		"jwt":                                                       ErrInvalidOptions,
		"jwt,sign-method=":                                          ErrInvalidOptions,
		"jwt,sign-method=none":                                      ErrInvalidOptions,
		"jwt,sign-method=rs256":                                     ErrInvalidOptions,
		"jwt,sign-method=RS256":                                     ErrMissingKey,
		"jwt,sign-method=HS256":                                     ErrMissingKey,
		"jwt,sign-method=HS256,pub-key=secret":                      ErrMissingKey,
		"jwt,sign-method=HS256,priv-key=empty":                      ErrMissingKey,
		"jwt,sign-method=EdDSA":                                     ErrMissingKey,
		"jwt,sign-method=RS256,priv-key=missing":                    fs.ErrNotExist,
		"jwt,sign-method=RS256,pub-key=missing":                     ErrInvalidOptions,
		"jwt,sign-method=RS256,priv-key=junk":                       jwt.ErrKeyMustBePEMEncoded,
		"jwt,sign-method=PS256,pub-key=junk":                        jwt.ErrKeyMustBePEMEncoded,
		"jwt,sign-method=EdDSA,priv-key=junk":                       jwt.ErrKeyMustBePEMEncoded,
		"jwt,sign-method=EdDSA,pub-key=junk":                        jwt.ErrKeyMustBePEMEncoded,
		"jwt,sign-method=EdDSA,priv-key=rsa.key":                    jwt.ErrNotEdPrivateKey,
		"jwt,sign-method=EdDSA,pub-key=rsa.pub":                     jwt.ErrNotEdPublicKey,
		"jwt,sign-method=RS256,priv-key=p256.key":                   jwt.ErrNotRSAPrivateKey,
		"jwt,sign-method=ES256,priv-key=rsa.key":                    jwt.ErrNotECPrivateKey,
		"jwt,sign-method=ES256,priv-key=p384.key":                   ErrInvalidOptions,
		"jwt,sign-method=RS256,priv-key=rsa.key,pub-key=rsa2.pub":   ErrKeyMismatch,
		"jwt,sign-method=ES256,priv-key=p256.key,pub-key=p256b.pub": ErrKeyMismatch,
		"jwt,sign-method=EdDSA,priv-key=ed.key,pub-key=ed2.pub":     ErrKeyMismatch,
		"jwt,sign-method=RS256,priv-key=rsa.key,ttl=soon":           ErrInvalidOptions,
		"jwt,sign-method=RS256,priv-key=rsa.key,ttl=0s":             ErrInvalidOptions,
		"jwt,sign-method=RS256,priv-key=rsa.key,ttl=-5m":            ErrInvalidOptions,
	} {
		_, err := f.tokens(options)
		require.ErrorIs(t, err, want, options)
	}
	_, err := f.tokens("jwt,sign-method=RS256,priv-key=rsa.key,ttl=,unknown=x")
	require.NoError(t, err)
}

func TestJWTForged(t *testing.T) {
	f := newFiles(t)
	tokens, err := f.tokens("jwt,sign-method=RS256,priv-key=rsa.key,pub-key=rsa.pub")
	require.NoError(t, err)
	key, err := jwt.ParseRSAPrivateKeyFromPEM(f["rsa.key"])
	require.NoError(t, err)
	other, err := jwt.ParseRSAPrivateKeyFromPEM(f["rsa2.key"])
	require.NoError(t, err)
	good := jwt.MapClaims{"username": "root", "revision": 7, "exp": start().Unix() + 60}
	sign := func(method jwt.SigningMethod, claims jwt.MapClaims, key any) string {
		token, err := jwt.NewWithClaims(method, claims).SignedString(key)
		require.NoError(t, err)
		return token
	}
	with := func(name string, value any) jwt.MapClaims {
		c := maps.Clone(good)
		if c[name] = value; value == nil {
			delete(c, name)
		}
		return c
	}
	rs := jwt.SigningMethodRS256
	valid := sign(rs, good, key)
	who, err := tokens.Identify(valid, 1, start())
	require.NoError(t, err)
	require.Equal(t, Identity{"root", 7}, who)
	_, err = tokens.Identify(sign(rs, with("exp", nil), key), 1, start().Add(1000*time.Hour))
	require.NoError(t, err, "without expiry it never expires, as in etcd")

	parts := strings.Split(valid, ".")
	claims := base64.RawURLEncoding.EncodeToString([]byte(`{"username":"admin","revision":7}`))
	for name, token := range map[string]string{
		"empty":               "",
		"garbage":             "a.b.c",
		"simple token":        "abcdefghijklmnop.7",
		"other key":           sign(rs, good, other),
		"no signature":        parts[0] + "." + parts[1] + ".",
		"other claims":        parts[0] + "." + claims + "." + parts[2],
		"two parts":           parts[0] + "." + parts[1],
		"method none":         sign(jwt.SigningMethodNone, good, jwt.UnsafeAllowNoneSignatureType),
		"public key as HMAC":  sign(jwt.SigningMethodHS256, good, f["rsa.pub"]),
		"other hash":          sign(jwt.SigningMethodRS512, good, key),
		"other padding":       sign(jwt.SigningMethodPS256, good, key),
		"expired":             sign(rs, with("exp", start().Unix()-1), key),
		"not yet valid":       sign(rs, with("nbf", start().Unix()+30), key),
		"no user":             sign(rs, with("username", nil), key),
		"user is a number":    sign(rs, with("username", 5), key),
		"no revision":         sign(rs, with("revision", nil), key),
		"revision is text":    sign(rs, with("revision", "7"), key),
		"revision below zero": sign(rs, with("revision", -1), key),
		"revision too large":  sign(rs, with("revision", 1e30), key),
	} {
		who, err := tokens.Identify(token, 1, start())
		require.ErrorIs(t, err, ErrInvalidToken, name)
		require.Equal(t, Identity{}, who, name)
	}
}

func TestJWTReload(t *testing.T) {
	f := newFiles(t)
	f["k"], f["p"] = f["rsa.key"], f["rsa.pub"]
	tokens, err := f.tokens("jwt,sign-method=RS256,priv-key=k,pub-key=p")
	require.NoError(t, err)
	first, err := tokens.Issue(Login{User: "u", Revision: 1}, start())
	require.NoError(t, err)
	now := start()
	maintain := func() (bool, error) {
		now = now.Add(5 * time.Second)
		return tokens.Maintain(now)
	}
	valid := func(token string) bool {
		_, err := tokens.Identify(token, 1, start())
		return err == nil
	}
	reloaded, err := maintain()
	require.NoError(t, err)
	require.False(t, reloaded, "nothing changed")

	for name, damage := range map[string]struct {
		change func()
		want   error
	}{
		"only one file replaced": {func() { f["k"] = f["rsa2.key"] }, ErrKeyMismatch},
		"not a key":              {func() { f["k"] = f["junk"] }, jwt.ErrKeyMustBePEMEncoded},
		"being written":          {func() { f["k"] = f["empty"] }, ErrMissingKey},
		"gone":                   {func() { delete(f, "p") }, fs.ErrNotExist},
	} {
		f["k"], f["p"] = f["rsa.key"], f["rsa.pub"]
		_, _ = maintain()
		damage.change()
		_, err = maintain()
		require.ErrorIs(t, err, damage.want, name)
		require.ErrorContains(t, err, "the keys before stay in use", name)
		reloaded, err = maintain()
		require.NoError(t, err, "%s is reported once", name)
		require.False(t, reloaded)
		require.True(t, valid(first), name)
		_, err = tokens.Issue(Login{User: "u"}, start())
		require.NoError(t, err, name)
	}

	f["k"], f["p"] = f["rsa2.key"], f["rsa2.pub"]
	reloaded, err = tokens.Maintain(now.Add(time.Second))
	require.NoError(t, err)
	require.False(t, reloaded, "too early to look again")
	reloaded, err = maintain()
	require.NoError(t, err)
	require.True(t, reloaded)
	require.False(t, valid(first), "tokens of the keys before end")
	second, err := tokens.Issue(Login{User: "u", Revision: 1}, start())
	require.NoError(t, err)
	require.True(t, valid(second))
}
