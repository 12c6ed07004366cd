package node

import (
	"context"
	"crypto/rand"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/auth"
	"github.com/dolmen-io/dolmen/internal/config"
)

// users is what this member keeps of users beside the replicated table: tokens it has seen issued and
// passwords it has verified.
type users struct {
	lg        *zap.Logger
	tokens    auth.Tokens
	passwords *auth.Passwords
	interval  time.Duration
	enabled   bool // as last logged; the applier's
}

// newUsers reads the keys of tokens. Errors: those of auth.ParseTokenOptions and auth.NewTokens.
func newUsers(cfg *config.Config, lg *zap.Logger) (*users, error) {
	opts, err := auth.ParseTokenOptions(cfg.Auth.Token)
	if err != nil {
		return nil, err
	}
	for _, name := range opts.Unknown {
		lg.Warn("an option of --auth-token means nothing", zap.String("option", name))
	}
	if opts.Simple() {
		lg.Warn("simple token is not cryptographically signed")
	}
	u := &users{lg: lg, interval: cfg.Auth.TokenCleanupInterval}
	u.tokens, err = auth.NewTokens(auth.TokenConfig{
		Options: opts, SimpleTTL: time.Duration(cfg.Auth.TokenTTL) * time.Second, Random: rand.Reader, ReadFile: os.ReadFile,
	}, time.Now())
	if err != nil {
		return nil, err
	}
	u.passwords, err = auth.NewPasswords(auth.PasswordConfig{Cost: int(cfg.Auth.BcryptCost), Random: rand.Reader})
	if err != nil {
		return nil, err
	}
	if used := u.passwords.Cost(); used != int(cfg.Auth.BcryptCost) {
		lg.Warn("use default bcrypt cost instead of the invalid given cost",
			zap.Int("default-cost", used), zap.Uint("given-cost", cfg.Auth.BcryptCost))
	}
	return u, nil
}

// withoutLogins leaves out the logins up to an index. Those of entries that were in the log when the member
// started are not repeated: their tokens may have run out long ago, which no entry says.
func withoutLogins(changes []auth.Change, upTo uint64) []auth.Change {
	return slices.DeleteFunc(changes, func(c auth.Change) bool {
		return c.Kind == auth.Authenticated && c.Login.Index <= upTo
	})
}

// apply follows a turn. The applier calls it before the turn's results are handed out.
func (u *users) apply(changes []auth.Change, table *auth.View, now time.Time) {
	if len(changes) > 0 {
		u.tokens.Apply(changes, now)
		u.passwords.Apply(changes)
	}
	if enabled := table.Enabled(); enabled != u.enabled {
		u.enabled = enabled
		text := "disabled authentication"
		if enabled {
			text = "enabled authentication"
		}
		u.lg.Info(text, zap.Uint64("auth-revision", table.Revision()))
	}
}

// maintain forgets expired tokens and takes up changed keys until ctx ends.
func (u *users) maintain(ctx context.Context) error {
	ticker := time.NewTicker(u.interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			reloaded, err := u.tokens.Maintain(now)
			if err != nil {
				u.lg.Warn("cannot use the changed key files of --auth-token", zap.Error(err))
			}
			if reloaded {
				u.lg.Info("key files of --auth-token changed and are in use; tokens of the keys before have ended")
			}
		}
	}
}
