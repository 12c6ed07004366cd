package embed_test

import (
	"context"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dolmen-io/dolmen/embed"
	"github.com/dolmen-io/dolmen/internal/config"
)

// patience is how long a test waits for what must happen at once.
const patience = time.Minute

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func newConfig(t *testing.T, engine string) *embed.Config {
	cfg := embed.NewConfig()
	cfg.DataDir, cfg.StorageEngine = filepath.Join(t.TempDir(), "data"), engine
	return cfg
}

func client(t *testing.T, m *embed.Member) *clientv3.Client {
	c, err := m.Client()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func TestMember(t *testing.T) {
	for _, engine := range config.BuiltEngines() {
		t.Run(engine, func(t *testing.T) {
			ctx := testContext(t)
			cfg := newConfig(t, engine)
			m, err := embed.Start(ctx, cfg)
			require.NoError(t, err)
			c := client(t, m)
			events := c.Watch(ctx, "k", clientv3.WithPrefix())
			lease, err := c.Grant(ctx, 600)
			require.NoError(t, err)
			put, err := c.Put(ctx, "k1", "v1", clientv3.WithLease(lease.ID))
			require.NoError(t, err)
			got, err := c.Get(ctx, "k1")
			require.NoError(t, err)
			require.Equal(t, "v1", string(got.Kvs[0].Value))
			w := <-events
			require.NoError(t, w.Err())
			require.Equal(t, put.Header.Revision, w.Events[0].Kv.ModRevision)
			require.NoError(t, m.Close(ctx))
			<-m.Done()
			require.NoError(t, m.Err())
			require.NoError(t, m.Close(ctx), "closing it again")

			again, err := embed.Start(ctx, cfg)
			require.NoError(t, err)
			c = client(t, again)
			left, err := c.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys())
			require.NoError(t, err)
			require.Equal(t, [][]byte{[]byte("k1")}, left.Keys)
			_, err = c.Revoke(ctx, lease.ID)
			require.NoError(t, err)
			got, err = c.Get(ctx, "k1")
			require.NoError(t, err)
			require.Empty(t, got.Kvs)
			require.NoError(t, again.Close(ctx))
		})
	}
}

func TestChosenPortsAreAdvertised(t *testing.T) {
	ctx := testContext(t)
	cfg := newConfig(t, embed.EngineMemory)
	cfg.ListenClientURLs = []string{"http://0.0.0.0:0"}
	cfg.AdvertiseClientURLs = []string{"http://localhost:0"}
	m, err := embed.Start(ctx, cfg)
	require.NoError(t, err)
	require.Len(t, m.Endpoints(), 1)
	u, err := url.Parse(m.Endpoints()[0])
	require.NoError(t, err)
	require.Equal(t, "localhost", u.Hostname())
	require.NotEqual(t, "0", u.Port())
	members, err := client(t, m).MemberList(ctx)
	require.NoError(t, err)
	require.Equal(t, m.Endpoints(), members.Members[0].ClientURLs)
	peer, err := url.Parse(members.Members[0].PeerURLs[0])
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1", peer.Hostname())
	require.NotEqual(t, "0", peer.Port())
	require.NoError(t, m.Close(ctx))
}

func TestSocket(t *testing.T) {
	ctx := testContext(t)
	cfg := newConfig(t, embed.EngineMemory)
	t.Chdir(t.TempDir()) // paths of sockets are short
	cfg.ListenClientURLs = []string{"unix://member.sock"}
	m, err := embed.Start(ctx, cfg)
	require.NoError(t, err)
	require.Equal(t, []string{"unix:member.sock"}, m.Endpoints())
	_, err = client(t, m).Put(ctx, "k", "v")
	require.NoError(t, err)
	require.NoError(t, m.Close(ctx))
}

// TestSecure: over TLS the client of a member trusts that member alone.
func TestSecure(t *testing.T) {
	ctx := testContext(t)
	cfg := newConfig(t, embed.EngineMemory)
	t.Chdir(t.TempDir())
	cfg.ListenClientURLs = []string{"https://127.0.0.1:0", "unixs://member.sock"}
	cfg.Flags = append(cfg.Flags, "--auto-tls")
	m, err := embed.Start(ctx, cfg)
	require.NoError(t, err)
	require.Len(t, m.Endpoints(), 2)
	require.True(t, strings.HasPrefix(m.Endpoints()[0], "https://127.0.0.1:"))
	require.Equal(t, "unixs:member.sock", m.Endpoints()[1])
	_, err = client(t, m).Put(ctx, "k", "v")
	require.NoError(t, err)
	require.NoError(t, m.Close(ctx))

	cfg.ListenClientURLs = []string{"https://127.0.0.1:0", "http://127.0.0.1:0"}
	m, err = embed.Start(ctx, cfg)
	require.NoError(t, err)
	require.Len(t, m.Endpoints(), 1, "one port serves both")
	got, err := client(t, m).Get(ctx, "k")
	require.NoError(t, err)
	require.Len(t, got.Kvs, 1)
	require.NoError(t, m.Close(ctx))
}

func TestRefusals(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	tests := []struct {
		name   string
		change func(*embed.Config)
		want   string
	}{
		{"no data directory", func(c *embed.Config) { c.DataDir = "" }, "embed: no data directory: set Config.DataDir"},
		{"an unknown engine", func(c *embed.Config) { c.StorageEngine = "rocks" }, `embed: configuration: invalid value "rocks" for flag -storage-engine`},
		{"an unknown flag", func(c *embed.Config) { c.Flags = []string{"--no-such-flag"} }, "embed: configuration: flag provided but not defined: -no-such-flag"},
		{"a name to bind", func(c *embed.Config) { c.ListenClientURLs = []string{"http://example.com:0"} }, "expected IP in URL for binding"},
		{"a port in use", func(c *embed.Config) { c.ListenClientURLs = []string{"http://" + taken.Addr().String()} }, "embed: start: listen on http://" + taken.Addr().String()},
		{"no initial cluster with this member", func(c *embed.Config) { c.Flags = []string{"--initial-cluster=other=http://127.0.0.1:1"} }, `couldn't find local name "default"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := newConfig(t, embed.EngineMemory)
			tt.change(cfg)
			_, err := embed.Start(testContext(t), cfg)
			require.ErrorContains(t, err, tt.want)
		})
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	cfg := newConfig(t, embed.EngineMemory)
	m, err := embed.Start(testContext(t), cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(testContext(t))
	core, lines := observer.New(zapcore.InfoLevel)
	second := *cfg
	second.Logger = zap.New(core, zap.Hooks(func(e zapcore.Entry) error {
		if e.Message == "waiting for another process to leave the data directory" {
			cancel()
		}
		return nil
	}))
	_, err = embed.Start(ctx, &second)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, cfg.DataDir)
	require.NotZero(t, lines.Len())
	require.NoError(t, m.Close(testContext(t)))
}
