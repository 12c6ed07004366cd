package harness

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// ClusterOptions of the members of one cluster. The zero value of each field is a sensible one.
type ClusterOptions struct {
	Options // of every member; DataDir is not used

	// Heartbeat and Election are the members' intervals; 0 = 50 ms and 500 ms, which two busy cores can hold.
	Heartbeat, Election time.Duration

	// Advertise gives the host:port that member i advertises to the others, which listens at the given one: for a proxy
	// between the members. Nil = they connect directly.
	Advertise func(i int, listens string) string

	// Launcher is a command that runs the member's command, which is appended to it: for a member that lives with a fault.
	// It has to become the member (exec), so that signals reach it. Nil = none.
	Launcher func(i int) []string
}

// Cluster is members of one kind as processes. Its methods are called from the test's goroutine only, unless they say
// otherwise.
type Cluster struct {
	Kind    Kind
	Members []*Server // by number; a member keeps its addresses and its data over its starts

	tb   testing.TB
	opts ClusterOptions
}

// place is where a member of a cluster stands: what stays the same over its starts.
type place struct {
	name         string
	client, peer string // host:port that it listens at
	advertised   string // host:port for the other members
	launcher     []string

	cluster, state      string // --initial-cluster and --initial-cluster-state
	heartbeat, election time.Duration
	gone                bool // no member of the cluster any more
}

func (p *place) args(clientURL string) []string {
	return []string{
		"--name=" + p.name,
		"--advertise-client-urls=" + clientURL,
		"--initial-advertise-peer-urls=http://" + p.advertised,
		"--initial-cluster=" + p.cluster,
		"--initial-cluster-state=" + p.state,
		fmt.Sprintf("--heartbeat-interval=%d", p.heartbeat.Milliseconds()),
		fmt.Sprintf("--election-timeout=%d", p.election.Milliseconds()),
	}
}

// StartCluster starts n members and returns when all are ready. They are killed when the test ends; their logs are kept
// if it failed.
func StartCluster(tb testing.TB, kind Kind, n int, opts ClusterOptions) *Cluster {
	tb.Helper()
	if opts.Heartbeat == 0 {
		opts.Heartbeat = 50 * time.Millisecond
	}
	if opts.Election == 0 {
		opts.Election = 500 * time.Millisecond
	}
	c := &Cluster{Kind: kind, tb: tb, opts: opts}
	var err error
	for range bindAttempts {
		c.Members = nil
		for range n {
			c.newMember("new")
		}
		for _, m := range c.Members {
			m.place.cluster = c.initial()
		}
		if err = c.launch(c.Members...); !errors.Is(err, errPortTaken) {
			break
		}
	}
	if err != nil {
		tb.Fatalf("start a cluster of %s: %v", kind, err)
	}
	return c
}

// newMember makes one more member, which is not started.
func (c *Cluster) newMember(state string) *Server {
	c.tb.Helper()
	ports, err := kept.ports(2)
	if err != nil {
		c.tb.Fatal(err)
	}
	i := len(c.Members)
	p := &place{name: fmt.Sprintf("m%d", i), client: ports[0], peer: ports[1], advertised: ports[1], state: state,
		heartbeat: c.opts.Heartbeat, election: c.opts.Election}
	if c.opts.Advertise != nil {
		p.advertised = c.opts.Advertise(i, p.peer)
	}
	if c.opts.Launcher != nil {
		p.launcher = c.opts.Launcher(i)
	}
	s := &Server{Kind: c.Kind, DataDir: filepath.Join(c.tb.TempDir(), p.name), tb: c.tb, opts: c.opts.Options, place: p,
		endpoint: p.client, peerURL: "http://" + p.peer, out: newOutput(0)}
	c.tb.Cleanup(s.cleanup)
	c.Members = append(c.Members, s)
	return s
}

// keptPorts hands out addresses that are kept over starts.
type keptPorts struct {
	mu    sync.Mutex
	given map[int]bool
}

// kept is of the whole process, so that none of its tests takes the ports of a member that is down.
var kept keptPorts

