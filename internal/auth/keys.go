package auth

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"fmt"

	"github.com/golang-jwt/jwt/v5"
)

// keyFiles are the contents of the key files, nil for a file that is not configured.
type keyFiles struct{ public, private []byte }

func (f keyFiles) equal(g keyFiles) bool {
	return bytes.Equal(f.public, g.public) && bytes.Equal(f.private, g.private)
}

// keys are what tokens are signed and verified with. They never change. A nil sign means verify only.
type keys struct{ sign, verify any }

// signingMethod returns the method of a name. "none", which the library knows, is not one of them: it
// would accept tokens that nobody signed.
func signingMethod(name string) (jwt.SigningMethod, error) {
	switch method := jwt.GetSigningMethod(name).(type) {
	case *jwt.SigningMethodRSA, *jwt.SigningMethodRSAPSS, *jwt.SigningMethodECDSA, *jwt.SigningMethodEd25519,
		*jwt.SigningMethodHMAC:
		return method, nil
	}
	return nil, fmt.Errorf("%w: sign-method %q of --auth-token is neither EdDSA nor HS, RS, PS or ES with 256, 384 or 512",
		ErrInvalidOptions, name)
}

// parse reads the keys for a method. Errors: ErrMissingKey, ErrKeyMismatch, ErrInvalidOptions for a key of
// another kind than the method's, or that of parsing.
func (f keyFiles) parse(method jwt.SigningMethod) (*keys, error) {
	switch m := method.(type) {
	case *jwt.SigningMethodRSA, *jwt.SigningMethodRSAPSS:
		return pair(f, jwt.ParseRSAPrivateKeyFromPEM, jwt.ParseRSAPublicKeyFromPEM)
	case *jwt.SigningMethodECDSA:
		k, err := pair(f, jwt.ParseECPrivateKeyFromPEM, jwt.ParseECPublicKeyFromPEM)
		if err != nil {
			return nil, err
		}
		if public, ok := k.verify.(*ecdsa.PublicKey); !ok || public.Curve.Params().BitSize != m.CurveBits {
			return nil, fmt.Errorf("%w: sign-method %s needs a key on the curve of %d bits", ErrInvalidOptions, m.Alg(), m.CurveBits)
		}
		return k, nil
	case *jwt.SigningMethodEd25519:
		return pair(f, edPrivate, edPublic)
	case *jwt.SigningMethodHMAC:
		if len(f.private) == 0 {
			return nil, fmt.Errorf("%w: sign-method %s needs priv-key in --auth-token", ErrMissingKey, m.Alg())
		}
		return &keys{f.private, f.private}, nil
	}
	return nil, fmt.Errorf("%w: sign-method %s", ErrInvalidOptions, method.Alg())
}

func edPrivate(pem []byte) (ed25519.PrivateKey, error) {
	key, err := jwt.ParseEdPrivateKeyFromPEM(pem)
	if err != nil {
		return nil, err
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, jwt.ErrNotEdPrivateKey
	}
	return private, nil
}

func edPublic(pem []byte) (ed25519.PublicKey, error) {
	key, err := jwt.ParseEdPublicKeyFromPEM(pem)
	if err != nil {
		return nil, err
	}
	public, ok := key.(ed25519.PublicKey)
	if !ok {
		return nil, jwt.ErrNotEdPublicKey
	}
	return public, nil
}

type publicKey interface {
	*rsa.PublicKey | *ecdsa.PublicKey | ed25519.PublicKey
	Equal(x crypto.PublicKey) bool
}

// pair reads a private key, a public one, or both, which must then belong together.
func pair[Private crypto.Signer, Public publicKey](f keyFiles,
	parsePrivate func([]byte) (Private, error), parsePublic func([]byte) (Public, error),
) (*keys, error) {
	var k keys
	if len(f.private) > 0 {
		private, err := parsePrivate(f.private)
		if err != nil {
			return nil, fmt.Errorf("auth: priv-key of --auth-token: %w", err)
		}
		k.sign, k.verify = private, private.Public()
	}
	if len(f.public) > 0 {
		public, err := parsePublic(f.public)
		if err != nil {
			return nil, fmt.Errorf("auth: pub-key of --auth-token: %w", err)
		}
		if k.verify != nil && !public.Equal(k.verify) {
			return nil, ErrKeyMismatch
		}
		k.verify = public
	}
	if k.verify == nil {
		return nil, fmt.Errorf("%w: --auth-token needs priv-key, pub-key, or both", ErrMissingKey)
	}
	return &k, nil
}
