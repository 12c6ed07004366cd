package harness

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// TestCluster: members find each other, keep their addresses over a kill, can be paused, and one more can join.
func TestCluster(t *testing.T) {
	for _, kind := range []Kind{Etcd, Subject()} {
		t.Run(kind.String(), func(t *testing.T) {
			c := StartCluster(t, kind, 3, ClusterOptions{Options: Options{NoFsync: true}})
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			before := strings.Join(c.Endpoints(), ",")
			c.Members[0].Kill()
			c.Restart(0)
			if after := strings.Join(c.Endpoints(), ","); after != before {
				t.Errorf("endpoints were %s, are %s", before, after)
			}

			c.Pause(2) // which may lead
			conn := c.Members[0].Dial()
			kv, cluster := pb.NewKVClient(conn), pb.NewClusterClient(conn)
			persist(t, ctx, "put with one of three members paused", func() error {
				_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k")})
				return err
			})
			c.Resume(2)

			i, peer := c.Prepare()
			var added *pb.MemberAddResponse
			persist(t, ctx, "add a member", func() (err error) {
				added, err = cluster.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{peer}, IsLearner: true})
				return err
			})
			c.Restart(i)
			persist(t, ctx, "remove it", func() error {
				_, err := cluster.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: added.Member.ID})
				return err
			})
			c.Forget(i)
			list, err := cluster.MemberList(ctx, &pb.MemberListRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if len(list.Members) != 3 {
				t.Errorf("%d members, want 3", len(list.Members))
			}
		})
	}
}

// persist repeats what a cluster may refuse while it looks for a leader.
func persist(t *testing.T, ctx context.Context, what string, f func() error) {
	t.Helper()
	for {
		err := f()
		if err == nil {
			return
		}
		if code := status.Code(err); ctx.Err() != nil || code != codes.Unavailable && code != codes.DeadlineExceeded {
			t.Fatalf("%s: %v", what, err)
		}
	}
}
