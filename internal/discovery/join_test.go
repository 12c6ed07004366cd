package discovery_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dolmen-io/dolmen/embed"
	"github.com/dolmen-io/dolmen/internal/certs/certstest"
	"github.com/dolmen-io/dolmen/internal/discovery"
)

// patience is how long what must happen may take on a busy machine.
const patience = time.Minute

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// service is a member in which others register.
type service struct {
	t *testing.T
	*clientv3.Client
	endpoints []string
}

func startService(t *testing.T, change ...func(*embed.Config)) *service {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.DataDir, cfg.StorageEngine = t.TempDir(), embed.EngineMemory
	cfg.Flags = []string{"--unsafe-no-fsync", "--bcrypt-cost=4"}
	for _, c := range change {
		c(cfg)
	}
	m, err := embed.Start(testContext(t), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close(context.Background())) })
	c, err := m.Client()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return &service{t: t, Client: c, endpoints: m.Endpoints()}
}

func (s *service) put(key, value string) {
	s.t.Helper()
	_, err := s.Put(testContext(s.t), key, value)
	require.NoError(s.t, err)
}

func (s *service) size(token, size string) { s.put("/_etcd/registry/"+token+"/_config/size", size) }

// registered returns the keys of members below a token.
func (s *service) registered(token string) (keys []string) {
	s.t.Helper()
	res, err := s.Get(testContext(s.t), "/_etcd/registry/"+token+"/members/", clientv3.WithPrefix())
	require.NoError(s.t, err)
	for _, kv := range res.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys
}

func (s *service) config(token string) discovery.Config {
	return discovery.Config{Token: token, Client: clientv3.ConfigSpec{
		Endpoints: s.endpoints, RequestTimeout: 5 * time.Second, DialTimeout: 2 * time.Second,
		KeepAliveTime: 10 * time.Second, KeepAliveTimeout: 6 * time.Second,
		Secure: &clientv3.SecureConfig{InsecureTransport: true},
	}}
}

func member(n int) discovery.Member {
	return discovery.Member{ID: uint64(0xa0 + n), Cluster: fmt.Sprintf("m%d=http://127.0.0.1:%d", n, 12000+n)}
}

// joined is what came of a Join.
type joined struct {
	cluster string
	err     error
}

// join begins to join.
func join(ctx context.Context, cfg discovery.Config, m discovery.Member, lg *zap.Logger) <-chan joined {
	done := make(chan joined, 1)
	go func() {
		cluster, err := discovery.Join(ctx, lg, cfg, m)
		done <- joined{cluster, err}
	}()
	return done
}

func awaitLine(t *testing.T, lines *observer.ObservedLogs, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return lines.FilterMessage(text).Len() > 0 }, patience, time.Millisecond)
}

func TestJoin(t *testing.T) {
	s, ctx := startService(t), testContext(t)
	s.size("t", "3")
	core, lines := observer.New(zapcore.InfoLevel)
	first := join(ctx, s.config("t"), member(1), zap.New(core))
	awaitLine(t, lines, "waiting for peers from discovery service")
	second := join(ctx, s.config("t"), member(0), zap.New(core))
	require.Eventually(t, func() bool { return len(s.registered("t")) == 2 }, patience, time.Millisecond)
	third := join(ctx, s.config("t"), member(2), zap.NewNop())
	for _, done := range []<-chan joined{first, second, third} {
		got := <-done
		require.NoError(t, got.err)
		require.Equal(t, "m1=http://127.0.0.1:12001,m0=http://127.0.0.1:12000,m2=http://127.0.0.1:12002", got.cluster, "by age")
	}
	require.Equal(t, []string{"/_etcd/registry/t/members/a0", "/_etcd/registry/t/members/a1", "/_etcd/registry/t/members/a2"}, s.registered("t"))
	waits := lines.FilterMessage("waiting for peers from discovery service").All()
	require.Equal(t, int64(1), waits[0].ContextMap()["found-peers"])
	require.Equal(t, int64(3), waits[0].ContextMap()["clusterSize"])

	// One that comes too late leaves no trace, one that was there keeps its place.
	_, err := discovery.Join(ctx, zap.NewNop(), s.config("t"), member(3))
	require.ErrorIs(t, err, discovery.ErrFull)
	require.ErrorIs(t, err, discovery.ErrJoin)
	require.ErrorContains(t, err, "discovery: cluster is full: its 3 members are m1=http://127.0.0.1:12001 m0=")
	require.Len(t, s.registered("t"), 3)
	got := <-join(ctx, s.config("t"), member(0), zap.NewNop())
	require.NoError(t, got.err)
	require.Equal(t, "m1=http://127.0.0.1:12001,m0=http://127.0.0.1:12000,m2=http://127.0.0.1:12002", got.cluster)
}

