package compat

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/tests/harness"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func compactPhysically(revision int64) *pb.CompactionRequest {
	return &pb.CompactionRequest{Revision: revision, Physical: true}
}

func hashKV(revision int64) *pb.HashKVRequest { return &pb.HashKVRequest{Revision: revision} }

// history writes over a few keys, so that whole generations are compacted away, and returns the current revision.
func (r *Recorder) history(rng *rand.Rand, n int) (current int64) {
	key := func() string { return string(rune('a' + rng.IntN(4))) }
	for range n {
		var req proto.Message
		switch rng.IntN(12) {
		case 0:
			req = del(all, all)
		case 1, 2, 3:
			req = del(key(), "")
		case 4:
			req = txn(put("a", "1"), put("b", "2"), del("c", ""), put("d", "3"))
		case 5:
			req = putLease(key(), "leased", 7)
		case 6:
			req = del(key(), "c")
		default:
			req = put(key(), strings.Repeat("v", rng.IntN(40)))
		}
		if h, ok := r.Do(req).(interface{ GetHeader() *pb.ResponseHeader }); ok {
			current = h.GetHeader().GetRevision()
		}
	}
	return current
}

// TestCompactionHashes: the checksums that members take while they compact, of random histories, and what HashKV says
// between and after them.
func TestCompactionHashes(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			compare(t, harness.Options{Args: []string{"--compaction-batch-limit=5", "--compaction-sleep-interval=1ms"}}, func(r *Recorder) {
				rng := rand.New(rand.NewPCG(seed, 1))
				r.Do(&pb.LeaseGrantRequest{ID: 7, TTL: 10000})
				if rng.IntN(2) == 0 {
					r.DoAll(compactPhysically(0), hashKV(0))
				}
				compacted := int64(0)
				for range 13 {
					current := r.history(rng, 2+rng.IntN(12))
					at := compacted + rng.Int64N(current-compacted+1)
					if rng.IntN(4) == 0 {
						at = current
					}
					r.DoAll(compactPhysically(at), hashKV(0), hashKV(at), hashKV(compacted), hashKV(at-1), hashKV((at+current)/2))
					compacted = max(compacted, at)
				}
				for revision := range compacted + 2 {
					r.Do(hashKV(revision))
				}
				r.restart(true)
				if r.role == alone { // a cluster takes longer to end, and etcd may have written by then that the compaction is done
					r.Do(hashKV(compacted))
				}
				r.DoAll(hashKV(compacted-1), get(all, all))
			})
		})
	}
}

// TestHashKVOfNothing: etcd leaves nothing out where nothing is kept.
func TestHashKVOfNothing(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.DoAll(put("a", "1"), put("b", "2"), put("a", "3"), compactPhysically(4), del("a", ""), del("b", ""))
		for revision := range int64(8) {
			r.Do(hashKV(revision))
		}
		r.DoAll(compactPhysically(6), hashKV(0), hashKV(6), put("c", "1"), hashKV(6), hashKV(7), compactPhysically(7), hashKV(7), hashKV(0))
	})
}

// TestAutoCompaction: what is left when nothing has been written for longer than the period.
func TestAutoCompaction(t *testing.T) {
	args := []string{"--auto-compaction-mode=periodic", "--auto-compaction-retention=1s"}
	compare(t, harness.Options{Args: args}, func(r *Recorder) {
		for i := range 8 {
			r.Do(put("a", fmt.Sprint(i)))
		}
		r.Do(del("a", ""))
		r.Do(put("b", "1"))
		kv := pb.NewKVClient(r.conn)
		r.until("all but the newest revision is compacted", func() bool {
			_, err := kv.Range(r.ctx, &pb.RangeRequest{Key: []byte("b"), Revision: 10})
			return err != nil
		})
		for revision := range int64(13) {
			r.Do(&pb.RangeRequest{Key: []byte(all), RangeEnd: []byte(all), Revision: revision})
		}
		r.DoAll(compact(11), put("b", "2"))
	})
}

// TestPeerHash compares what other members are told.
func TestPeerHash(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.DoAll(put("a", "1"), put("a", "2"), compactPhysically(2), put("b", "1"))
		for _, request := range []struct{ verb, cluster, body string }{
			{"GET", "", `{"revision":0}`}, {"GET", "", `{"revision":1}`}, {"GET", "", `{"revision":2}`}, {"GET", "", `{"revision":3}`},
			{"GET", "", `{"revision":9}`}, {"GET", "", `{`}, {"GET", "", ``}, {"GET", "1", `{}`}, {"POST", "", `{}`},
		} {
			r.notef("> %v", request)
			r.notef("< %s", r.peerHash(request.verb, request.cluster, request.body))
		}
	})
}

func (r *Recorder) peerHash(verb, cluster, body string) string {
	req, err := http.NewRequestWithContext(r.ctx, verb, r.server.PeerURL()+"/members/hashkv", strings.NewReader(body))
	if err != nil {
		return err.Error()
	}
	if cluster != "" {
		req.Header.Set("X-Etcd-Cluster-ID", cluster)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	var compact bytes.Buffer // encoding/json puts blanks where it likes
	if json.Compact(&compact, text) != nil {
		compact.Write(text)
	}
	return fmt.Sprintf("%d %s %s %s", resp.StatusCode, resp.Header.Get("Content-Type"), resp.Header.Get("X-Etcd-Cluster-ID"), compact.String())
}
