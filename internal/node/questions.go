package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/certs"
	"github.com/dolmen-io/dolmen/internal/corruption"
	"github.com/dolmen-io/dolmen/internal/etcdapi"
	"github.com/dolmen-io/dolmen/internal/lease"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/peer"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/lease/leasepb"
)

// maxAnswer bounds what is read of another member's answer. The largest ones list members, or the keys of a lease.
const maxAnswer = 64 << 20

// questions asks other members over HTTP, on their peer URLs. They may be etcd's.
type questions struct {
	patience time.Duration // with one URL
	client   *http.Client
	limit    int64 // bytes read of an answer
	// cluster, if not 0, is the only one that may answer; stranger is told of others.
	cluster  uint64
	stranger func(url, cluster string)
}

// only has answers of other clusters refused.
func (q *questions) only(cluster uint64, stranger func(url, cluster string)) {
	q.cluster, q.stranger = cluster, stranger
}

// newQuestions makes the client of a member. certificates, which may be nil, are those of --peer-*.
func newQuestions(patience time.Duration, certificates *certs.Store, limit int64) *questions {
	return &questions{patience: patience, client: newPeerClient(certificates), limit: limit}
}

// reply is what a member has answered.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// refusal is a reply as an error.
func (r reply) refusal() error {
	return fmt.Errorf("the member answers %d: %.200s", r.status, strings.TrimSpace(string(r.body)))
}

// ask sends a request to the URLs one after the other until one answers.
func (q *questions) ask(ctx context.Context, method string, urls []string, path string, body []byte, header http.Header) (r reply, err error) {
	err = errors.New("the member has no peer URL")
	for _, url := range urls {
		if r, err = q.askOne(ctx, method, url+path, body, header); err == nil || ctx.Err() != nil {
			break
		}
	}
	return r, err
}

func (q *questions) askOne(ctx context.Context, method, url string, body []byte, header http.Header) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, q.patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return reply{}, fmt.Errorf("ask another member: %w", err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	res, err := q.client.Do(req)
	if err != nil {
		return reply{}, fmt.Errorf("ask another member: %w", err)
	}
	defer func() { _ = res.Body.Close() }() // it is read to its end, or of no use
	text, err := io.ReadAll(io.LimitReader(res.Body, q.limit))
	if err != nil {
		return reply{}, fmt.Errorf("read the answer of %s: %w", url, err)
	}
	r := reply{status: res.StatusCode, header: res.Header, body: text}
	return r, q.checkCluster(url, r)
}

// checkCluster refuses what another cluster answers. Not every answer says of which cluster it is.
func (q *questions) checkCluster(url string, r reply) error {
	theirs, ours := r.header.Get(peer.ClusterHeader), types.ID(q.cluster).String()
	if q.cluster == 0 || theirs == "" || theirs == ours {
		return nil
	}
	q.stranger(url, theirs)
	return fmt.Errorf("%w: %s is of cluster %s, this member of %s", corruption.ErrOtherCluster, url, theirs, ours)
}

// versionsOf asks a member for the versions of itself and of its cluster.
func (q *questions) versionsOf(ctx context.Context, urls []string) (server, cluster string, err error) {
	r, err := q.ask(ctx, http.MethodGet, urls, "/version", nil, nil)
	if err != nil {
		return "", "", err
	}
	if r.status != http.StatusOK {
		return "", "", r.refusal()
	}
	var v struct {
		Server  string `json:"etcdserver"`
		Cluster string `json:"etcdcluster"`
	}
	if err := json.Unmarshal(r.body, &v); err != nil {
		return "", "", fmt.Errorf("read a version from %.80q: %w", r.body, err)
	}
	return v.Server, v.Cluster, nil
}

// ServerVersion implements peers.
func (q *questions) ServerVersion(ctx context.Context, m membership.Member) (string, error) {
	server, _, err := q.versionsOf(ctx, m.PeerURLs)
	return server, err
}

// membersOf asks a member who the members of its cluster are, and for the cluster's ID.
func (q *questions) membersOf(ctx context.Context, url string) (members []membership.Member, cluster uint64, err error) {
	r, err := q.askOne(ctx, http.MethodGet, url+"/members", nil, nil)
	if err != nil {
		return nil, 0, err
	}
	if r.status != http.StatusOK {
		return nil, 0, r.refusal()
	}
	if err := json.Unmarshal(r.body, &members); err != nil {
		return nil, 0, fmt.Errorf("read members from %.80q: %w", r.body, err)
	}
	id, err := types.IDFromString(r.header.Get("X-Etcd-Cluster-ID"))
	if err != nil {
		return nil, 0, fmt.Errorf("read the ID of the cluster of %s: %w", url, err)
	}
	return members, uint64(id), nil
}

