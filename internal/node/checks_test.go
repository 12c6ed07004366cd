package node

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/alarm"
	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/corruption"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/mvcc"
	"github.com/dolmen-io/dolmen/internal/state"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// twin serves what another member would say of its data: the same as m, or something else.
type twin struct {
	*httptest.Server
	m       atomic.Pointer[Member]
	corrupt atomic.Bool
	// fixed, if set, is what it answers whatever it is asked.
	fixed atomic.Pointer[pb.HashKVResponse]
}

const twinID = 0x77

func newTwin(t *testing.T) *twin {
	tw := &twin{}
	tw.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/members/hashkv" {
			http.NotFound(w, r) // it takes no messages, and says nothing of its version
			return
		}
		body, err := io.ReadAll(r.Body)
		var req pb.HashKVRequest
		if err != nil || json.Unmarshal(body, &req) != nil {
			t.Error("not a request for a checksum")
		}
		if fixed := tw.fixed.Load(); fixed != nil {
			_ = json.NewEncoder(w).Encode(fixed)
			return
		}
		h, current, err := web{tw.m.Load()}.HashKV(req.GetRevision())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if tw.corrupt.Load() {
			h.Sum++
		}
		out, err := json.Marshal(&pb.HashKVResponse{Header: &pb.ResponseHeader{Revision: current},
			Hash: h.Sum, CompactRevision: h.Compacted, HashRevision: h.Revision})
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(out)
	}))
	t.Cleanup(tw.Close)
	return tw
}

// join makes the twin a learner of m's cluster.
func (tw *twin) join(t *testing.T, m *Member) {
	t.Helper()
	tw.m.Store(m)
	c := membership.Change{Kind: membership.AddLearnerNode, ID: twinID, Member: membership.Member{ID: twinID, PeerURLs: []string{tw.URL}, IsLearner: true}}
	text, err := c.Context()
	require.NoError(t, err)
	data, err := proto.Marshal(&raftpb.ConfChange{Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: proto.Uint64(twinID), Context: text})
	require.NoError(t, err)
	require.NoError(t, m.cons.Propose(consensus.Proposal{Type: raftpb.EntryConfChange, Data: data}))
	require.Eventually(t, func() bool { return compared{m}.Others() == 1 }, testPatience, time.Millisecond)
}

// TestChecks has a member compare its data with another's, which is equal at first and then is not.
func TestChecks(t *testing.T) {
	smallSegments(t)
	for name, change := range map[string]func(*config.Config){
		"finished peer corruption check": func(c *config.Config) { c.CorruptCheckTime = 5 * time.Millisecond },
		"finished compaction hash check": func(c *config.Config) { c.CompactHashCheckTime = 5 * time.Millisecond },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := quietConfig(t, config.EngineMemory)
			change(cfg)
			core, lines := observer.New(zapcore.InfoLevel)
			m, err := Open(t.Context(), cfg, zap.New(core))
			require.NoError(t, err)
			ready(t, m)
			defer stop(t, m)
			tw := newTwin(t)
			tw.join(t, m)
			compactAt := func(revision int64) {
				_, err := m.Propose(t.Context(), put("k", "v"))
				require.NoError(t, err)
				if err := m.compact(t.Context(), revision); errors.Is(err, state.ErrCorrupt) {
					return // the alarm was faster
				}
				require.NoError(t, m.Compacted(t.Context(), revision))
				// At the compacted revision the other would answer with what it kept, which is of another compaction.
				_, err = m.Propose(t.Context(), put("k", "w"))
				require.NoError(t, err)
			}
			compactAt(2)
			before := lines.FilterMessage(name).Len()
			require.Eventually(t, func() bool { return lines.FilterMessage(name).Len() > before+2 }, testPatience, time.Millisecond)
			require.Empty(t, alarms(m))
			tw.corrupt.Store(true)
			compactAt(3)
			require.Eventually(t, func() bool { return len(alarms(m)) > 0 }, testPatience, time.Millisecond)
			require.Equal(t, alarm.Corrupt, alarms(m)[0].Type)
			res, err := m.Propose(t.Context(), put("k", "v"))
			require.NoError(t, err)
			require.Error(t, res.Err, "a corrupt cluster takes no writes")
		})
	}
}

