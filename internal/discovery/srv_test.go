package discovery_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/dolmen-io/dolmen/internal/discovery"
)

// names is a resolver that knows what a test tells it.
type names struct {
	records map[string][]*net.SRV // by "_service._proto.name"
	hosts   map[string]string
}

var errNoSuchHost = errors.New("no such host")

func (n names) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	full := "_" + service + "._" + proto + "." + name
	if n.records[full] == nil {
		return "", nil, errNoSuchHost
	}
	return full, n.records[full], nil
}

func (n names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	text, found := n.hosts[strings.TrimSuffix(host, ".")]
	if !found {
		return nil, errNoSuchHost
	}
	return []netip.Addr{netip.MustParseAddr(text)}, nil
}

func records(hosts ...string) (all []*net.SRV) {
	for _, h := range hosts {
		all = append(all, &net.SRV{Target: h + ".", Port: 2380})
	}
	return all
}

func urls(t *testing.T, list ...string) (all []url.URL) {
	t.Helper()
	for _, text := range list {
		u, err := url.Parse(text)
		require.NoError(t, err)
		all = append(all, *u)
	}
	return all
}

func TestFromDNS(t *testing.T) {
	hosts := map[string]string{"a.d": "10.0.0.1", "b.d": "10.0.0.2", "c.d": "10.0.0.3", "alias.d": "10.0.0.2"}
	const plain, secure = "_etcd-server._tcp.d", "_etcd-server-ssl._tcp.d"
	for name, tc := range map[string]struct {
		records map[string][]*net.SRV
		suffix  string
		self    []string
		want    string
		is      error
		text    string
	}{
		"plain": {records: map[string][]*net.SRV{plain: records("c.d", "b.d", "a.d")}, self: []string{"http://b.d:2380"},
			want: "0=http://a.d:2380,m=http://b.d:2380,1=http://c.d:2380"},
		"with TLS": {records: map[string][]*net.SRV{secure: records("a.d", "b.d")}, self: []string{"https://b.d:2380"},
			want: "0=https://a.d:2380,m=https://b.d:2380"},
		"by another name": {records: map[string][]*net.SRV{plain: records("a.d", "alias.d")}, self: []string{"http://b.d:2380"},
			want: "0=http://a.d:2380,m=http://alias.d:2380"},
		"by its address": {records: map[string][]*net.SRV{plain: records("a.d", "b.d")}, self: []string{"http://10.0.0.2:2380"},
			want: "0=http://a.d:2380,m=http://b.d:2380"},
		"with a suffix": {records: map[string][]*net.SRV{"_etcd-server-x._tcp.d": records("a.d", "b.d"), plain: records("c.d")}, suffix: "x",
			self: []string{"http://b.d:2380"}, want: "0=http://a.d:2380,m=http://b.d:2380"},
		"both services": {records: map[string][]*net.SRV{plain: records("b.d", "a.d"), secure: records("c.d")}, self: []string{"http://b.d:2380"},
			want: "0=https://c.d:2380,0=http://a.d:2380,m=http://b.d:2380"},

		"none": {self: []string{"http://b.d:2380"}, is: errNoSuchHost, text: "error querying DNS SRV records for _etcd-server-ssl"},
		"not listed": {records: map[string][]*net.SRV{plain: records("a.d", "c.d")}, self: []string{"http://b.d:2380"}, is: discovery.ErrNotListed,
			text: `cannot find local etcd member "m" in SRV records: d has 0=http://a.d:2380,1=http://c.d:2380, and none of them`},
		"at another port": {records: map[string][]*net.SRV{plain: records("a.d", "b.d")}, self: []string{"http://b.d:1"}, is: discovery.ErrNotListed},
		"another scheme": {records: map[string][]*net.SRV{plain: records("a.d", "b.d")}, self: []string{"https://b.d:2380"}, is: discovery.ErrNotListed,
			text: "bootstrap at http://b.d:2380 from DNS for etcd-server has scheme mismatch with expected peer https://b.d:2380"},
		"one of two URLs": {records: map[string][]*net.SRV{plain: records("a.d", "b.d")}, self: []string{"http://b.d:2380", "http://c.d:2380"},
			text: "--initial-advertise-peer-urls has http://c.d:2380 but missing from --initial-cluster=0=http://a.d:2380,m=http://b.d:2380"},
		"a host that is not known": {records: map[string][]*net.SRV{plain: records("a.d", "b.d", "gone.d")}, self: []string{"http://b.d:2380"},
			is: discovery.ErrUnresolved, text: "_etcd-server._tcp.d lists gone.d:2380: no such host"},
		"its own host is not known": {records: map[string][]*net.SRV{plain: records("a.d")}, self: []string{"http://gone.d:2380"}, is: errNoSuchHost,
			text: "resolve http://gone.d:2380 of --initial-advertise-peer-urls"},
		"no port": {records: map[string][]*net.SRV{plain: records("a.d")}, self: []string{"unix://x"}, text: "port"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := discovery.FromDNS(t.Context(), names{tc.records, hosts},
				discovery.Records{Domain: "d", Suffix: tc.suffix, Name: "m", Advertised: urls(t, tc.self...)}, zap.NewNop())
			if tc.want != "" {
				require.NoError(t, err)
				require.Equal(t, tc.want, got)
				return
			}
			require.Error(t, err)
			if tc.is != nil {
				require.ErrorIs(t, err, tc.is)
			}
			require.ErrorContains(t, err, tc.text)
		})
	}
}