// TestJoinTogether: of those who come at the same time as many get in as there is room, and all of them agree.
func TestJoinTogether(t *testing.T) {
	const size, all = 3, 6
	s, ctx := startService(t), testContext(t)
	s.size("t", fmt.Sprint(size))
	var wg sync.WaitGroup
	results := make([]joined, all)
	for i := range all {
		wg.Go(func() { results[i] = <-join(ctx, s.config("t"), member(i), zap.NewNop()) })
	}
	wg.Wait()
	clusters, full := map[string]int{}, 0
	for _, r := range results {
		if r.err == nil {
			clusters[r.cluster]++
			continue
		}
		require.ErrorIs(t, r.err, discovery.ErrFull)
		full++
	}
	require.Len(t, clusters, 1)
	require.Equal(t, all-size, full)
}

func TestJoinFails(t *testing.T) {
	s := startService(t)
	for name, tc := range map[string]struct {
		size    string
		there   map[string]string // key below members/ to value
		is      error
		text    string
		members int
	}{
		"no size":         {is: discovery.ErrSizeNotFound, text: "write how many members the cluster is to have to /_etcd/registry/no size/_config/size"},
		"size is a word":  {size: "three", is: discovery.ErrBadSize, text: `is "three", which is no number above 0`},
		"size is nothing": {size: "0", is: discovery.ErrBadSize},
		"size is less":    {size: "-1", is: discovery.ErrBadSize},
		"the same name": {size: "2", there: map[string]string{"1": "m0=http://h:1"}, is: discovery.ErrDuplicate, members: 2,
			text: `/_etcd/registry/the same name/members/1 and /_etcd/registry/the same name/members/a0 are both called "m0"`},
		"the same URL": {size: "2", there: map[string]string{"1": "x=http://127.0.0.1:12000"}, is: discovery.ErrDuplicate, members: 2,
			text: "are both at http://127.0.0.1:12000"},
		"no URL":             {size: "2", there: map[string]string{"1": "x=h"}, is: discovery.ErrInvalidURL, members: 2, text: `/members/1 is "x=h"`},
		"full with a leader": {size: "1", there: map[string]string{"1": "x=http://h:1"}, is: discovery.ErrFull, members: 1},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.size != "" {
				s.size(name, tc.size)
			}
			for key, value := range tc.there {
				s.put("/_etcd/registry/"+name+"/members/"+key, value)
			}
			_, err := discovery.Join(testContext(t), zap.NewNop(), s.config(name), member(0))
			require.ErrorIs(t, err, tc.is)
			require.ErrorContains(t, err, tc.text)
			require.Len(t, s.registered(name), tc.members)
		})
	}
}

// TestNonsenseIsNoMember: what is no registration takes nobody's place.
func TestNonsenseIsNoMember(t *testing.T) {
	s := startService(t)
	s.size("t", "1")
	s.put("/_etcd/registry/t/members/1", "nonsense")
	core, lines := observer.New(zapcore.WarnLevel)
	got := <-join(testContext(t), s.config("t"), member(0), zap.New(core))
	require.NoError(t, got.err)
	require.Equal(t, member(0).Cluster, got.cluster)
	require.NotZero(t, lines.FilterMessage("invalid peer info returned from discovery service").Len())
}

// TestJoinEndsWithContext: who waits for others, or for the service, can be stopped, and comes back.
func TestJoinEndsWithContext(t *testing.T) {
	s := startService(t)
	s.size("t", "2")
	ctx, cancel := context.WithCancel(t.Context())
	core, lines := observer.New(zapcore.InfoLevel)
	waiting := join(ctx, s.config("t"), member(0), zap.New(core))
	awaitLine(t, lines, "waiting for peers from discovery service")
	cancel()
	require.ErrorIs(t, (<-waiting).err, context.Canceled)

	again := join(testContext(t), s.config("t"), member(0), zap.NewNop())
	other := <-join(testContext(t), s.config("t"), member(1), zap.NewNop())
	require.NoError(t, other.err)
	require.Equal(t, other, <-again)
	require.Len(t, s.registered("t"), 2)
}