// Ports that are kept are below those that Linux, from 32768 on, and other systems give to outgoing connections and to
// who asks for any: one of these would be taken while its member is down.
const (
	firstKept = 12_000
	lastKept  = 32_767
)

// ports returns n loopback addresses that nobody listened on a moment ago, none of them twice.
func (k *keptPorts) ports(n int) ([]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.given == nil {
		k.given = map[int]bool{}
	}
	var addrs []string
	for range lastKept - firstKept {
		port := firstKept + rand.IntN(lastKept-firstKept+1)
		if k.given[port] {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue // somebody else's
		}
		k.given[port] = true
		addrs = append(addrs, l.Addr().String())
		if err := l.Close(); err != nil {
			return nil, fmt.Errorf("pick a free port: %w", err)
		}
		if len(addrs) == n {
			return addrs, nil
		}
	}
	return nil, fmt.Errorf("no %d ports are free from %d to %d", n, firstKept, lastKept)
}

// initial is --initial-cluster with every member there is.
func (c *Cluster) initial() string {
	var parts []string
	for _, m := range c.Members {
		if m.place.gone {
			continue
		}
		parts = append(parts, m.place.name+"=http://"+m.place.advertised)
	}
	return strings.Join(parts, ",")
}

// launch starts members at once, since none is ready before a majority runs. After an error none of them runs.
func (c *Cluster) launch(members ...*Server) error {
	for _, m := range members {
		path, err := m.binary()
		if err == nil {
			err = m.begin(path)
		}
		if err != nil {
			killAll(members)
			return fmt.Errorf("member %s: %w", m.place.name, err)
		}
	}
	for _, m := range members {
		if err := m.await(); err != nil {
			m.cmd = nil // await has seen its end
			killAll(members)
			return fmt.Errorf("member %s: %w\n%s", m.place.name, err, tail(m.out.String(), 40))
		}
	}
	return nil
}

func killAll(members []*Server) {
	for _, m := range members {
		m.Kill()
	}
}

// Begin starts member i, which does not run, and does not wait until it is ready: alone it may have no majority.
func (c *Cluster) Begin(i int) {
	c.tb.Helper()
	m := c.Members[i]
	if m.cmd != nil {
		c.tb.Fatalf("start member %s: it still runs; Kill or Stop it first", m.place.name)
	}
	path, err := m.binary()
	if err == nil {
		err = m.begin(path)
	}
	if err != nil {
		c.tb.Fatalf("start member %s: %v", m.place.name, err)
	}
}

// Await waits until member i, which Begin started, is ready.
func (c *Cluster) Await(i int) {
	c.tb.Helper()
	m := c.Members[i]
	if err := m.await(); err != nil {
		m.cmd = nil // await has seen its end
		c.tb.Fatalf("member %s: %v\n%s", m.place.name, err, tail(m.out.String(), 40))
	}
}

// Restart starts member i, which does not run, on its data and addresses, and returns when it is ready.
func (c *Cluster) Restart(i int) {
	c.tb.Helper()
	c.Begin(i)
	c.Await(i)
}

// Prepare makes one more member, which will join a running cluster with flags that name every member there is and
// itself. The caller tells the cluster of its PeerURL before it starts it with Restart.
func (c *Cluster) Prepare() (i int, peerURL string) {
	c.tb.Helper()
	m := c.newMember("existing")
	m.place.cluster = c.initial()
	return len(c.Members) - 1, "http://" + m.place.advertised
}

// Forget says that member i is no longer one: the next Prepare does not name it. It does not run any more.
func (c *Cluster) Forget(i int) {
	c.tb.Helper()
	c.Members[i].Kill()
	c.Members[i].place.gone = true
}

// Pause stops member i where it is, with SIGSTOP, until Resume.
func (c *Cluster) Pause(i int) { c.Members[i].signal(syscall.SIGSTOP) }

// Resume lets a member that Pause stopped go on.
func (c *Cluster) Resume(i int) { c.Members[i].signal(syscall.SIGCONT) }

// Endpoints are the host:port of the members' client listeners, of those that Forget was told of too.
func (c *Cluster) Endpoints() []string {
	var all []string
	for _, m := range c.Members {
		all = append(all, m.endpoint)
	}
	return all
}
