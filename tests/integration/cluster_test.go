package integration

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/tests/harness"
)

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// TestThreeProcesses: a cluster of processes goes on when one is killed, brings it up to date by a snapshot, and is
// restarted member by member.
func TestThreeProcesses(t *testing.T) {
	members := harness.StartCluster(t, harness.Dolmen, 3, harness.ClusterOptions{Options: harness.Options{
		Args: []string{"--snapshot-count=50", "--snapshot-catchup-entries=10"}}})
	endpoints := members.Endpoints()
	c := clientOf(t, endpoints...)
	put := func(key, value string) {
		t.Helper()
		require.Eventually(t, func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, err := c.Put(ctx, key, value)
			return err == nil
		}, testDeadline, 20*time.Millisecond)
	}
	equal := func() {
		t.Helper()
		require.Eventually(t, func() bool {
			sums := map[string]bool{}
			for _, e := range endpoints {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				h, err := c.HashKV(ctx, e, 0)
				cancel()
				if err != nil {
					return false
				}
				sums[fmt.Sprint(h.Hash, h.Header.Revision)] = true
			}
			return len(sums) == 1
		}, testDeadline, 50*time.Millisecond)
	}
	put("k", "v")
	equal()

	members.Members[1].Kill()
	for i := range 300 {
		put(fmt.Sprintf("k%d", i%40), fmt.Sprint(i))
	}
	members.Restart(1)
	equal()
	require.Contains(t, members.Members[1].Log(), "applied snapshot")

	for i, m := range members.Members {
		m.Stop()
		put(fmt.Sprintf("without %d", i), "v")
		members.Restart(i)
		equal()
	}
}
