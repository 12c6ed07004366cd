package node

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/wal"
)

// answering is a member of a cluster that says of it what a test wants.
type answering struct {
	*httptest.Server
	cluster uint64
	members []membership.Member
	version string // of the cluster
	asked   int
}

func newAnswering(t *testing.T) *answering {
	a := &answering{version: "3.7.0"}
	mux := http.NewServeMux()
	mux.HandleFunc("/members", func(w http.ResponseWriter, _ *http.Request) {
		a.asked++
		w.Header().Set("X-Etcd-Cluster-ID", types.ID(a.cluster).String())
		if err := json.NewEncoder(w).Encode(a.members); err != nil {
			t.Error(err)
		}
	})
	mux.HandleFunc("/version", func(w http.ResponseWriter, _ *http.Request) {
		if err := json.NewEncoder(w).Encode(map[string]string{"etcdserver": "3.7.3", "etcdcluster": a.version}); err != nil {
			t.Error(err)
		}
	})
	a.Server = httptest.NewServer(mux)
	t.Cleanup(a.Close)
	return a
}

const selfURL = "http://127.0.0.1:12999"

// newcomerOf is a member b at selfURL, in a cluster with a, who answers.
func newcomerOf(t *testing.T, a *answering) *config.Config {
	cfg := quietConfig(t, config.EngineMemory)
	u, err := url.Parse(selfURL)
	require.NoError(t, err)
	cfg.Name, cfg.AdvertisePeerURLs = "b", []url.URL{*u}
	cfg.InitialCluster = "a=" + a.URL + ",b=" + selfURL
	return cfg
}

// founded is the cluster that a tells of, as the newcomer's flags make it.
func founded(t *testing.T, a *answering, cfg *config.Config, started bool) {
	told, err := initialMembers(cfg)
	require.NoError(t, err)
	a.cluster, a.members = membership.ClusterID(told.members), nil
	for _, m := range told.members {
		if started {
			m.ClientURLs = []string{"http://c"}
		}
		a.members = append(a.members, m)
	}
}

// added has a tell of a cluster to which the newcomer was added.
func added(_ *testing.T, a *answering, cfg *config.Config) {
	cfg.InitialClusterState = config.ClusterExisting
	a.cluster = 7
	a.members = []membership.Member{
		{ID: 0xa, Name: "a", PeerURLs: []string{a.URL}, ClientURLs: []string{"http://c"}}, {ID: 0xb, PeerURLs: []string{selfURL}},
	}
}

// TestFoundedBesideAnother: a member that founds a cluster where others are of another one is not kept from it, and the log
// says what disagrees with whom, and what to do.
func TestFoundedBesideAnother(t *testing.T) {
	for name, tc := range map[string]struct {
		set  func(t *testing.T, a *answering, cfg *config.Config)
		want []string // AURL is a's
	}{
		"another token": {func(t *testing.T, a *answering, cfg *config.Config) {
			founded(t, a, cfg, false)
			cfg.InitialClusterToken = "other"
		}, []string{"cluster ID mismatch: AURL is of cluster ", "--initial-cluster-token=other makes cluster ", "the tokens differ", "the same --initial-cluster-token"}},
		"another token, and the other has just begun": {func(t *testing.T, a *answering, cfg *config.Config) {
			founded(t, a, cfg, false)
			a.members = nil
			cfg.InitialClusterToken = "other"
		}, []string{"cluster ID mismatch: AURL is of cluster ", "give all members the same --initial-cluster and the same --initial-cluster-token"}},
		"other members": {func(t *testing.T, a *answering, cfg *config.Config) {
			founded(t, a, cfg, true)
			a.members = []membership.Member{{ID: 0xa, Name: "a", PeerURLs: []string{a.URL}}, {ID: 0xc, Name: "c", PeerURLs: []string{"http://h:1"}}}
			a.cluster++
		}, []string{"cluster ID mismatch: AURL", "--initial-cluster lacks member c (c) at http://h:1, the cluster lacks b=" + selfURL}},
		"but it was added": {func(t *testing.T, a *answering, cfg *config.Config) {
			added(t, a, cfg)
			cfg.InitialClusterState = config.ClusterNew
		}, []string{"cluster ID mismatch", "this member was added to it as member b at " + selfURL, "--initial-cluster-state=existing"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAnswering(t)
			cfg := newcomerOf(t, a)
			tc.set(t, a, cfg)
			core, lines := observer.New(zapcore.WarnLevel)
			m, err := Open(t.Context(), cfg, zap.New(core))
			require.NoError(t, err)
			m.fail(errKilled)
			<-m.Done()
			said := lines.FilterMessageSnippet("a member of --initial-cluster is of another cluster").All()
			require.Len(t, said, 1)
			for _, want := range tc.want {
				require.Contains(t, said[0].ContextMap()["error"], strings.ReplaceAll(want, "AURL", a.URL))
			}
		})
	}
}

