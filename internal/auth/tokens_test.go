package auth

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
)

func start() time.Time { return time.Unix(1_000_000, 0) }

func newTokens(t *testing.T, options string, change func(*TokenConfig)) Tokens {
	o, err := ParseTokenOptions(options)
	require.NoError(t, err)
	cfg := TokenConfig{Options: o, Random: rand.Reader, ReadFile: os.ReadFile}
	if change != nil {
		change(&cfg)
	}
	tokens, err := NewTokens(cfg, start())
	require.NoError(t, err)
	return tokens
}

func login(user, prefix string, index uint64) Change {
	return Change{Authenticated, Login{User: user, Revision: 5, Prefix: prefix, Index: index}}
}

func TestParseTokenOptions(t *testing.T) {
	for text, want := range map[string]string{
		"":                            "",
		"simple":                      "",
		"simple,anything=1":           "",
		"jwt,sign-method=RS256,ttl=1": "",
		"jwt,b=,a=x":                  "",
		"foo":                         `--auth-token has the unknown type "foo"`,
		"JWT":                         `--auth-token has the unknown type "JWT"`,
		"jwt,a":                       `"a" in --auth-token is not of the form name=value`,
		"jwt,a=b=c":                   `"a=b=c" in --auth-token is not of the form name=value`,
		"jwt,":                        `"" in --auth-token is not of the form name=value`,
		"jwt,a=1,a=2":                 `--auth-token has the option "a" twice`,
	} {
		o, err := ParseTokenOptions(text)
		if want == "" {
			require.NoError(t, err, text)
			require.Equal(t, strings.HasPrefix(text, "simple"), o.Simple(), text)
			continue
		}
		require.ErrorIs(t, err, ErrInvalidOptions, text)
		require.ErrorContains(t, err, want, text)
	}
	o, err := ParseTokenOptions("jwt,zzz=1,sign-method=RS256,pub-key=p,priv-key=q,ttl=1m,aaa=2")
	require.NoError(t, err)
	require.Equal(t, []string{"aaa", "zzz"}, o.Unknown)
}

func TestNoTokens(t *testing.T) {
	tokens := newTokens(t, "", nil)
	prefix, err := tokens.NewPrefix()
	require.NoError(t, err)
	require.Empty(t, prefix)
	_, err = tokens.Issue(Login{User: "u"}, start())
	require.ErrorIs(t, err, ErrFailed)
	require.Zero(t, tokens.AppliedIndex("abc.5"))
	tokens.Apply([]Change{login("u", "abc", 5)}, start())
	reloaded, err := tokens.Maintain(start())
	require.NoError(t, err)
	require.False(t, reloaded)
	for _, token := range []string{"", "abc.5", ".5"} {
		_, err = tokens.Identify(token, 1, start())
		require.ErrorIs(t, err, ErrInvalidToken)
	}
}

func TestSimplePrefix(t *testing.T) {
	tokens := newTokens(t, "simple", nil)
	seen, used := map[string]bool{}, map[rune]int{}
	for range 2000 {
		prefix, err := tokens.NewPrefix()
		require.NoError(t, err)
		require.Regexp(t, "^[a-zA-Z]{16}$", prefix)
		require.False(t, seen[prefix])
		seen[prefix] = true
		for _, c := range prefix {
			used[c]++
		}
	}
	// 32,000 letters, 615 of each expected with a deviation of 25.
	require.Len(t, used, 52)
	for c, n := range used {
		require.InDelta(t, 615, n, 200, "letter %c", c)
	}

	broken := newTokens(t, "simple", func(cfg *TokenConfig) { cfg.Random = iotest.ErrReader(errors.New("no entropy")) })
	_, err := broken.NewPrefix()
	require.ErrorContains(t, err, "no entropy")

	// Bytes that would make some letters likelier are thrown away.
	biased := newTokens(t, "simple", func(cfg *TokenConfig) {
		cfg.Random = bytes.NewReader(append(bytes.Repeat([]byte{255, 208}, 8), bytes.Repeat([]byte{207, 52}, 8)...))
	})
	prefix, err := biased.NewPrefix()
	require.NoError(t, err)
	require.Equal(t, strings.Repeat("Za", 8), prefix)
}

func TestSimpleTokens(t *testing.T) {
	tokens := newTokens(t, "simple", func(cfg *TokenConfig) { cfg.SimpleTTL = 10 * time.Second })
	now := start()
	tokens.Apply([]Change{login("alice", "AAA", 7), login("bob", "BBB", 8), login("alice", "CCC", 9)}, now)
	token, err := tokens.Issue(Login{User: "alice", Prefix: "AAA", Index: 7}, now)
	require.NoError(t, err)
	require.Equal(t, "AAA.7", token)
	require.Equal(t, uint64(7), tokens.AppliedIndex(token))
	for _, malformed := range []string{"", "AAA", "AAA.", "AAA.x", "AAA.-7", "AAA.7.8", "AAA.99999999999999999999"} {
		require.Zero(t, tokens.AppliedIndex(malformed), malformed)
	}

	who, err := tokens.Identify(token, 42, now)
	require.NoError(t, err)
	require.Equal(t, Identity{"alice", 42}, who)
	for _, forged := range []string{"", "AAA", "AAA.8", "AAA.07", "aaa.7", "AAA.7 ", ".7", "AAA.7.8"} {
		_, err := tokens.Identify(forged, 42, now)
		require.ErrorIs(t, err, ErrInvalidToken, "%q", forged)
	}

	// What a user's new password ends, and what it does not.
	tokens.Apply([]Change{{CredentialsChanged, Login{User: "alice"}}}, now)
	for token, valid := range map[string]bool{"AAA.7": false, "BBB.8": true, "CCC.9": false} {
		_, err := tokens.Identify(token, 1, now)
		require.Equal(t, valid, err == nil, token)
	}
	tokens.Apply([]Change{{Kind: Reset}, login("carl", "DDD", 10)}, now)
	_, err = tokens.Identify("BBB.8", 1, now)
	require.ErrorIs(t, err, ErrInvalidToken)
	_, err = tokens.Identify("DDD.10", 1, now)
	require.NoError(t, err)
	tokens.Apply(nil, now)
}

