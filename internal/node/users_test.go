package node

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dolmen-io/dolmen/internal/auth"
	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/etcdapi"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// as proposes a request in a user's name and returns its rejection.
func as(t *testing.T, m *Member, user string, req *pb.InternalRaftRequest) error {
	t.Helper()
	if user != "" {
		who := m.Users().Identity(user)
		req.Header = &pb.RequestHeader{Username: who.User, AuthRevision: who.Revision}
	}
	res, err := m.Propose(t.Context(), req)
	require.NoError(t, err)
	return res.Err
}

// secure makes a root user and turns auth on.
func secure(t *testing.T, m *Member) {
	t.Helper()
	for _, req := range []*pb.InternalRaftRequest{
		{AuthUserAdd: &pb.AuthUserAddRequest{Name: "root", HashedPassword: "cA=="}},
		{AuthUserGrantRole: &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"}},
		{AuthEnable: &pb.AuthEnableRequest{}},
	} {
		require.NoError(t, as(t, m, "", req))
	}
}

// login gets a token for root, without a password: that is the services' matter.
func login(t *testing.T, m *Member) string {
	t.Helper()
	prefix, err := m.users.tokens.NewPrefix()
	require.NoError(t, err)
	res, err := m.Propose(t.Context(), &pb.InternalRaftRequest{
		Authenticate: &pb.InternalAuthenticateRequest{Name: "root", SimpleToken: prefix},
	})
	require.NoError(t, err)
	require.NoError(t, res.Err)
	token, err := m.users.tokens.Issue(res.Response.(auth.Login), time.Now())
	require.NoError(t, err)
	return token
}

func known(m *Member, token string) bool {
	_, err := m.users.tokens.Identify(token, m.Users().Revision(), time.Now())
	return err == nil
}

// TestUsers turns auth on and off under a member: who is unknown writes nothing, tokens live as long as they
// are used, and what the member does by itself goes on.
func TestUsers(t *testing.T) {
	smallSegments(t)
	synctest.Test(t, func(t *testing.T) {
		cfg := quietConfig(t, config.EngineMemory)
		cfg.Auth.TokenTTL = 20
		logged, lines := observer.New(zap.InfoLevel)
		d := newForgetful(config.EngineMemory, filepath.Join(t.TempDir(), "wal"))
		m, err := openOn(t.Context(), cfg, zap.New(logged), d.open)
		require.NoError(t, err)
		<-m.Ready()
		grant(t, m, 7, 10)
		secure(t, m)
		require.Len(t, lines.FilterMessage("enabled authentication").All(), 1)
		require.ErrorIs(t, as(t, m, "", put("a", "1")), auth.ErrUserEmpty)
		require.ErrorIs(t, as(t, m, "ghost", put("a", "1")), auth.ErrPermissionDenied)
		require.NoError(t, as(t, m, "root", put("a", "1")))

		token := login(t, m)
		time.Sleep(15 * time.Second)
		require.Empty(t, read(t, m, "k").Value, "the lease that ended is revoked in the name of root")
		require.True(t, known(m, token))
		time.Sleep(15 * time.Second)
		require.True(t, known(m, token), "its use has prolonged it")
		time.Sleep(25 * time.Second)
		require.False(t, known(m, token))

		token = login(t, m)
		stop(t, m)
		m = start(t, cfg, d)
		require.True(t, m.Users().Enabled(), "users are replicated")
		require.False(t, known(m, token), "tokens are the process' own")
		token = login(t, m)
		require.NoError(t, as(t, m, "root", &pb.InternalRaftRequest{AuthDisable: &pb.AuthDisableRequest{}}))
		require.False(t, known(m, token))
		require.NoError(t, as(t, m, "", put("a", "2")))
		stop(t, m)
	})
}

// TestTokensEndInACrash: a login that is applied once more after a crash makes no token.
func TestTokensEndInACrash(t *testing.T) {
	smallSegments(t)
	synctest.Test(t, func(t *testing.T) {
		cfg := quietConfig(t, config.EngineMemory)
		d := newForgetful(config.EngineMemory, filepath.Join(t.TempDir(), "wal"))
		m := start(t, cfg, d)
		secure(t, m)
		token := login(t, m)
		require.True(t, known(m, token))
		after, err := d.crash(rand.New(rand.NewPCG(1, 1)), filepath.Join(t.TempDir(), "after"))
		require.NoError(t, err)
		stop(t, m)
		m = start(t, cfg, after)
		require.True(t, m.Users().Enabled(), "the log is replayed")
		require.False(t, known(m, token))
		require.True(t, known(m, login(t, m)))
		stop(t, m)
	})
}

func TestAwait(t *testing.T) {
	smallSegments(t)
	synctest.Test(t, func(t *testing.T) {
		m := start(t, quietConfig(t, config.EngineMemory), newForgetful(config.EngineMemory, filepath.Join(t.TempDir(), "wal")))
		v := m.state.View()
		next := v.Applied.Index + 1
		v.Release()
		require.ErrorIs(t, m.Await(t.Context(), next+1000), etcdapi.ErrTimeout, "a forged token names an index that never comes")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, m.Await(ctx, next+1000), context.Canceled)
		require.NoError(t, as(t, m, "", put("a", "1")))
		require.NoError(t, m.Await(t.Context(), next))
		stop(t, m)
		require.ErrorIs(t, m.Await(t.Context(), next+1000), consensus.ErrStopped)
	})
}

// Options that cannot be used stop a start before anything is bound or opened.
func TestBadTokenOptions(t *testing.T) {
	cfg := quietConfig(t, config.EngineMemory)
	for text, want := range map[string]error{
		"none-of-these": auth.ErrInvalidOptions,
		"jwt":           auth.ErrInvalidOptions,
		"jwt,sign-method=ES256,pub-key=" + filepath.Join(t.TempDir(), "gone"): auth.ErrInvalidOptions,
		"jwt,sign-method=RS256": auth.ErrMissingKey,
	} {
		cfg.Auth.Token = text
		_, err := openOn(t.Context(), cfg, zap.NewNop(), nil)
		require.ErrorIs(t, err, want, text)
	}
	logged, lines := observer.New(zap.WarnLevel)
	cfg.Auth.Token, cfg.Auth.BcryptCost = "simple,x=1", 99
	_, err := newUsers(cfg, zap.New(logged))
	require.NoError(t, err)
	require.NotEmpty(t, lines.FilterMessageSnippet("bcrypt").All())
}