// TestRefused goes through what a member that founds a cluster or joins one is refused for: it says etcd's text, what
// disagrees with whom, and what to do.
func TestRefused(t *testing.T) {
	id := func(cfg *config.Config, name string) uint64 {
		told, err := initialMembers(cfg)
		require.NoError(t, err)
		for _, m := range told.members {
			if m.Name == name {
				return m.ID
			}
		}
		return 0
	}
	for name, tc := range map[string]struct {
		set  func(t *testing.T, a *answering, cfg *config.Config)
		want []string // AURL is a's
	}{
		"new: the name is not there": {func(_ *testing.T, _ *answering, cfg *config.Config) { cfg.Name = "c" },
			[]string{`couldn't find local name "c" in the initial cluster configuration`, "which has a=AURL,b=" + selfURL, "give --name"}},
		"new: another URL is in the initial cluster": {func(_ *testing.T, a *answering, cfg *config.Config) {
			cfg.InitialCluster = "a=" + a.URL + ",b=http://127.0.0.1:12998"
		}, []string{"--initial-cluster has b=http://127.0.0.1:12998 but missing from --initial-advertise-peer-urls=" + selfURL, "make the two the same"}},
		"new: another URL is advertised": {func(_ *testing.T, _ *answering, cfg *config.Config) {
			cfg.AdvertisePeerURLs = append(cfg.AdvertisePeerURLs, url.URL{Scheme: "http", Host: "127.0.0.1:12998"})
		}, []string{"--initial-advertise-peer-urls has http://127.0.0.1:12998 but missing from --initial-cluster=b=" + selfURL, "make the two the same"}},
		"new: a URL given twice": {func(_ *testing.T, _ *answering, cfg *config.Config) {
			cfg.InitialCluster = "a=" + selfURL + ",b=" + selfURL
		}, []string{"initial cluster a=" + selfURL + ",b=" + selfURL + " has duplicate url", selfURL + ` is that of "a" and of "b"`}},
		"new: it has run before": {func(t *testing.T, a *answering, cfg *config.Config) { founded(t, a, cfg, true) },
			[]string{"has already been bootstrapped", `AURL knows it as "b"`, "--initial-cluster-state=existing"}},
		"new: it was removed": {func(t *testing.T, a *answering, cfg *config.Config) {
			founded(t, a, cfg, true)
			a.members = a.members[:1]
			a.members[0] = membership.Member{ID: id(cfg, "a"), Name: "a", PeerURLs: []string{a.URL}, ClientURLs: []string{"http://c"}}
		}, []string{"is no member of the cluster any more, as AURL says", "its ID never comes back", "add it again"}},
		"existing: the name is not there": {func(t *testing.T, a *answering, cfg *config.Config) { added(t, a, cfg); cfg.Name = "c" },
			[]string{`couldn't find local name "c" in the initial cluster configuration`, "which has a=AURL,b=" + selfURL}},
		"existing: a URL given twice": {func(t *testing.T, a *answering, cfg *config.Config) {
			added(t, a, cfg)
			cfg.InitialCluster = "a=" + selfURL + ",b=" + selfURL
		}, []string{"initial cluster a=" + selfURL + ",b=" + selfURL + " has duplicate url"}},
		"existing: alone": {func(t *testing.T, a *answering, cfg *config.Config) {
			added(t, a, cfg)
			cfg.InitialCluster = "b=" + selfURL
		},
			[]string{"cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs", "has this member alone"}},
		"existing: nobody answers": {func(t *testing.T, a *answering, cfg *config.Config) { added(t, a, cfg); a.Close() },
			[]string{"cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs",
				"no other member of --initial-cluster=a=AURL,b=" + selfURL + " has answered", "AURL/members", "connection refused"}},
		"existing: it knows nobody": {func(t *testing.T, a *answering, cfg *config.Config) { added(t, a, cfg); a.members = nil },
			[]string{"failed to get raft cluster member(s) from the given URLs", "AURL knows no member yet"}},
		"existing: not added": {func(t *testing.T, a *answering, cfg *config.Config) { added(t, a, cfg); a.members = a.members[:1] },
			[]string{"error validating peerURLs [a=AURL]: member count is unequal", "AURL says that the cluster has 1 members, --initial-cluster has 2",
				"the cluster lacks b=" + selfURL, `as "member add" has printed it`}},
		"existing: one too few": {func(t *testing.T, a *answering, cfg *config.Config) {
			added(t, a, cfg)
			a.members = append(a.members, membership.Member{ID: 0xc, Name: "c", PeerURLs: []string{"http://h:1"}})
		}, []string{"member count is unequal", "--initial-cluster lacks member c (c) at http://h:1"}},
		"existing: another URL": {func(t *testing.T, a *answering, cfg *config.Config) {
			added(t, a, cfg)
			a.members[1].PeerURLs = []string{"http://127.0.0.1:1"}
		}, []string{"PeerURLs: no match found for existing member (b, [http://127.0.0.1:1]), last resolver error (",
			"as AURL tells", "--initial-cluster lacks member b at http://127.0.0.1:1, the cluster lacks b=" + selfURL}},
		"existing: it has run before": {func(t *testing.T, a *answering, cfg *config.Config) {
			added(t, a, cfg)
			a.members[1].Name, a.members[1].ClientURLs = "z", []string{"http://c"}
		}, []string{"member b has already been bootstrapped", `AURL knows it as "z" with data of its own`, "remove the member"}},
		"existing: too many learners": {func(t *testing.T, a *answering, cfg *config.Config) {
			added(t, a, cfg)
			a.members[1].IsLearner, cfg.MaxLearners = true, 0
		}, []string{"membership: too many learner members in cluster", "--max-learners=0"}},
		"existing: with a discovery": {func(t *testing.T, a *answering, cfg *config.Config) {
			added(t, a, cfg)
			cfg.InitialCluster, cfg.Discovery.Token, cfg.Discovery.Endpoints = "", "t", []string{a.URL}
		}, []string{"discovery URL should not be set when joining existing initial cluster", "give --initial-cluster with its members"}},
		"existing: a newer version": {func(t *testing.T, a *answering, cfg *config.Config) { added(t, a, cfg); a.version = "3.8.0" },
			[]string{"incompatible with current running cluster", "member a (a) at AURL says that the cluster has version 3.8.0",
				"this program of version " + serverVersion, "downgrade the cluster first"}},
		"existing: no version yet": {func(t *testing.T, a *answering, cfg *config.Config) { added(t, a, cfg); a.version = "not_decided" },
			[]string{"incompatible with current running cluster", "member a (a) at AURL says that the cluster has not decided its version yet", "try again"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAnswering(t)
			cfg := newcomerOf(t, a)
			tc.set(t, a, cfg)
			_, err := Open(t.Context(), cfg, zap.NewNop())
			require.Error(t, err)
			for _, want := range tc.want {
				require.ErrorContains(t, err, strings.ReplaceAll(want, "AURL", a.URL))
			}
			require.False(t, wal.Exist(walDirectory(cfg)), "a log was made")
		})
	}
}

