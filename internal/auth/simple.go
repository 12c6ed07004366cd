package auth

import (
	"container/list"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	// prefixLength letters hold 91 random bits; etcd's length.
	prefixLength = 16

	// DefaultMaxSimple bounds the memory for simple tokens to some 30 MB. A client needs one; only clients
	// that log in again for every request come near it.
	DefaultMaxSimple = 100_000

	// simpleResolution is how exactly the last use of a token is known, etcd's one second. Without it each
	// use of a token would need the lock for writing.
	simpleResolution = time.Second
)

// simple remembers the tokens that were issued. A token is PREFIX.INDEX, known to all members because it is
// made of what the entry holds, and lives on each member as long as it is used there.
type simple struct {
	ttl    time.Duration
	max    int
	random io.Reader

	mu struct {
		sync.RWMutex
		tokens map[string]*list.Element
		used   *list.List // of *remembered, the one not used for the longest time first
	}
}

type remembered struct {
	token, user string
	used        time.Time
}

func newSimple(cfg TokenConfig) *simple {
	s := &simple{ttl: cfg.SimpleTTL, max: cfg.MaxSimple, random: cfg.Random}
	if s.ttl <= 0 {
		s.ttl = DefaultSimpleTTL
	}
	if s.max <= 0 {
		s.max = DefaultMaxSimple
	}
	s.mu.tokens = make(map[string]*list.Element)
	s.mu.used = list.New()
	return s
}

func (s *simple) NewPrefix() (string, error) {
	// A byte above the largest multiple of the number of letters is thrown away: it would make some letters
	// likelier than others.
	const fair = 256 / len(letters) * len(letters)
	prefix := make([]byte, 0, prefixLength)
	var buf [prefixLength]byte
	for len(prefix) < prefixLength {
		if _, err := io.ReadFull(s.random, buf[:]); err != nil {
			return "", fmt.Errorf("auth: make a token: %w", err)
		}
		for _, c := range buf {
			if int(c) < fair && len(prefix) < prefixLength {
				prefix = append(prefix, letters[int(c)%len(letters)])
			}
		}
	}
	return string(prefix), nil
}

func (s *simple) Issue(l Login, _ time.Time) (string, error) { return l.token(), nil }

func (l Login) token() string { return l.Prefix + "." + strconv.FormatUint(l.Index, 10) }

func (s *simple) AppliedIndex(token string) uint64 {
	_, text, found := strings.Cut(token, ".")
	if !found {
		return 0
	}
	index, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0
	}
	return index
}

func (s *simple) Identify(token string, revision uint64, now time.Time) (Identity, error) {
	s.mu.RLock()
	e := s.mu.tokens[token]
	if e == nil {
		s.mu.RUnlock()
		return Identity{}, ErrInvalidToken
	}
	r := *e.Value.(*remembered)
	s.mu.RUnlock()
	if s.expired(r.used, now) {
		return Identity{}, fmt.Errorf("%w: it was not used for %v", ErrInvalidToken, s.ttl)
	}
	if now.Sub(r.used) >= simpleResolution {
		s.touch(token, now)
	}
	return Identity{r.user, revision}, nil
}

// expired adds the resolution because a use within it after the noted one has not been noted.
func (s *simple) expired(used, now time.Time) bool { return now.Sub(used) >= s.ttl+simpleResolution }

func (s *simple) touch(token string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.mu.tokens[token]; e != nil && now.After(e.Value.(*remembered).used) {
		e.Value.(*remembered).used = now
		s.mu.used.MoveToBack(e)
	}
}

func (s *simple) Apply(changes []Change, now time.Time) {
	if len(changes) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range changes {
		switch c.Kind {
		case Authenticated:
			s.remember(c.Login, now)
		case CredentialsChanged:
			s.forgetUser(c.Login.User)
		case Reset:
			clear(s.mu.tokens)
			s.mu.used.Init()
		}
	}
}

// remember notes a token; the caller holds the lock.
func (s *simple) remember(l Login, now time.Time) {
	// The login of a member that issues other tokens has no random part: its token could be guessed.
	if l.Prefix == "" {
		return
	}
	token := l.token()
	s.forget(s.mu.tokens[token])
	if len(s.mu.tokens) >= s.max {
		s.forget(s.mu.used.Front())
	}
	s.mu.tokens[token] = s.mu.used.PushBack(&remembered{token, l.User, now})
}

func (s *simple) forget(e *list.Element) {
	if e != nil {
		delete(s.mu.tokens, e.Value.(*remembered).token)
		s.mu.used.Remove(e)
	}
}

func (s *simple) forgetUser(name string) {
	for e := s.mu.used.Front(); e != nil; {
		next := e.Next()
		if e.Value.(*remembered).user == name {
			s.forget(e)
		}
		e = next
	}
}

func (s *simple) Maintain(now time.Time) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.mu.used.Front(); e != nil && s.expired(e.Value.(*remembered).used, now); e = s.mu.used.Front() {
		s.forget(e)
	}
	return false, nil
}
