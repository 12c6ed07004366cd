package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/certs"
	"github.com/dolmen-io/dolmen/internal/corruption"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/mvcc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// peerHashes asks other members for checksums, on their peer URLs. They may be etcd's.
type peerHashes struct {
	lg        *zap.Logger
	cluster   string
	questions *questions
}

// newPeerHashes makes the client of a member. certificates, which may be nil, are those of --peer-*.
func newPeerHashes(lg *zap.Logger, cluster uint64, patience time.Duration, certificates *certs.Store) *peerHashes {
	return &peerHashes{
		lg: lg, cluster: strconv.FormatUint(cluster, 16), questions: newQuestions(patience, certificates, maxHashAnswer),
	}
}

// ask asks all members at once, each at its URLs until one answers. One that does not answer holds up a start as long as a
// request may take; several take no longer than one.
func (p *peerHashes) ask(ctx context.Context, members []membership.Member, revision int64) []corruption.Peer {
	peers := make([]corruption.Peer, len(members))
	var asking sync.WaitGroup
	for i, member := range members {
		asking.Go(func() { peers[i] = p.askMember(ctx, member, revision) })
	}
	asking.Wait()
	return peers
}

func (p *peerHashes) askMember(ctx context.Context, member membership.Member, revision int64) corruption.Peer {
	peer := corruption.Peer{ID: member.ID, URLs: member.PeerURLs, Err: errors.New("the member has no peer URL")}
	for _, url := range member.PeerURLs {
		if peer.Answer, peer.Err = p.askOne(ctx, url, revision); peer.Err == nil {
			break
		}
		p.lg.Warn("failed hash kv request", zap.Int64("requested-revision", revision),
			zap.String("remote-peer-endpoint", url), zap.Error(peer.Err))
	}
	return peer
}

// maxHashAnswer bounds what is read of an answer: it is four numbers, or a line of text.
const maxHashAnswer = 64 << 10

func (p *peerHashes) askOne(ctx context.Context, url string, revision int64) (a corruption.Answer, err error) {
	body, err := json.Marshal(&pb.HashKVRequest{Revision: revision})
	if err != nil {
		return a, fmt.Errorf("ask for a checksum: %w", err)
	}
	header := http.Header{}
	header.Set("Content-Type", "application/json")
	header.Set("X-Etcd-Cluster-ID", p.cluster)
	r, err := p.questions.askOne(ctx, http.MethodGet, url+"/members/hashkv", body, header)
	if err != nil {
		return a, fmt.Errorf("ask for a checksum: %w", err)
	}
	if r.status != http.StatusOK {
		return a, hashRefusal(r)
	}
	var answer pb.HashKVResponse
	if err := json.Unmarshal(r.body, &answer); err != nil {
		return a, fmt.Errorf("read a checksum from %.80q: %w", r.body, err)
	}
	a.Hash = mvcc.Hash{Sum: answer.GetHash(), Compacted: answer.GetCompactRevision(), Revision: answer.GetHashRevision()}
	a.Current = answer.GetHeader().GetRevision()
	return a, nil
}

// hashRefusal returns what a member means by refusing. The texts are etcd's too.
func hashRefusal(r reply) error {
	for _, known := range []struct {
		status int
		err    error
	}{
		{http.StatusBadRequest, mvcc.ErrCompacted},
		{http.StatusBadRequest, mvcc.ErrFuture},
		{http.StatusPreconditionFailed, corruption.ErrOtherCluster},
	} {
		if r.status == known.status && strings.Contains(string(r.body), known.err.Error()) {
			return known.err
		}
	}
	return r.refusal()
}