// TestAdmitted: none of this keeps a member from founding a cluster or joining one.
func TestAdmitted(t *testing.T) {
	for name, set := range map[string]func(t *testing.T, a *answering, cfg *config.Config){
		"the others do not answer": func(_ *testing.T, a *answering, _ *config.Config) { a.Close() },
		"one has begun, and does not know any member yet": func(t *testing.T, a *answering, cfg *config.Config) {
			told, err := initialMembers(cfg)
			require.NoError(t, err)
			a.cluster = membership.ClusterID(told.members)
		},
		"one has begun, and knows of itself": func(t *testing.T, a *answering, cfg *config.Config) {
			told, err := initialMembers(cfg)
			require.NoError(t, err)
			a.cluster = membership.ClusterID(told.members)
			for _, m := range told.members {
				if m.Name == "a" {
					a.members = append(a.members, m)
				}
			}
		},
		"it joins": func(_ *testing.T, a *answering, cfg *config.Config) {
			cfg.InitialClusterState = config.ClusterExisting
			a.cluster = 7
			a.members = []membership.Member{
				{ID: 0xa, Name: "a", PeerURLs: []string{a.URL}}, {ID: 0xb, PeerURLs: []string{selfURL}},
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAnswering(t)
			cfg := newcomerOf(t, a)
			set(t, a, cfg)
			m, err := Open(t.Context(), cfg, zap.NewNop())
			require.NoError(t, err)
			m.fail(errKilled)
			<-m.Done()
		})
	}
}

