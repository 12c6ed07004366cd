package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/discovery"
	"github.com/dolmen-io/dolmen/internal/membership"
)

// opened is what came of opening a member.
type opened struct {
	member *Member
	err    error
}

// openTogether opens members that wait for each other.
func (f *fleet) openTogether(resolver discovery.Resolver) {
	f.t.Helper()
	results := make([]chan opened, len(f.cfgs))
	for i, cfg := range f.cfgs {
		core, lines := observer.New(zapcore.InfoLevel)
		f.lines[i], results[i] = lines, make(chan opened, 1)
		go func() {
			m, err := openIn(f.t.Context(), cfg, zap.New(core), surroundings{openDirectory, nil, resolver})
			results[i] <- opened{m, err}
		}()
	}
	var failed error
	for i := range f.cfgs {
		r := <-results[i]
		f.members[i] = r.member
		failed = errors.Join(failed, r.err)
	}
	f.t.Cleanup(func() { f.running(func(_ int, m *Member) { f.kill(m) }) })
	require.NoError(f.t, failed)
	for i := range f.cfgs {
		f.awaitReady(i)
	}
}

// TestDiscovery: three members find each other through a fourth, which is not needed any more then.
func TestDiscovery(t *testing.T) {
	service := newFleet(t, config.EngineMemory, 1)
	service.put(0, "/_etcd/registry/t/_config/size", "3")
	f := &fleet{t: t}
	for range 3 {
		cfg := f.configure(config.EngineMemory)
		cfg.InitialCluster = ""
		cfg.Discovery.Token, cfg.Discovery.Endpoints = "t", service.members[0].ClientURLs()
		require.NoError(t, cfg.Validate())
	}

	// One that is stopped while it waits comes back.
	core, lines := observer.New(zapcore.InfoLevel)
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() {
		_, err := Open(ctx, f.cfgs[0], zap.New(core))
		stopped <- err
	}()
	require.Eventually(t, func() bool { return lines.FilterMessage("waiting for peers from discovery service").Len() > 0 },
		fleetPatience, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-stopped, context.Canceled)

	f.openTogether(nil)
	f.put(0, "k", "v")
	f.require("k", "v")
	f.requireEqual()
	require.Len(t, web{f.members[0]}.Members(), 3)

	// A fourth one is too late.
	late := f.configure(config.EngineMemory)
	late.InitialCluster, late.Discovery = "", f.cfgs[0].Discovery
	_, err := Open(t.Context(), late, zap.NewNop())
	require.ErrorIs(t, err, discovery.ErrFull)
	f.cfgs, f.members = f.cfgs[:3], f.members[:3]

	service.crash(0)
	f.crash(1)
	f.open(1)
	f.awaitReady(1)
	require.Equal(t, 1, f.lines[1].FilterMessageSnippet("discovery token is ignored since cluster already initialized").Len())
	f.require("k", "v")

	// One whose data is lost is not let in again, although it is still registered.
	restarted := newFleetAt(t, service.cfgs[0])
	f.crash(2)
	f.cfgs[2].DataDir, f.cfgs[2].Discovery.Endpoints = t.TempDir(), restarted.members[0].ClientURLs()
	_, err = Open(t.Context(), f.cfgs[2], zap.NewNop())
	require.ErrorContains(t, err, "has already been bootstrapped")
}

// newFleetAt is a member that was there before.
func newFleetAt(t *testing.T, cfg *config.Config) *fleet {
	t.Helper()
	f := &fleet{t: t, cfgs: []*config.Config{cfg}}
	f.members, f.lines = make([]*Member, 1), make([]*observer.ObservedLogs, 1)
	f.open(0)
	f.awaitReady(0)
	t.Cleanup(func() { f.kill(f.members[0]) })
	return f
}

// localNames is DNS in which the members of a fleet are, all on this machine.
type localNames []*net.SRV

func (n localNames) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	if service != "etcd-server-x" || proto != "tcp" || name != "cluster.test" {
		return "", nil, fmt.Errorf("no such host _%s._%s.%s", service, proto, name)
	}
	return "", n, nil
}

func (localNames) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

// TestSRV: three members are listed by DNS, each under a name that is not what it advertises.
func TestSRV(t *testing.T) {
	f := &fleet{t: t}
	var names localNames
	for range 3 {
		cfg := f.configure(config.EngineMemory)
		cfg.InitialCluster = ""
		cfg.Discovery.SRVDomain, cfg.Discovery.SRVServiceName = "cluster.test", "x"
		require.NoError(t, cfg.Validate())
		port, err := strconv.ParseUint(cfg.AdvertisePeerURLs[0].Port(), 10, 16)
		require.NoError(t, err)
		names = append(names, &net.SRV{Target: "localhost.", Port: uint16(port)})
	}
	f.openTogether(names)
	f.put(0, "k", "v")
	f.require("k", "v")
	for _, m := range (web{f.members[0]}).Members() {
		u, err := url.Parse(m.PeerURLs[0])
		require.NoError(t, err)
		require.Equal(t, "localhost", u.Hostname())
	}

	stray := f.configure(config.EngineMemory)
	stray.InitialCluster, stray.Discovery = "", f.cfgs[0].Discovery
	_, err := openIn(t.Context(), stray, zap.NewNop(), surroundings{openDirectory, nil, names})
	require.ErrorIs(t, err, discovery.ErrNotListed)
}

// TestTornFounderIsDiscoveredAgain: a member that has crashed in its first write begins its cluster again, with those
// who were found before.
func TestTornFounderIsDiscoveredAgain(t *testing.T) {
	service := newFleet(t, config.EngineMemory, 1)
	service.put(0, "/_etcd/registry/t/_config/size", "1")
	f := &fleet{t: t}
	cfg := f.configure(config.EngineMemory)
	cfg.InitialCluster, cfg.Discovery.Token, cfg.Discovery.Endpoints = "", "t", service.members[0].ClientURLs()
	d, err := openDirectory(t.Context(), cfg, zap.NewNop())
	require.NoError(t, err)
	told, err := (&newcomer{cfg: cfg, lg: zap.NewNop()}).initial(t.Context())
	require.NoError(t, err)
	o := origin{id: identity{member: told.self.ID, cluster: membership.ClusterID(told.members)}}
	require.NoError(t, o.createLog(d))
	require.NoError(t, o.consensus.Log.Close())
	require.NoError(t, d.close())

	f.open(0)
	t.Cleanup(func() { f.kill(f.members[0]) })
	f.awaitReady(0)
	f.put(0, "k", "v")
	f.require("k", "v")
}
