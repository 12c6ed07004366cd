package auth

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"
)

func newPasswords(t *testing.T, cfg PasswordConfig) *Passwords {
	cfg.Cost, cfg.Random = bcrypt.MinCost, rand.Reader
	p, err := NewPasswords(cfg)
	require.NoError(t, err)
	return p
}

func TestPasswords(t *testing.T) {
	p, ctx := newPasswords(t, PasswordConfig{}), t.Context()
	stored, err := p.Hash(ctx, "secret")
	require.NoError(t, err)
	cost, err := bcrypt.Cost(stored)
	require.NoError(t, err)
	require.Equal(t, p.Cost(), cost)
	empty, err := p.Hash(ctx, "")
	require.NoError(t, err)

	for range 2 { // The second time from memory.
		require.NoError(t, p.Verify(ctx, stored, "secret"))
		require.NoError(t, p.Verify(ctx, empty, ""))
		for _, wrong := range []string{"", "Secret", "secret ", "secre"} {
			require.ErrorIs(t, p.Verify(ctx, stored, wrong), ErrFailed, wrong)
		}
		require.ErrorIs(t, p.Verify(ctx, empty, "secret"), ErrFailed)
		require.ErrorIs(t, p.Verify(ctx, nil, ""), ErrFailed, "nothing fits a user without a stored password")
		require.ErrorIs(t, p.Verify(ctx, []byte("junk"), "junk"), ErrFailed)
	}
	require.Len(t, p.mu.verified, 2)

	_, err = p.Hash(ctx, string(make([]byte, 73)))
	require.EqualError(t, err, "bcrypt: password length exceeds 72 bytes")
}

func TestPasswordsCost(t *testing.T) {
	for cost, want := range map[int]int{0: 10, 3: 10, 4: 4, 31: 31, 32: 10, -1: 10} {
		p, err := NewPasswords(PasswordConfig{Cost: cost, Random: rand.Reader})
		require.NoError(t, err)
		require.Equal(t, want, p.Cost())
	}
	_, err := NewPasswords(PasswordConfig{Random: iotest.ErrReader(errors.New("no entropy"))})
	require.ErrorContains(t, err, "no entropy")
}

func TestVerifiedPasswordsAreForgotten(t *testing.T) {
	p, ctx := newPasswords(t, PasswordConfig{Verified: 3}), t.Context()
	var hashes [][]byte
	for i := range 5 {
		h, err := p.Hash(ctx, fmt.Sprint(i))
		require.NoError(t, err)
		hashes = append(hashes, h)
		require.NoError(t, p.Verify(ctx, h, fmt.Sprint(i)))
		p.remember(p.fingerprint(h, fmt.Sprint(i))) // By two who verified it at the same time.
	}
	require.Len(t, p.mu.verified, 3)
	for i, h := range hashes {
		require.Equal(t, i >= 2, p.isVerified(p.fingerprint(h, fmt.Sprint(i))), "password %d", i)
	}
	p.Apply([]Change{login("u", "P", 1)})
	require.Len(t, p.mu.verified, 3)
	p.Apply([]Change{login("u", "P", 1), {CredentialsChanged, Login{User: "u"}}})
	require.Empty(t, p.mu.verified)
	require.NoError(t, p.Verify(ctx, hashes[0], "0"))
	require.Len(t, p.mu.verified, 1)
	p.Apply([]Change{{Kind: Reset}})
	require.Empty(t, p.mu.verified)

	// What is remembered depends on the member, on both parts, and on where one ends.
	q := newPasswords(t, PasswordConfig{})
	require.NotEqual(t, p.fingerprint([]byte("ab"), "c"), q.fingerprint([]byte("ab"), "c"))
	require.NotEqual(t, p.fingerprint([]byte("ab"), "c"), p.fingerprint([]byte("a"), "bc"))
}

func TestPasswordChecksAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPasswords(t, PasswordConfig{Concurrent: 1, Waiting: 2})
		stored, err := bcrypt.GenerateFromPassword([]byte("x"), bcrypt.MinCost)
		require.NoError(t, err)
		require.NoError(t, p.enter(t.Context())) // One is hashing.

		ctx, cancel := context.WithCancel(t.Context())
		results := make(chan error, 3)
		go func() { results <- p.Verify(ctx, stored, "x") }()
		go func() { _, err := p.Hash(ctx, "x"); results <- err }()
		synctest.Wait()
		require.ErrorIs(t, p.Verify(ctx, stored, "x"), ErrTooManyChecks)
		_, err = p.Hash(ctx, "x")
		require.ErrorIs(t, err, ErrTooManyChecks)

		cancel()
		require.ErrorIs(t, <-results, context.Canceled)
		require.ErrorIs(t, <-results, context.Canceled)

		// Of several who wait with one password the first verifies it for all.
		go func() { results <- p.Verify(t.Context(), stored, "x") }()
		go func() { results <- p.Verify(t.Context(), stored, "x") }()
		synctest.Wait()
		p.leave()
		require.NoError(t, <-results)
		require.NoError(t, <-results)
		require.Len(t, p.mu.verified, 1)
		require.Empty(t, p.slot)
		require.Empty(t, p.room)
	})
}