// A member that issues signed tokens proposes logins without a random part. Who can count could forge the
// simple token of such a login.
func TestSimpleTokenNeedsPrefix(t *testing.T) {
	tokens := newTokens(t, "simple", nil)
	tokens.Apply([]Change{login("root", "", 7)}, start())
	_, err := tokens.Identify(".7", 1, start())
	require.ErrorIs(t, err, ErrInvalidToken)
}

func TestSimpleTokensExpire(t *testing.T) {
	tokens := newTokens(t, "simple", func(cfg *TokenConfig) { cfg.SimpleTTL = 10 * time.Second })
	at := func(seconds float64) time.Time { return start().Add(time.Duration(seconds * float64(time.Second))) }
	valid := func(token string, seconds float64) bool {
		_, err := tokens.Identify(token, 1, at(seconds))
		return err == nil
	}
	count := func(seconds float64) int {
		_, err := tokens.Maintain(at(seconds))
		require.NoError(t, err)
		require.Equal(t, len(tokens.(*simple).mu.tokens), tokens.(*simple).mu.used.Len())
		return len(tokens.(*simple).mu.tokens)
	}
	tokens.Apply([]Change{login("a", "A", 1)}, at(0))
	tokens.Apply([]Change{login("b", "B", 2)}, at(1))
	// Each use moves the expiry, known to a second.
	require.True(t, valid("A.1", 9))
	require.True(t, valid("A.1", 9.5))
	require.True(t, valid("A.1", 18))
	require.Equal(t, 1, count(18), "B.2 was last used at 1")
	require.False(t, valid("B.2", 18))
	require.True(t, valid("A.1", 28))
	require.True(t, valid("A.1", 38.9))
	require.False(t, valid("A.1", 49.9), "refused before it is cleaned up")
	require.Equal(t, 0, count(49.9))

	// A clock that runs backwards neither extends nor ends a token.
	tokens.Apply([]Change{login("c", "C", 3)}, at(100))
	require.True(t, valid("C.3", 50))
	require.True(t, valid("C.3", 110.9))
	require.Equal(t, 1, count(60))

	for _, ttl := range []time.Duration{0, -1} {
		s := newTokens(t, "simple", func(cfg *TokenConfig) { cfg.SimpleTTL = ttl }).(*simple)
		require.Equal(t, 300*time.Second, s.ttl)
		require.Equal(t, DefaultMaxSimple, s.max)
	}
}

func TestSimpleTokensAreBounded(t *testing.T) {
	tokens := newTokens(t, "simple", func(cfg *TokenConfig) { cfg.MaxSimple = 3 })
	for i := range uint64(3) {
		tokens.Apply([]Change{login("u", "P", i)}, start())
	}
	_, err := tokens.Identify("P.0", 1, start().Add(2*time.Second))
	require.NoError(t, err)
	// The same token again is one token.
	tokens.Apply([]Change{login("u", "P", 2)}, start())
	tokens.Apply([]Change{login("u", "P", 3)}, start())
	for token, valid := range map[string]bool{"P.0": true, "P.1": false, "P.2": true, "P.3": true} {
		_, err := tokens.Identify(token, 1, start())
		require.Equal(t, valid, err == nil, token)
	}
	require.Len(t, tokens.(*simple).mu.tokens, 3)
}

func TestSimpleTokensFromManyGoroutines(t *testing.T) {
	tokens := newTokens(t, "simple", func(cfg *TokenConfig) { cfg.MaxSimple = 50 })
	tokens.Apply([]Change{login("keeper", "K", 0)}, start())
	var wg sync.WaitGroup
	errs := make(chan error, 4)
	for g := range 4 {
		wg.Go(func() {
			for i := range 500 {
				now := start().Add(time.Duration(i) * time.Second)
				tokens.Apply([]Change{login(fmt.Sprint("u", g), fmt.Sprint("P", g), uint64(i))}, now)
				if _, err := tokens.Identify("K.0", 1, now); err != nil {
					errs <- err
					return
				}
				if i%50 == 0 {
					tokens.Apply([]Change{{CredentialsChanged, Login{User: fmt.Sprint("u", g)}}}, now)
				}
				if _, err := tokens.Maintain(now); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		// The keeper may be the one that was not used for the longest time, never a wrong answer.
		require.ErrorIs(t, err, ErrInvalidToken)
	}
	s := tokens.(*simple)
	require.LessOrEqual(t, len(s.mu.tokens), 50)
	require.Equal(t, len(s.mu.tokens), s.mu.used.Len())
}
