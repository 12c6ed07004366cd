package integration

import (
	"context"
	"fmt"
	"net"
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

// clusterMember is a member of a cluster of processes.
type clusterMember struct {
	name, client, peer, dir string
	cmd                     *exec.Cmd
	log                     string // path of its last run's output
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

func (p *clusterMember) start(t *testing.T, program, cluster string) {
	t.Helper()
	out, err := os.Create(p.log)
	require.NoError(t, err)
	defer out.Close() // the process has its own
	p.cmd = exec.Command(program, "--name="+p.name, "--data-dir="+p.dir,
		"--listen-client-urls=http://"+p.client, "--advertise-client-urls=http://"+p.client,
		"--listen-peer-urls=http://"+p.peer, "--initial-advertise-peer-urls=http://"+p.peer,
		"--initial-cluster="+cluster, "--heartbeat-interval=50", "--election-timeout=500",
		"--snapshot-count=50", "--snapshot-catchup-entries=10")
	p.cmd.Stdout, p.cmd.Stderr = out, out
	require.NoError(t, p.cmd.Start())
}

func (p *clusterMember) lines(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(p.log)
	require.NoError(t, err)
	return string(text)
}

// end sends a signal and waits until the process is gone.
func (p *clusterMember) end(sig syscall.Signal) {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(sig)
	_ = p.cmd.Wait() // a signal is what ended it
	p.cmd = nil
}

// TestThreeProcesses: a cluster of processes goes on when one is killed, brings it up to date by a snapshot, and is
// restarted member by member.
func TestThreeProcesses(t *testing.T) {
	program, err := harness.OwnProgram()
	require.NoError(t, err)
	members := make([]*clusterMember, 3)
	var parts, endpoints []string
	for i := range members {
		members[i] = &clusterMember{name: fmt.Sprintf("m%d", i), client: freeAddress(t), peer: freeAddress(t), dir: t.TempDir()}
		members[i].log = filepath.Join(t.TempDir(), "log")
		parts = append(parts, members[i].name+"=http://"+members[i].peer)
		endpoints = append(endpoints, members[i].client)
	}
	cluster := strings.Join(parts, ",")
	for _, p := range members {
		p.start(t, program, cluster)
	}
	t.Cleanup(func() {
		for _, p := range members {
			p.end(syscall.SIGKILL)
			if t.Failed() {
				t.Logf("%s:\n%s", p.name, p.lines(t))
			}
		}
	})
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: testDeadline, Logger: zap.NewNop()})
	require.NoError(t, err)
	defer c.Close()
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

	members[1].end(syscall.SIGKILL)
	for i := range 300 {
		put(fmt.Sprintf("k%d", i%40), fmt.Sprint(i))
	}
	members[1].start(t, program, cluster)
	equal()
	require.Contains(t, members[1].lines(t), "applied snapshot")

	for i, p := range members {
		p.end(syscall.SIGTERM)
		put(fmt.Sprintf("without %d", i), "v")
		p.start(t, program, cluster)
		equal()
	}
}
