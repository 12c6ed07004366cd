package robustness

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/dolmen-io/dolmen/tests/harness"
)

// TestLostMembers: five members take writes without two of them. Without three, each that is left reads what it has and
// refuses what needs the others, in the words of etcd, which runs the same test. All is well when one returns.
func TestLostMembers(t *testing.T) {
	kinds := []harness.Kind{harness.Etcd}
	if harness.Subject() != harness.Etcd {
		kinds = append(kinds, harness.Subject())
	}
	for _, kind := range kinds {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			loseMembers(t, newWorld(t, worldOptions{kind: kind, members: 5}))
		})
	}
}

func loseMembers(t *testing.T, w *world) {
	leader := w.awaitLeader()
	lose := func(i int) { w.end([]int{i}, (*harness.Server).Kill) }
	lose(leader)
	lose((leader + 1) % 5)
	left := []int{(leader + 2) % 5, (leader + 3) % 5, (leader + 4) % 5}
	w.eventually("three of five lead", w.put(left[0], "of three"))
	for _, i := range left {
		require.NoError(t, w.put(i, "of "+name(i))(t.Context()), "a write on %s of three", name(i))
	}

	lose(left[0])
	last := "of " + name(left[2])
	var asking sync.WaitGroup
	for _, i := range left[1:] {
		w.eventually("nobody leads two of five", func(ctx context.Context) error {
			resp, err := w.etcds[i].Status(ctx, w.cluster.Members[i].Endpoint())
			if err == nil && resp.Leader != 0 {
				err = fmt.Errorf("%s follows %x", name(i), resp.Leader)
			}
			return err
		})
		for _, check := range refusals(t, w.cluster.Members[i], last) {
			asking.Go(check)
		}
	}
	asking.Wait()

	w.revive([]int{left[0]})
	w.eventually("three of five lead again", w.put(left[1], "again"))
	for _, i := range left[1:] {
		resp, err := w.etcds[i].Get(t.Context(), "k")
		require.NoError(t, err)
		require.Equal(t, "again", string(resp.Kvs[0].Value))
	}
	w.recover()
}

// put returns a write on member i.
func (w *world) put(i int, value string) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		_, err := w.etcds[i].Put(ctx, "k", value)
		return err
	}
}

// refusals hold that a member without a leader answers from what it has, and refuses all else as etcd does. They may run
// at once, and take as long as a member waits for a leader.
func refusals(t *testing.T, m *harness.Server, has string) []func() {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), endPatience)
	t.Cleanup(cancel)
	conn := m.Dial()
	kv, leases := pb.NewKVClient(conn), pb.NewLeaseClient(conn)
	refused := func(what string, ask func() error, code codes.Code, text string) func() {
		return func() {
			err := ask()
			got := status.Code(err).String() + ": " + status.Convert(err).Message()
			assert.Equal(t, code.String()+": "+text, got, "%s on %s", what, m)
		}
	}
	return []func(){
		func() {
			resp, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("k"), Serializable: true})
			if assert.NoError(t, err, m) && assert.Len(t, resp.Kvs, 1, m) {
				assert.Equal(t, has, string(resp.Kvs[0].Value), m)
			}
		},
		refused("a read of the newest", func() error {
			_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("k")})
			return err
		}, codes.Unavailable, "etcdserver: request timed out"),
		refused("a write", func() error {
			_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k"), Value: []byte("refused")})
			return err
		}, codes.DeadlineExceeded, "context deadline exceeded"),
		refused("a grant", func() error {
			_, err := leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 10})
			return err
		}, codes.DeadlineExceeded, "context deadline exceeded"),
	}
}
