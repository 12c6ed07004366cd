package compat

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/tests/harness"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/lease/leasepb"
)

// peer records what a member answers to another. An answer of a kind is shown as its text, other answers as they are; of
// what is refused members read only the status, mostly.
func (r *Recorder) peer(verb, path string, body []byte, kind proto.Message, headers ...string) {
	r.notef("> %s %s %q %v", verb, path, body, headers)
	req, err := http.NewRequestWithContext(r.ctx, verb, r.server.PeerURL()+path, strings.NewReader(string(body)))
	if err != nil {
		r.fatalf("%v", err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		r.notef("! %v", err)
		return
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.notef("! %v", err)
	}
	shown := string(text)
	if kind != nil && resp.StatusCode == http.StatusOK {
		kind = proto.Clone(kind)
		if err := proto.Unmarshal(text, kind); err != nil {
			r.notef("! %v", err)
		}
		shown = timeLeft.ReplaceAllString(strings.Join(strings.Fields(prototext.MarshalOptions{}.Format(kind)), " "), "TTL:some")
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusPreconditionFailed: // of these, members read the text
	default:
		shown = "some text"
	}
	shown = timeNow.ReplaceAllString(shown, `"Now":"some"`)
	r.notef("< %d %q %q %s", resp.StatusCode, resp.Header.Get("Content-Type"), resp.Header.Get("X-Etcd-Cluster-ID"), shown)
}

var (
	timeLeft = regexp.MustCompile(`\bTTL:[0-9]+`)
	timeNow  = regexp.MustCompile(`"Now":"[^"]*"`)
)

func wire(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("marshal %T: %v", m, err))
	}
	return b
}

// TestPeerEndpoints: what members ask each other over HTTP, asked of the leader and of a follower.
func TestPeerEndpoints(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.awaitStorageVersion()
		r.DoAll(grant(7), putLease("a", "1", 7), putLease("b", "1", 7))
		for _, verb := range []string{http.MethodGet, http.MethodPost, http.MethodHead} {
			for _, path := range []string{"/", "/version", "/downgrade/enabled", "/members/promote/", "/members/promote/99", "/members/promote/x",
				"/members/promote/-1", "/leases/nothing", "/leases/", "/raft/probing", "/raft/nothing", "/health", "/v3/kv/range", "/metrics"} {
				r.peer(verb, path, nil, nil)
			}
			r.peer(verb, "/leases", wire(&pb.LeaseKeepAliveRequest{ID: 7}), new(pb.LeaseKeepAliveResponse))
			r.peer(verb, "/leases", wire(&pb.LeaseKeepAliveRequest{ID: 99}), new(pb.LeaseKeepAliveResponse))
			for _, id := range []int64{7, 99} {
				if id == 99 && r.role == follower {
					continue // etcd says that there is none, though it may only not have heard of it; ours says that it does not lead
				}
				for _, keys := range []bool{false, true} {
					r.peer(verb, "/leases/internal", wire(&leasepb.LeaseInternalRequest{LeaseTimeToLiveRequest: &pb.LeaseTimeToLiveRequest{ID: id, Keys: keys}}),
						new(leasepb.LeaseInternalResponse))
				}
			}
		}
		r.peer(http.MethodPost, fmt.Sprint("/members/promote/", r.self()), nil, nil)
		r.peer(http.MethodPost, "/leases", []byte("nonsense"), nil)
		r.peer(http.MethodPost, "/leases/internal", []byte("nonsense"), nil)
		r.peer(http.MethodPost, "/leases", make([]byte, 70_000), nil)
		r.peer(http.MethodPost, "/members", nil, nil)
		if r.role == alone { // more than one come in no order
			r.peer(http.MethodGet, "/members", nil, nil)
			r.peer(http.MethodGet, "/members", nil, nil, "X-Etcd-Cluster-ID: 1")
		}
	})
}
