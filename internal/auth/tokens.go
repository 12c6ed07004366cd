package auth

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

var (
	// ErrInvalidToken says that a token is unknown, expired or forged.
	ErrInvalidToken = errors.New("auth: invalid auth token")
	// ErrInvalidOptions says that the text of --auth-token, or what it names, cannot be used.
	ErrInvalidOptions = errors.New("auth: invalid auth options")
	// ErrMissingKey says that tokens cannot be verified because no key is given.
	ErrMissingKey = errors.New("auth: missing key data")
	// ErrKeyMismatch says that the public key does not belong to the private one.
	ErrKeyMismatch = errors.New("auth: public and private keys don't match")
	// ErrVerifyOnly says that this member has no private key and issues no tokens.
	ErrVerifyOnly = errors.New("auth: token signing attempted with verify-only key")
)

// Tokens is how a member lets a user prove who it is without a password at each request. Its methods may
// be called from any goroutine; times passed to them need not be in order.
//
// A login takes this way: the proposer verifies the password and calls NewPrefix; the entry is applied;
// Apply follows Table.Changes; Issue answers the client.
type Tokens interface {
	// NewPrefix returns the random text that goes into the entry, empty if tokens need none. Its error is
	// that of the source of randomness.
	NewPrefix() (string, error)

	// Issue returns the token of an applied login. Errors: ErrVerifyOnly; ErrFailed if no tokens are issued
	// at all.
	Issue(l Login, now time.Time) (string, error)

	// AppliedIndex returns the index that must be applied on this member before Identify can know the token,
	// 0 if there is none. It is what the token says: a forged one may name an index that never comes, so
	// waiting for it ends with the request.
	AppliedIndex(token string) uint64

	// Identify returns who a token belongs to. The revision is the table's, for tokens that do not hold one.
	// Error: ErrInvalidToken, with the reason if one is known.
	Identify(token string, revision uint64, now time.Time) (Identity, error)

	// Apply follows the changes of the table. It must be called before the turn's results are handed out.
	Apply(changes []Change, now time.Time)

	// Maintain forgets what has expired, and reports whether it found key files changed and uses the new
	// keys. It is meant to be called every second. An error says why changed files are not in use, for
	// example because only one of two has been replaced so far. The keys before stay in use, and the error
	// is not repeated until something changes again.
	Maintain(now time.Time) (reloaded bool, err error)
}

// The kinds of tokens.
const (
	kindNone   = ""
	kindSimple = "simple"
	kindJWT    = "jwt"
)

// Options of JSON web tokens.
const (
	optionMethod     = "sign-method"
	optionPublicKey  = "pub-key"
	optionPrivateKey = "priv-key"
	optionTTL        = "ttl"
)

// etcd's defaults.
const (
	// DefaultSimpleTTL is how long a simple token lives without being used.
	DefaultSimpleTTL = 300 * time.Second
	// defaultJWTTTL is how long a JSON web token lives.
	defaultJWTTTL = 5 * time.Minute
)

// TokenOptions is the text of --auth-token taken apart: "simple", "" for no tokens, or
// "jwt,sign-method=RS256,pub-key=FILE,priv-key=FILE,ttl=10m".
type TokenOptions struct {
	kind   string
	values map[string]string
	// Unknown are the names of options that mean nothing, ascending. They deserve a warning.
	Unknown []string
}

// Simple reports whether tokens are known by being remembered and are not signed.
func (o TokenOptions) Simple() bool { return o.kind == kindSimple }

// ParseTokenOptions takes the text of --auth-token apart. It reads no files. Error: ErrInvalidOptions with
// what is wrong.
func ParseTokenOptions(text string) (TokenOptions, error) {
	parts := strings.Split(text, ",")
	o := TokenOptions{kind: parts[0], values: map[string]string{}}
	for _, part := range parts[1:] {
		pair := strings.Split(part, "=")
		if len(pair) != 2 {
			return TokenOptions{}, fmt.Errorf("%w: %q in --auth-token is not of the form name=value", ErrInvalidOptions, part)
		}
		if _, twice := o.values[pair[0]]; twice {
			return TokenOptions{}, fmt.Errorf("%w: --auth-token has the option %q twice", ErrInvalidOptions, pair[0])
		}
		o.values[pair[0]] = pair[1]
	}
	switch o.kind {
	case kindNone, kindSimple:
		return o, nil
	case kindJWT:
	default:
		return TokenOptions{}, fmt.Errorf("%w: --auth-token has the unknown type %q; use simple or jwt", ErrInvalidOptions, o.kind)
	}
	known := []string{optionMethod, optionPublicKey, optionPrivateKey, optionTTL}
	for name := range o.values {
		if !slices.Contains(known, name) {
			o.Unknown = append(o.Unknown, name)
		}
	}
	slices.Sort(o.Unknown)
	return o, nil
}

// TokenConfig is what tokens are made with.
type TokenConfig struct {
	Options TokenOptions
	// SimpleTTL is how long a simple token lives without being used; DefaultSimpleTTL if 0 or less.
	SimpleTTL time.Duration
	// MaxSimple is the most simple tokens remembered, DefaultMaxSimple if 0. One more ends the one that was
	// not used for the longest time.
	MaxSimple int
	// Random is the source of simple tokens: crypto/rand.Reader outside tests.
	Random io.Reader
	// ReadFile reads a key file: os.ReadFile outside tests.
	ReadFile func(name string) ([]byte, error)
}

// NewTokens makes what the options ask for and reads its keys.
//
// Errors: ErrInvalidOptions, ErrMissingKey, ErrKeyMismatch, or that of reading or parsing a key.
func NewTokens(cfg TokenConfig, now time.Time) (Tokens, error) {
	switch cfg.Options.kind {
	case kindSimple:
		return newSimple(cfg), nil
	case kindJWT:
		return newJWT(cfg, now)
	}
	return none{}, nil
}

// none issues no tokens and knows none.
type none struct{}

func (none) NewPrefix() (string, error)             { return "", nil }
func (none) Issue(Login, time.Time) (string, error) { return "", ErrFailed }
func (none) AppliedIndex(string) uint64             { return 0 }
func (none) Apply([]Change, time.Time)              {}
func (none) Maintain(time.Time) (bool, error)       { return false, nil }
func (none) Identify(string, uint64, time.Time) (Identity, error) {
	return Identity{}, ErrInvalidToken
}