// A member that is called like a number is none of those that are numbered.
func TestFromDNSWithNumberForName(t *testing.T) {
	got, err := discovery.FromDNS(t.Context(),
		names{map[string][]*net.SRV{"_etcd-server._tcp.d": records("a.d", "b.d")}, map[string]string{"a.d": "10.0.0.1", "b.d": "10.0.0.2"}},
		discovery.Records{Domain: "d", Name: "0", Advertised: urls(t, "http://b.d:2380")}, zap.NewNop())
	require.NoError(t, err)
	require.Equal(t, "1=http://a.d:2380,0=http://b.d:2380", got)
}

// nameServer answers on loopback, over UDP, what names knows.
func nameServer(t *testing.T, n names) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan struct{})
	t.Cleanup(func() {
		require.NoError(t, conn.Close())
		<-ended
	})
	go func() {
		defer close(ended)
		packet := make([]byte, 512)
		for {
			size, from, err := conn.ReadFrom(packet)
			if err != nil {
				return
			}
			answer, err := n.answer(packet[:size])
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := conn.WriteTo(answer, from); err != nil {
				return
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// answer answers one question.
func (n names) answer(packet []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(packet); err != nil {
		return nil, err
	}
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	q := m.Questions[0]
	name := strings.TrimSuffix(q.Name.String(), ".")
	header := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1}
	known := n.records[name] != nil || n.hosts[name] != ""
	if q.Type == dnsmessage.TypeSRV {
		for _, r := range n.records[name] {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header,
				Body: &dnsmessage.SRVResource{Port: r.Port, Target: dnsmessage.MustNewName(r.Target)}})
		}
	}
	if text := n.hosts[name]; q.Type == dnsmessage.TypeA && text != "" {
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: netip.MustParseAddr(text).As4()}})
	}
	if !known {
		m.RCode = dnsmessage.RCodeNameError
	}
	return m.Pack()
}

// TestFromNameServer asks a real one.
func TestFromNameServer(t *testing.T) {
	r := nameServer(t, names{
		map[string][]*net.SRV{"_etcd-server._tcp.cluster.test": records("a.cluster.test", "b.cluster.test", "c.cluster.test")},
		map[string]string{"a.cluster.test": "127.0.0.1", "b.cluster.test": "127.0.0.2", "c.cluster.test": "127.0.0.3"},
	})
	got, err := discovery.FromDNS(t.Context(), r,
		discovery.Records{Domain: "cluster.test", Name: "b", Advertised: urls(t, "http://b.cluster.test:2380")}, zap.NewNop())
	require.NoError(t, err)
	require.Equal(t, "0=http://a.cluster.test:2380,b=http://b.cluster.test:2380,1=http://c.cluster.test:2380", got)
	_, err = discovery.FromDNS(t.Context(), r,
		discovery.Records{Domain: "other.test", Name: "b", Advertised: urls(t, "http://b.cluster.test:2380")}, zap.NewNop())
	var missing *net.DNSError
	require.ErrorAs(t, err, &missing)
	require.True(t, missing.IsNotFound)
}