// TestRestartedElsewhere: flags that count only for a new member are compared with what the cluster knows, and kept quiet
// about if they were left out.
func TestRestartedElsewhere(t *testing.T) {
	const line = "other members reach this one at other URLs than --initial-advertise-peer-urls"
	cfg := quietConfig(t, config.EngineMemory)
	m, err := Open(t.Context(), cfg, zap.NewNop())
	require.NoError(t, err)
	ready(t, m)
	stop(t, m)
	for _, tc := range []struct {
		advertised []url.URL
		lines      int
	}{
		{cfg.AdvertisePeerURLs, 0},
		{config.Default().AdvertisePeerURLs, 0},
		{[]url.URL{{Scheme: "http", Host: "h:1"}}, 1},
	} {
		core, lines := observer.New(zapcore.WarnLevel)
		again := *cfg
		again.AdvertisePeerURLs = tc.advertised
		m, err := Open(t.Context(), &again, zap.New(core))
		require.NoError(t, err)
		ready(t, m)
		require.Equal(t, tc.lines, lines.FilterMessageSnippet(line).Len())
		stop(t, m)
	}
}

// TestRestartedWithTooManyLearners: members with other limits would come to other members.
func TestRestartedWithTooManyLearners(t *testing.T) {
	f := newFleet(t, config.EngineMemory, 1)
	f.add(config.EngineMemory, membership.AddLearnerNode)
	f.awaitReady(1)
	f.crash(1)
	f.cfgs[1].MaxLearners = 0
	_, err := Open(t.Context(), f.cfgs[1], zap.NewNop())
	require.ErrorContains(t, err, "membership: too many learner members in cluster")
}

// TestFoundersWriteTheSame: each writes the beginning of the log by itself, in the order of IDs, as etcd's do.
func TestFoundersWriteTheSame(t *testing.T) {
	f := newFleet(t, config.EngineMemory, 3)
	var beginnings [][]string
	for i, m := range f.members {
		f.kill(m)
		f.members[i] = nil
		var ids []uint64
		var entries []string
		_, err := wal.Scan(walDirectory(f.cfgs[i]), func(r wal.Record) error {
			if r.Entry != nil && r.Entry.GetIndex() <= 3 {
				require.Equal(t, raftpb.EntryConfChange, r.Entry.GetType())
				ids, entries = append(ids, changedMember(t, r.Entry)), append(entries, r.Entry.String())
			}
			return nil
		})
		require.NoError(t, err)
		require.Len(t, ids, 3)
		require.IsIncreasing(t, ids)
		beginnings = append(beginnings, entries)
	}
	require.Equal(t, beginnings[0], beginnings[1])
	require.Equal(t, beginnings[0], beginnings[2])
}

func changedMember(t *testing.T, e *raftpb.Entry) uint64 {
	t.Helper()
	cc := &raftpb.ConfChange{}
	require.NoError(t, proto.Unmarshal(e.GetData(), cc))
	return cc.GetNodeId()
}
