package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/crypto/bcrypt"
)

// ErrTooManyChecks says that too many requests wait for a password to be hashed.
var ErrTooManyChecks = errors.New("auth: too many passwords are waiting to be checked, try again later")

const (
	// DefaultCost is bcrypt's and etcd's: some 50 ms a password.
	DefaultCost = bcrypt.DefaultCost
	// DefaultWaiting bounds those who wait for bcrypt; the last of them waits some seconds.
	DefaultWaiting = 128
	// DefaultVerified bounds the verified passwords that are remembered, 100 bytes each.
	DefaultVerified = 4096
)

// PasswordConfig is how passwords are hashed and verified.
type PasswordConfig struct {
	// Cost is the logarithm of bcrypt's rounds, 4 to 31; DefaultCost if it is none of them.
	Cost int
	// Concurrent is the most passwords hashed at a time, 1 if 0: each keeps a core busy that requests need.
	Concurrent int
	// Waiting is the most callers that wait for their turn, DefaultWaiting if 0.
	Waiting int
	// Verified is the most verified passwords remembered, DefaultVerified if 0.
	Verified int
	// Random is a source of secrets: crypto/rand.Reader outside tests.
	Random io.Reader
}

// Passwords hashes passwords and verifies them. It works in the caller's goroutine, which must not be the
// applier's, and may be used by many of them.
//
// Verified passwords are remembered, because bcrypt is slow on purpose and a thousand clients that come
// back after an outage share a few users. What is remembered is a keyed hash of the stored hash and the
// password: the key is never written down, and another password has another stored hash. Wrong passwords
// are never remembered, so guessing costs what it did.
type Passwords struct {
	cost int
	key  []byte
	slot chan struct{} // filled by those who hash
	room chan struct{} // filled by those who hash or wait

	mu struct {
		sync.Mutex
		verified map[fingerprint]struct{}
		order    []fingerprint // a ring, oldest at next once it is full
		next     int
	}
}

type fingerprint [sha256.Size]byte

// NewPasswords returns what hashes and verifies. Its error is that of the source of randomness.
func NewPasswords(cfg PasswordConfig) (*Passwords, error) {
	if cfg.Cost < bcrypt.MinCost || cfg.Cost > bcrypt.MaxCost {
		cfg.Cost = DefaultCost
	}
	concurrent := max(cfg.Concurrent, 1)
	if cfg.Waiting <= 0 {
		cfg.Waiting = DefaultWaiting
	}
	if cfg.Verified <= 0 {
		cfg.Verified = DefaultVerified
	}
	p := &Passwords{
		cost: cfg.Cost,
		key:  make([]byte, sha256.Size),
		slot: make(chan struct{}, concurrent),
		room: make(chan struct{}, concurrent+cfg.Waiting),
	}
	if _, err := io.ReadFull(cfg.Random, p.key); err != nil {
		return nil, fmt.Errorf("auth: make a key for verified passwords: %w", err)
	}
	p.mu.verified = make(map[fingerprint]struct{})
	p.mu.order = make([]fingerprint, cfg.Verified)
	return p, nil
}

// Cost returns the cost in use, which is not the configured one if that was out of range.
func (p *Passwords) Cost() int { return p.cost }

// maxPassword is how many bytes of a password bcrypt takes.
const maxPassword = 72

// CheckLength refuses a password that is too long to be hashed, at once and with the same error as Hash.
func CheckLength(password string) error {
	if len(password) > maxPassword {
		return bcrypt.ErrPasswordTooLong
	}
	return nil
}

// Hash returns bcrypt's text for a password. Errors: ErrTooManyChecks; the context's; bcrypt's for a
// password of more than 72 bytes, which clients get as it is.
func (p *Passwords) Hash(ctx context.Context, password string) ([]byte, error) {
	if err := p.enter(ctx); err != nil {
		return nil, err
	}
	defer p.leave()
	return bcrypt.GenerateFromPassword([]byte(password), p.cost)
}

// Verify compares a password with what is stored for the user. Errors: ErrFailed if it does not fit;
// ErrTooManyChecks; the context's.
func (p *Passwords) Verify(ctx context.Context, stored []byte, password string) error {
	f := p.fingerprint(stored, password)
	if p.isVerified(f) {
		return nil
	}
	if err := p.enter(ctx); err != nil {
		return err
	}
	defer p.leave()
	// Many who wait bring the same password: the first has verified it for all.
	if p.isVerified(f) {
		return nil
	}
	if err := bcrypt.CompareHashAndPassword(stored, []byte(password)); err != nil {
		return ErrFailed
	}
	p.remember(f)
	return nil
}

// Apply forgets the verified passwords when one of them was changed or auth was turned off.
func (p *Passwords) Apply(changes []Change) {
	for _, c := range changes {
		if c.Kind == CredentialsChanged || c.Kind == Reset {
			p.mu.Lock()
			clear(p.mu.verified)
			clear(p.mu.order)
			p.mu.next = 0
			p.mu.Unlock()
			return
		}
	}
}

// enter waits for a turn to hash; leave ends it.
func (p *Passwords) enter(ctx context.Context) error {
	select {
	case p.room <- struct{}{}:
	default:
		return ErrTooManyChecks
	}
	select {
	case p.slot <- struct{}{}:
		return nil
	case <-ctx.Done():
		<-p.room
		return ctx.Err()
	}
}

func (p *Passwords) leave() {
	<-p.slot
	<-p.room
}

// fingerprint hashes the length of the stored text too, so that no other pair has the same bytes.
func (p *Passwords) fingerprint(stored []byte, password string) (f fingerprint) {
	h := hmac.New(sha256.New, p.key)
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(stored))))
	h.Write(stored)
	h.Write([]byte(password))
	h.Sum(f[:0])
	return f
}

func (p *Passwords) isVerified(f fingerprint) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, found := p.mu.verified[f]
	return found
}

func (p *Passwords) remember(f fingerprint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, found := p.mu.verified[f]; found {
		return
	}
	delete(p.mu.verified, p.mu.order[p.mu.next])
	p.mu.verified[f] = struct{}{}
	p.mu.order[p.mu.next] = f
	p.mu.next = (p.mu.next + 1) % len(p.mu.order)
}