// Promote implements peers.
func (q *questions) Promote(ctx context.Context, leader membership.Member, id uint64) (members []membership.Member, err error) {
	header := http.Header{}
	if token := etcdapi.Token(ctx); token != "" {
		header.Set("Authorization", token)
	}
	r, err := q.ask(ctx, http.MethodPost, leader.PeerURLs, "/members/promote/"+strconv.FormatUint(id, 10), nil, header)
	switch {
	case err != nil:
		return nil, err
	case r.status == http.StatusOK:
		if err := json.Unmarshal(r.body, &members); err != nil {
			return nil, fmt.Errorf("read members from %.80q: %w", r.body, err)
		}
		return members, nil
	case r.status == http.StatusNotFound:
		return nil, membership.ErrNotFound
	case r.status == http.StatusRequestTimeout:
		return nil, etcdapi.ErrTimeout
	}
	for _, known := range []error{rpctypes.ErrGRPCLearnerNotReady, rpctypes.ErrGRPCMemberNotLearner} {
		if strings.Contains(string(r.body), strings.TrimPrefix(rpctypes.ErrorDesc(known), "etcdserver: ")) {
			return nil, known
		}
	}
	return nil, fmt.Errorf("member promote: unknown error(%.200s)", r.body)
}

const (
	leasePath         = "/leases"
	leaseInternalPath = "/leases/internal"
)

func protobufHeader() http.Header { return http.Header{"Content-Type": {"application/protobuf"}} }

// Renew implements peers.
func (q *questions) Renew(ctx context.Context, leader membership.Member, id int64) (ttl int64, err error) {
	body, err := proto.Marshal(&pb.LeaseKeepAliveRequest{ID: id})
	if err != nil {
		return 0, err
	}
	var res pb.LeaseKeepAliveResponse
	if err := q.askLeader(ctx, leader, leasePath, body, &res); err != nil {
		return 0, err
	}
	if res.GetID() != id {
		return 0, fmt.Errorf("renew lease %x: the leader has renewed lease %x", id, res.GetID())
	}
	return res.GetTTL(), nil
}

// TimeToLive implements peers.
func (q *questions) TimeToLive(ctx context.Context, leader membership.Member, id int64) (t etcdapi.LeaseTime, err error) {
	body, err := proto.Marshal(&leasepb.LeaseInternalRequest{LeaseTimeToLiveRequest: &pb.LeaseTimeToLiveRequest{ID: id, Keys: true}})
	if err != nil {
		return t, err
	}
	var res leasepb.LeaseInternalResponse
	if err := q.askLeader(ctx, leader, leaseInternalPath, body, &res); err != nil {
		return t, err
	}
	got := res.GetLeaseTimeToLiveResponse()
	if got.GetID() != id {
		return t, fmt.Errorf("lease %x: the leader has answered for lease %x", id, got.GetID())
	}
	t = etcdapi.LeaseTime{Remaining: time.Duration(got.GetTTL()) * time.Second, Granted: got.GetGrantedTTL()}
	for _, key := range got.GetKeys() {
		t.Keys = append(t.Keys, string(key))
	}
	return t, nil
}

// askLeader asks about a lease. It returns lease.ErrNotFound if there is none, lease.ErrNotPrimary if the member leads
// no more, and etcdapi.ErrApplyTimeout if it is not ready to answer.
func (q *questions) askLeader(ctx context.Context, leader membership.Member, path string, body []byte, into proto.Message) error {
	r, err := q.ask(ctx, http.MethodPost, leader.PeerURLs, path, body, protobufHeader())
	switch {
	case err != nil:
		return err
	case r.status == http.StatusNotFound:
		return lease.ErrNotFound
	case r.status == http.StatusRequestTimeout:
		return etcdapi.ErrApplyTimeout
	case r.status != http.StatusOK:
		return fmt.Errorf("%w: %w", lease.ErrNotPrimary, r.refusal())
	}
	if err := proto.Unmarshal(r.body, into); err != nil {
		return fmt.Errorf("read the answer about a lease: %w", err)
	}
	return nil
}