// TestInitialCheck starts a member beside one that holds something else.
func TestInitialCheck(t *testing.T) {
	smallSegments(t)
	cfg := quietConfig(t, config.EngineMemory)
	m, err := Open(t.Context(), cfg, zap.NewNop())
	require.NoError(t, err)
	ready(t, m)
	tw := newTwin(t)
	tw.join(t, m)
	_, err = m.Propose(t.Context(), put("k", "v"))
	require.NoError(t, err)
	v := m.state.View()
	h, err := v.HashKV(0)
	v.Release()
	require.NoError(t, err)
	stop(t, m)

	answer := func(sum uint32) {
		tw.fixed.Store(&pb.HashKVResponse{Header: &pb.ResponseHeader{}, Hash: sum, CompactRevision: -1, HashRevision: h.Revision})
	}
	answer(h.Sum + 1)
	core, lines := observer.New(zapcore.ErrorLevel)
	_, err = Open(t.Context(), cfg, zap.New(core))
	require.ErrorIs(t, err, corruption.ErrInconsistent)
	require.Len(t, lines.FilterMessage("checkInitialHashKV failed").All(), 1)
	noGoroutines(t)

	require.NoError(t, cfg.FeatureGates.Set("InitialCorruptCheck=false"))
	m, err = Open(t.Context(), cfg, zap.NewNop())
	require.NoError(t, err, "without the check it starts")
	stop(t, m)
	require.NoError(t, cfg.FeatureGates.Set("InitialCorruptCheck=true"))
	answer(h.Sum)
	m, err = Open(t.Context(), cfg, zap.NewNop())
	require.NoError(t, err)
	stop(t, m)
}

// TestPeerHashes asks members of every kind.
func TestPeerHashes(t *testing.T) {
	smallSegments(t)
	cfg := quietConfig(t, config.EngineMemory)
	cfg.ListenPeerURLs = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	m, err := Open(t.Context(), cfg, zap.NewNop())
	require.NoError(t, err)
	ready(t, m)
	defer stop(t, m)
	for range 9 {
		_, err := m.Propose(t.Context(), put("k", "v"))
		require.NoError(t, err)
	}
	require.NoError(t, m.compact(t.Context(), 5))
	serve := func(text string, status int) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	self := "http://" + m.front.peer[0].Addr().String()
	ask := func(p *peerHashes, revision int64, urls ...string) corruption.Peer {
		defer p.questions.client.CloseIdleConnections()
		peers := p.ask(t.Context(), []membership.Member{{ID: 5, PeerURLs: urls}}, revision)
		require.Len(t, peers, 1)
		require.EqualValues(t, 5, peers[0].ID)
		return peers[0]
	}
	got := ask(m.peers, 10, serve("busy", 503), self)
	require.NoError(t, got.Err)
	v := m.state.View()
	h, err := v.HashKV(10)
	v.Release()
	require.NoError(t, err)
	require.Equal(t, corruption.Answer{Hash: h, Current: 10}, got.Answer)

	require.ErrorIs(t, ask(m.peers, 99, self).Err, mvcc.ErrFuture)
	require.ErrorIs(t, ask(m.peers, 3, self).Err, mvcc.ErrCompacted)
	require.ErrorIs(t, ask(newPeerHashes(zap.NewNop(), 1, time.Minute, nil), 10, self).Err, corruption.ErrOtherCluster)
	for want, urls := range map[string][]string{
		"no peer URL":            nil,
		"the member answers 503": {serve("busy", 503)},
		"the member answers 302": {serve("elsewhere", 302)},
		"read a checksum from":   {serve(strings.Repeat("x", maxHashAnswer+1), 200)},
		"ask for a checksum":     {"http://127.0.0.1:1"},
		"invalid control":        {"http://\x7f"},
	} {
		require.ErrorContains(t, ask(m.peers, 10, urls...).Err, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = m.peers.askOne(ctx, self, 10)
	require.ErrorIs(t, err, context.Canceled)
}

// TestPeerHashesOverTLS asks a member that demands the certificates of other members.
func TestPeerHashesOverTLS(t *testing.T) {
	s := startSecure(t, nil)
	members := []membership.Member{{ID: 5, PeerURLs: []string{"https://" + s.front.peer[0].Addr().String()}}}
	defer s.peers.questions.client.CloseIdleConnections()
	got := s.peers.ask(t.Context(), members, 0)
	require.NoError(t, got[0].Err)
	require.EqualValues(t, -1, got[0].Compacted)
	without := newPeerHashes(zap.NewNop(), s.id.cluster, time.Minute, nil)
	require.Error(t, without.ask(t.Context(), members, 0)[0].Err)
}