// TestJoinWaitsForTheService: it may begin later, and a member that waits for it can be stopped.
func TestJoinWaitsForTheService(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := "http://" + l.Addr().String()
	require.NoError(t, l.Close())
	cfg := (&service{endpoints: []string{address}}).config("t")
	cfg.Client.RequestTimeout = 200 * time.Millisecond
	core, lines := observer.New(zapcore.InfoLevel)

	ctx, cancel := context.WithCancel(t.Context())
	stopped := join(ctx, cfg, member(0), zap.New(core))
	awaitLine(t, lines, "retry connecting to discovery service")
	cancel()
	require.ErrorIs(t, (<-stopped).err, context.Canceled)

	// It was there before, so it knows how many members there are to be.
	data := t.TempDir()
	there := func(c *embed.Config) { c.ListenClientURLs, c.DataDir = []string{address}, data }
	t.Run("before", func(t *testing.T) { startService(t, there).size("t", "1") })
	lines.TakeAll()
	waiting := join(testContext(t), cfg, member(0), zap.New(core))
	awaitLine(t, lines, "retry connecting to discovery service")
	startService(t, there)
	require.Equal(t, joined{cluster: member(0).Cluster}, <-waiting)
}

func TestJoinWithUsers(t *testing.T) {
	s, ctx := startService(t), testContext(t)
	s.size("t", "1")
	s.size("u", "1")
	for _, user := range []string{"root", "member", "nobody"} {
		_, err := s.UserAdd(ctx, user, "secret")
		require.NoError(t, err)
	}
	for _, role := range []string{"root", "member"} {
		_, err := s.RoleAdd(ctx, role)
		require.NoError(t, err)
		_, err = s.UserGrantRole(ctx, role, role)
		require.NoError(t, err)
	}
	_, err := s.RoleGrantPermission(ctx, "member", "/_etcd/registry/t/", clientv3.GetPrefixRangeEnd("/_etcd/registry/t/"),
		clientv3.PermissionType(clientv3.PermReadWrite))
	require.NoError(t, err)
	_, err = s.AuthEnable(ctx)
	require.NoError(t, err)

	as := func(token, user, password string) joined {
		cfg := s.config(token)
		if user != "" {
			cfg.Client.Auth = &clientv3.AuthConfig{Username: user, Password: password}
		}
		return <-join(ctx, cfg, member(0), zap.NewNop())
	}
	require.ErrorIs(t, as("t", "member", "wrong").err, rpctypes.ErrAuthFailed)
	require.ErrorIs(t, as("t", "", "").err, rpctypes.ErrUserEmpty)
	require.ErrorIs(t, as("t", "nobody", "secret").err, rpctypes.ErrPermissionDenied)
	require.ErrorIs(t, as("u", "member", "secret").err, rpctypes.ErrPermissionDenied)
	got := as("t", "member", "secret")
	require.NoError(t, got.err)
	require.Equal(t, member(0).Cluster, got.cluster)
}

func TestJoinWithTLS(t *testing.T) {
	dir := t.TempDir()
	authority := certstest.NewAuthority(t, "ca")
	ca := certstest.Write(t, dir, "ca.pem", authority.PEM())
	certFile, keyFile := authority.Issue("server", []string{"127.0.0.1"}).Write(dir, "server")
	clientCert, clientKey := authority.Issue("client", nil).Write(dir, "client")
	s := startService(t, func(c *embed.Config) {
		c.ListenClientURLs = []string{"https://127.0.0.1:0"}
		c.Flags = append(c.Flags, "--cert-file="+certFile, "--key-file="+keyFile, "--trusted-ca-file="+ca, "--client-cert-auth")
	})
	s.size("t", "1")
	cfg := s.config("t")
	cfg.Client.Secure = &clientv3.SecureConfig{Cert: clientCert, Key: clientKey, Cacert: ca}
	got := <-join(testContext(t), cfg, member(0), zap.NewNop())
	require.NoError(t, got.err)
	require.Equal(t, member(0).Cluster, got.cluster)

	// Without the authority the service is not believed, unless that is wanted.
	cfg.Client.Secure = &clientv3.SecureConfig{Cert: clientCert, Key: clientKey, InsecureSkipVerify: true}
	require.NoError(t, (<-join(testContext(t), cfg, member(0), zap.NewNop())).err)
	cfg.Client.Secure = &clientv3.SecureConfig{Cert: clientCert, Key: clientKey}
	cfg.Client.RequestTimeout = time.Second
	core, lines := observer.New(zapcore.WarnLevel)
	ctx, cancel := context.WithCancel(t.Context())
	refused := join(ctx, cfg, member(0), zap.New(core))
	awaitLine(t, lines, "retry connecting to discovery service")
	cancel()
	require.Error(t, (<-refused).err)

	cfg.Client.Secure = &clientv3.SecureConfig{Cert: clientCert}
	_, err := discovery.Join(testContext(t), zap.NewNop(), cfg, member(0))
	require.ErrorContains(t, err, "read the certificates of --discovery-*")
}
