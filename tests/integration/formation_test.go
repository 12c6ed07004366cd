package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/tests/harness"
)

func clientOf(t *testing.T, endpoints ...string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: testDeadline, Logger: zap.NewNop()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() }) // the member may be gone
	return c
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), testDeadline)
	t.Cleanup(cancel)
	return ctx
}

// TestForceNewClusterOfEtcd: of three members of etcd's one is left, which becomes one of ours and the only one of its
// cluster. It holds what etcd held, and stays alone.
func TestForceNewClusterOfEtcd(t *testing.T) {
	theirs := harness.StartCluster(t, harness.Etcd, 3, harness.ClusterOptions{Options: harness.Options{NoFsync: true}})
	c := clientOf(t, theirs.Endpoints()...)
	for i := range 50 {
		_, err := c.Put(bounded(t), fmt.Sprintf("k%d", i%20), fmt.Sprint(i))
		require.NoError(t, err)
	}
	lease, err := c.Grant(bounded(t), 600)
	require.NoError(t, err)
	_, err = c.Put(bounded(t), "leased", "v", clientv3.WithLease(lease.ID))
	require.NoError(t, err)
	survivor := theirs.Members[0]
	// A linearizable read there waits until it has all of it.
	_, err = clientOf(t, survivor.Endpoint()).Get(bounded(t), "leased")
	require.NoError(t, err)
	want, err := c.HashKV(bounded(t), survivor.Endpoint(), 0)
	require.NoError(t, err)
	theirs.Members[1].Kill()
	theirs.Members[2].Kill()
	// Stopped well, for a member that is killed may not know of its last entries that they are committed.
	survivor.Stop()

	ours := harness.Start(t, harness.Dolmen, harness.Options{NoFsync: true, DataDir: survivor.DataDir, Args: []string{"--force-new-cluster"}})
	check := func(endpoint string) {
		t.Helper()
		c := clientOf(t, endpoint)
		got, err := c.HashKV(bounded(t), endpoint, want.HashRevision)
		require.NoError(t, err)
		require.Equal(t, []any{want.Hash, want.HashRevision, want.CompactRevision}, []any{got.Hash, got.HashRevision, got.CompactRevision})
		members, err := c.MemberList(bounded(t))
		require.NoError(t, err)
		require.Len(t, members.Members, 1)
		left, err := c.TimeToLive(bounded(t), lease.ID, clientv3.WithAttachedKeys())
		require.NoError(t, err)
		require.Equal(t, [][]byte{[]byte("leased")}, left.Keys)
		_, err = c.Put(bounded(t), "alone", "v")
		require.NoError(t, err)
	}
	check(ours.Endpoint())
	ours.Stop()
	again := harness.Start(t, harness.Dolmen, harness.Options{NoFsync: true, DataDir: survivor.DataDir})
	check(again.Endpoint())
}

// TestDiscoveryThrough: three members find each other through a member of each kind, and one more is too late.
func TestDiscoveryThrough(t *testing.T) {
	program, err := harness.OwnProgram()
	require.NoError(t, err)
	for _, kind := range []harness.Kind{harness.Etcd, harness.Dolmen} {
		t.Run(kind.String(), func(t *testing.T) {
			service := harness.Start(t, kind, harness.Options{NoFsync: true})
			c := clientOf(t, service.Endpoint())
			_, err := c.Put(bounded(t), "/_etcd/registry/t/_config/size", "3")
			require.NoError(t, err)
			dir := t.TempDir()
			var endpoints, logs []string
			start := func(name string) *exec.Cmd {
				client, peer := freeAddress(t), freeAddress(t)
				endpoints, logs = append(endpoints, client), append(logs, filepath.Join(dir, name+".log"))
				out, err := os.Create(logs[len(logs)-1])
				require.NoError(t, err)
				defer out.Close() // the process has its own
				cmd := exec.Command(program, "--name="+name, "--data-dir="+filepath.Join(dir, name), "--log-format=json",
					"--listen-client-urls=http://"+client, "--advertise-client-urls=http://"+client,
					"--listen-peer-urls=http://"+peer, "--initial-advertise-peer-urls=http://"+peer,
					"--heartbeat-interval=50", "--election-timeout=500",
					"--discovery-token=t", "--discovery-endpoints=http://"+service.Endpoint())
				cmd.Stdout, cmd.Stderr, cmd.Env = out, out, append(os.Environ(), harness.QuickExit)
				require.NoError(t, cmd.Start())
				t.Cleanup(func() {
					_ = cmd.Process.Kill() // it may have ended
					_ = cmd.Wait()
				})
				return cmd
			}
			said := func(i int) string {
				text, err := os.ReadFile(logs[i])
				require.NoError(t, err)
				return string(text)
			}
			// The first is stopped by a signal while it waits, and comes back.
			first := start("m0")
			require.Eventually(t, func() bool { return strings.Contains(said(0), "waiting for peers from discovery service") },
				memberPatience, 20*time.Millisecond)
			require.NoError(t, first.Process.Signal(syscall.SIGTERM))
			require.Error(t, first.Wait(), "a signal ends it")
			require.Contains(t, said(0), "stopped before the member was open")
			endpoints, logs = nil, nil
			_, err = c.Delete(bounded(t), "/_etcd/registry/t/members/", clientv3.WithPrefix()) // its address is another one now
			require.NoError(t, err)

			for i := range 3 {
				start(fmt.Sprintf("m%d", i))
			}
			for i := range 3 {
				require.Eventually(t, func() bool { return strings.Contains(said(i), readyLine) }, memberPatience, 20*time.Millisecond)
			}
			members, err := clientOf(t, endpoints...).MemberList(bounded(t))
			require.NoError(t, err)
			require.Len(t, members.Members, 3)

			late := start("late")
			require.Error(t, late.Wait())
			require.Equal(t, 1, late.ProcessState.ExitCode())
			require.Contains(t, said(3), "discovery: cluster is full")
			require.Contains(t, said(3), "do not reuse discovery token; generate a new one to bootstrap a cluster")
		})
	}
}
