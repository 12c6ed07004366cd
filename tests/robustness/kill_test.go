package robustness

import (
	"context"
	"flag"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dolmen-io/dolmen/tests/harness"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

var (
	rounds = flag.Int("rounds", 4, "how often each server is killed and started again")
	seed   = flag.Uint64("seed", 1, "seed of the load and of the moments of the kills")
)

// killDeadline bounds a round; it is far above what a slow machine needs.
const killDeadline = 2 * time.Minute

// TestKillUnderLoad kills each engine's server again and again; see the package comment.
func TestKillUnderLoad(t *testing.T) {
	engines := harness.Engines()
	if harness.Subject() == harness.Etcd {
		engines = []string{"bbolt"}
	}
	for _, engine := range engines {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			// Few entries between snapshots, so that rounds cross a cut of the log.
			opts := harness.Options{Engine: engine, Args: []string{"--snapshot-count=500"}}
			s := &survivor{t: t, server: harness.Start(t, harness.Subject(), opts), state: model{},
				granted: map[int64]bool{}, revision: 1, rng: rand.New(rand.NewPCG(*seed, 7))}
			for round := range *rounds {
				s.round(round)
				if t.Failed() {
					t.Fatalf("seed %d, round %d", *seed, round)
				}
			}
		})
	}
}

// survivor is a server that is killed round after round, and what is known of it.
type survivor struct {
	t        *testing.T
	server   *harness.Server
	rng      *rand.Rand
	state    model
	granted  map[int64]bool
	revision int64 // up to which everything was checked
}

func (s *survivor) round(n int) {
	j := newRoundJournal(50 + s.rng.IntN(1500))
	s.load(n, j)
	for s.rng.IntN(3) == 0 {
		s.server.KillAtLine(1 + s.rng.IntN(40)) // within its recovery
	}
	s.server.Restart()
	ctx, cancel := context.WithTimeout(s.t.Context(), killDeadline)
	defer cancel()

	h := s.readHistory(ctx)
	for _, problem := range check(h, j.mu.writes) {
		s.t.Errorf("round %d: %s", n, problem)
	}
	s.state.apply(h)
	s.revision = h.current
	conn := s.server.Dial()
	defer conn.Close()
	kv := pb.NewKVClient(conn)
	resp, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	if err != nil {
		s.t.Fatalf("round %d: read all: %v", n, err)
	}
	for _, problem := range s.state.diff(resp.Kvs) {
		s.t.Errorf("round %d: %s", n, problem)
	}
	for id := range j.mu.granted {
		s.granted[id] = true
	}
	s.checkLeases(ctx, pb.NewLeaseClient(conn), resp.Kvs)
	if s.rng.IntN(4) == 0 {
		if _, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: s.revision, Physical: s.rng.IntN(2) == 0}); err != nil {
			s.t.Fatalf("round %d: compact: %v", n, err)
		}
	}
	s.t.Logf("round %d: killed after %d acknowledged of %d writes, revision %d", n, j.mu.acks, len(j.mu.writes), s.revision)
}

// load runs the writers until the journal says that it is time, kills the server, and waits for the writers.
func (s *survivor) load(round int, j *roundJournal) {
	ctx, cancel := context.WithTimeout(s.t.Context(), killDeadline)
	defer cancel()
	ended := make(chan error, writers)
	for i := range writers {
		conn := s.server.Dial()
		defer conn.Close()
		w := newWriter(conn, *seed, round, i)
		go func() { ended <- w.run(ctx, j) }()
	}
	remaining := writers
	select {
	case <-j.enough:
	case err := <-ended:
		remaining--
		s.t.Errorf("round %d: a writer ended before the kill: %v", round, err)
	case <-ctx.Done():
		s.t.Errorf("round %d: %d writes were not acknowledged within %v", round, j.killAt, killDeadline)
	}
	s.server.Kill()
	for range remaining {
		if err := <-ended; status.Code(err) != codes.Unavailable {
			s.t.Errorf("round %d: a writer ended with %v, want the error of a lost connection", round, err)
		}
	}
}

// readHistory reads the events after the last checked revision up to the current one.
func (s *survivor) readHistory(ctx context.Context) history {
	conn := s.server.Dial()
	defer conn.Close()
	h := history{after: s.revision, revisions: map[int64][]*mvccpb.Event{}}
	status, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		s.t.Fatalf("status: %v", err)
	}
	if h.current = status.Header.Revision; h.current < s.revision {
		s.t.Fatalf("the revision went back from %d to %d", s.revision, h.current)
	}
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		s.t.Fatalf("watch: %v", err)
	}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: h.after + 1}}}); err != nil {
		s.t.Fatalf("create watch: %v", err)
	}
	for read := h.after; read < h.current; {
		resp, err := stream.Recv()
		if err != nil {
			s.t.Fatalf("history after %d of %d: %v", read, h.current, err)
		}
		if resp.Canceled {
			s.t.Fatalf("watch of the history canceled: %v", resp)
		}
		for _, e := range resp.Events {
			h.revisions[e.Kv.ModRevision] = append(h.revisions[e.Kv.ModRevision], e)
			read = e.Kv.ModRevision
		}
	}
	return h
}

// checkLeases: every granted lease is there, with the keys that the store says belong to it.
func (s *survivor) checkLeases(ctx context.Context, client pb.LeaseClient, kvs []*mvccpb.KeyValue) {
	attached := map[int64][]string{}
	for _, kv := range kvs {
		if kv.Lease != 0 {
			attached[kv.Lease] = append(attached[kv.Lease], string(kv.Key))
		}
	}
	for id := range s.granted {
		resp, err := client.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
		if err != nil {
			s.t.Fatalf("time to live of lease %d: %v", id, err)
		}
		if resp.TTL <= 0 || resp.GrantedTTL != leaseSeconds {
			s.t.Errorf("acknowledged lease %d has ttl %d of %d", id, resp.TTL, resp.GrantedTTL)
		}
		want := strings.Join(attached[id], " ")
		if got := joinSorted(resp.Keys); got != want {
			s.t.Errorf("lease %d has keys [%s], the store says [%s]", id, got, want)
		}
	}
}
