package peer

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/version"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// ClusterHeader says in requests and answers of members of which cluster they are.
const ClusterHeader = "X-Etcd-Cluster-ID"

const (
	// strangerInterval is how often a line is written about the same member of another cluster: they try many times a
	// second.
	strangerInterval = time.Minute
	// maxStrangers is how many members of other clusters are told apart; all others share their lines.
	maxStrangers = 64
)

// strangers keeps members of other clusters away, and tells of them now and then.
type strangers struct {
	lg          *zap.Logger
	id, cluster types.ID
	now         func() time.Time

	// received counts requests that were refused here, sent what was asked of another cluster.
	received, sent atomic.Uint64

	mu struct {
		sync.Mutex
		told map[string]time.Time // who, and when a line was written
	}
}

func newStrangers(lg *zap.Logger, id, cluster uint64) *strangers {
	s := &strangers{lg: lg, id: types.ID(id), cluster: types.ID(cluster), now: time.Now}
	s.mu.told = map[string]time.Time{}
	return s
}

// due says whether a line about somebody is due.
func (s *strangers) due(who string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for known, at := range s.mu.told {
		if now.Sub(at) >= strangerInterval {
			delete(s.mu.told, known)
		}
	}
	if _, told := s.mu.told[who]; !told && len(s.mu.told) >= maxStrangers {
		who = ""
	}
	if _, told := s.mu.told[who]; told {
		return false
	}
	s.mu.told[who] = now
	return true
}

const strangerAdvice = "give all members the same --initial-cluster and --initial-cluster-token, and each a URL of its own; " +
	"a member of another cluster keeps its ID in its data directory"

// hashPath is where members ask for checksums. Who serves it refuses those of other clusters itself.
const hashPath = "/members/hashkv"

// raftRequest says whether rafthttp would look at a request's cluster: first it looks at path and method.
func raftRequest(r *http.Request) bool {
	switch r.URL.Path {
	case rafthttp.RaftPrefix, rafthttp.RaftSnapshotPrefix:
		return r.Method == http.MethodPost
	}
	return strings.HasPrefix(r.URL.Path, rafthttp.RaftStreamPrefix+"/") && r.Method == http.MethodGet
}

// refuse answers raft's requests of another cluster as etcd does, counts them and those for checksums, and says whether it
// has answered. All else is served to everybody, as in etcd. Only raft's requests must say of which cluster they are.
func (s *strangers) refuse(w http.ResponseWriter, r *http.Request) bool {
	theirs, raft := r.Header.Get(ClusterHeader), raftRequest(r)
	hash := r.URL.Path == hashPath && r.Method == http.MethodGet && theirs != ""
	if theirs == s.cluster.String() || !raft && !hash {
		return false
	}
	s.received.Add(1)
	from := r.Header.Get("X-Server-From")
	if s.due("from " + from + theirs) {
		s.lg.Warn("request cluster ID mismatch", zap.String("local-member-id", s.id.String()),
			zap.String("local-member-cluster-id", s.cluster.String()), zap.String("remote-peer-server-name", from),
			zap.String("remote-peer-cluster-id", theirs), zap.String("remote-address", r.RemoteAddr),
			zap.String("remote-peer-urls", r.Header.Get("X-PeerURLs")), zap.String("path", r.URL.Path),
			zap.Duration("next-line-after", strangerInterval), zap.String("advice", strangerAdvice))
	}
	if hash {
		return false
	}
	w.Header().Set("X-Server-Version", version.Version)
	w.Header().Set(ClusterHeader, s.cluster.String())
	http.Error(w, rafthttp.ErrClusterIDMismatch.Error(), http.StatusPreconditionFailed)
	return true
}

// answered notes that a member at a URL is of another cluster.
func (s *strangers) answered(url, theirs string) {
	s.sent.Add(1)
	if s.due("at " + url + theirs) {
		s.lg.Warn("an answer of another cluster is refused", zap.String("url", url), zap.String("local-member-cluster-id", s.cluster.String()),
			zap.String("remote-peer-cluster-id", theirs), zap.Duration("next-line-after", strangerInterval),
			zap.String("advice", strangerAdvice))
	}
}

// logger is what rafthttp logs to: it writes a line each time that a member has refused what it sent, and tells of it in
// no other way.
func (s *strangers) logger() *zap.Logger {
	return s.lg.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core { return refusedCore{c, s} }))
}

// refusedCore counts lines about a cluster's ID, and passes few of them on.
type refusedCore struct {
	zapcore.Core
	s *strangers
}

// With implements zapcore.Core.
func (c refusedCore) With(fields []zapcore.Field) zapcore.Core {
	return refusedCore{c.Core.With(fields), c.s}
}

// Check implements zapcore.Core.
func (c refusedCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	switch e.Message {
	case "request sent was ignored by remote peer due to cluster ID mismatch", "request sent was ignored due to cluster ID mismatch":
		return ce.AddCore(e, c)
	}
	return c.Core.Check(e, ce)
}

// Write implements zapcore.Core, for lines about a cluster's ID.
func (c refusedCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	c.s.sent.Add(1)
	to := ""
	for _, f := range fields {
		if f.Key == "remote-peer-id" {
			to = f.String
		}
	}
	if !c.s.due("to "+to) || !c.Enabled(e.Level) {
		return nil
	}
	e.Level = zapcore.WarnLevel // it is an operator's mistake, not this member's failure
	return c.Core.Write(e, append(fields, zap.Duration("next-line-after", strangerInterval), zap.String("advice", strangerAdvice)))
}
