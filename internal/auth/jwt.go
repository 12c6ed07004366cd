package auth

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Claims of a token.
const (
	claimUser     = "username"
	claimRevision = "revision"
	claimExpiry   = "exp"
)

// reloadInterval is how often the key files are read to see whether they changed: often enough for somebody
// who waits beside the machine, seldom enough to cost nothing.
const reloadInterval = 5 * time.Second

// jwtTokens signs and verifies JSON web tokens. It remembers none of them: what a token says holds until it
// expires, and the revision in it tells whether users or roles have changed since.
type jwtTokens struct {
	method   jwt.SigningMethod
	ttl      time.Duration
	public   string // names of files, empty if not configured
	private  string
	readFile func(name string) ([]byte, error)

	keys atomic.Pointer[keys]

	mu struct {
		sync.Mutex
		checked time.Time // when the files were read last
		files   keyFiles  // what was in them, even if it cannot be used
		failed  string    // why they could not be read; empty if they could
	}
}

func newJWT(cfg TokenConfig, now time.Time) (*jwtTokens, error) {
	values := cfg.Options.values
	method, err := signingMethod(values[optionMethod])
	if err != nil {
		return nil, err
	}
	j := &jwtTokens{
		method:   method,
		ttl:      defaultJWTTTL,
		public:   values[optionPublicKey],
		private:  values[optionPrivateKey],
		readFile: cfg.ReadFile,
	}
	if text := values[optionTTL]; text != "" {
		if j.ttl, err = time.ParseDuration(text); err != nil || j.ttl <= 0 {
			return nil, fmt.Errorf("%w: ttl %q of --auth-token is not a duration above zero, such as 10m", ErrInvalidOptions, text)
		}
	}
	files, err := j.read()
	if err != nil {
		return nil, err
	}
	k, err := files.parse(method)
	if err != nil {
		return nil, err
	}
	j.keys.Store(k)
	j.mu.checked, j.mu.files = now, files
	return j, nil
}

func (j *jwtTokens) read() (f keyFiles, err error) {
	if f.public, err = j.readKey(optionPublicKey, j.public); err != nil {
		return keyFiles{}, err
	}
	f.private, err = j.readKey(optionPrivateKey, j.private)
	return f, err
}

// readKey reads one file, nothing if none is configured. An empty file is an error and not a missing
// option: a private key that is just being replaced must not make the member one that only verifies.
func (j *jwtTokens) readKey(option, name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	key, err := j.readFile(name)
	if err != nil {
		return nil, fmt.Errorf("%w: read %s of --auth-token: %w", ErrInvalidOptions, option, err)
	}
	if len(key) == 0 {
		return nil, fmt.Errorf("%w: %s %s of --auth-token is empty", ErrMissingKey, option, name)
	}
	return key, nil
}

// Maintain reads the key files if that was not done in the last five seconds, and if they changed uses the
// new keys from now on: tokens of the old ones end.
func (j *jwtTokens) Maintain(now time.Time) (reloaded bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if since := now.Sub(j.mu.checked); since >= 0 && since < reloadInterval {
		return false, nil
	}
	j.mu.checked = now
	files, err := j.read()
	if err != nil {
		if err.Error() == j.mu.failed {
			return false, nil
		}
		j.mu.failed = err.Error()
		return false, fmt.Errorf("auth: the keys before stay in use: %w", err)
	}
	j.mu.failed = ""
	if files.equal(j.mu.files) {
		return false, nil
	}
	j.mu.files = files
	k, err := files.parse(j.method)
	if err != nil {
		return false, fmt.Errorf("auth: key files changed, the keys before stay in use: %w", err)
	}
	j.keys.Store(k)
	return true, nil
}

// NewPrefix returns nothing: signed tokens need no random part.
func (j *jwtTokens) NewPrefix() (string, error) { return "", nil }

// AppliedIndex returns 0: signed tokens depend on no entry.
func (j *jwtTokens) AppliedIndex(string) uint64 { return 0 }

// Apply does nothing: what ends a signed token is its expiry or its revision.
func (j *jwtTokens) Apply([]Change, time.Time) {}

// Issue signs a token for an applied login.
func (j *jwtTokens) Issue(l Login, now time.Time) (string, error) {
	k := j.keys.Load()
	if k.sign == nil {
		return "", ErrVerifyOnly
	}
	token, err := jwt.NewWithClaims(j.method, jwt.MapClaims{
		claimUser:     l.User,
		claimRevision: l.Revision,
		claimExpiry:   now.Add(j.ttl).Unix(),
	}).SignedString(k.sign)
	if err != nil {
		return "", fmt.Errorf("auth: sign a token: %w", err)
	}
	return token, nil
}

// Identify verifies a token. One without expiry never expires, as in etcd: who holds the private key may
// have made it so.
func (j *jwtTokens) Identify(token string, _ uint64, now time.Time) (Identity, error) {
	k := j.keys.Load()
	// The method is fixed: a token that names another one must not choose how the key is used.
	parser := jwt.NewParser(jwt.WithValidMethods([]string{j.method.Alg()}), jwt.WithTimeFunc(func() time.Time { return now }))
	claims := jwt.MapClaims{}
	if _, err := parser.ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return k.verify, nil }); err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrInvalidToken, err)
	}
	user, ok := claims[claimUser].(string)
	if !ok {
		return Identity{}, fmt.Errorf("%w: it has no claim %s", ErrInvalidToken, claimUser)
	}
	revision, ok := claims[claimRevision].(float64)
	if !ok || revision < 0 || revision >= 1<<64 {
		return Identity{}, fmt.Errorf("%w: it has no claim %s", ErrInvalidToken, claimRevision)
	}
	return Identity{user, uint64(revision)}, nil
}
