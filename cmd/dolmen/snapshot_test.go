package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/server/v3/lease/leasepb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/memory"
	"github.com/dolmen-io/dolmen/internal/interchange"
	"github.com/dolmen-io/dolmen/internal/mvcc"
	"github.com/dolmen-io/dolmen/internal/state"
)

// snapshotFile writes a snapshot of two keys, of which one was deleted, and a lease.
func snapshotFile(t *testing.T) string {
	t.Helper()
	eng, err := memory.Open(t.TempDir(), memory.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, eng.Close()) }()
	var b engine.Batch
	for i, key := range []string{"a", "b"} {
		kv := mvcc.KeyValue{Key: []byte(key), Value: []byte("v"), Create: int64(i + 2), Mod: int64(i + 2), Ver: 1}
		b.Put(mvcc.Revision{Main: int64(i + 2)}.EngineKey(false), kv.Encode())
	}
	b.Put(mvcc.Revision{Main: 4}.EngineKey(true), (&mvcc.KeyValue{Key: []byte("a")}).Encode())
	value, err := proto.Marshal(&leasepb.Lease{ID: 7, TTL: 60})
	require.NoError(t, err)
	b.Put(binary.BigEndian.AppendUint64([]byte{engine.TableLease}, 7), value)
	require.NoError(t, state.Applied{Index: 9, Term: 2, Conf: &raftpb.ConfState{}}.Put(&b))
	require.NoError(t, eng.Commit(&b))
	sn, err := eng.Snapshot()
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "backup.db")
	_, err = interchange.Export(t.Context(), sn, path)
	require.NoError(t, err)
	require.NoError(t, sn.Close())
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	sum := sha256.Sum256(data)
	require.NoError(t, os.WriteFile(path, append(data, sum[:]...), 0o600))
	return path
}

func TestSnapshotStatus(t *testing.T) {
	file := snapshotFile(t)
	for format, want := range map[string]string{
		"simple": `^[0-9a-f]+, 4, 1, \d+ kB, 3\.7\.0\n$`,
		"json":   `^{"hash":\d+,"revision":4,"totalKey":1,"totalSize":\d+,"version":"3\.7\.0"}\n$`,
		"fields": `^"Hash" : \d+\n"Revision" : 4\n"Keys" : 1\n"Size" : \d+\n"Version" : 3\.7\.0\n$`,
		"table":  `^┌─+┬─+┬─+┬─+┬─+┐\n│ +HASH +│ REVISION │ TOTAL KEYS │ TOTAL SIZE │ VERSION │\n`,
	} {
		v := invoke(t, "dolmen", "snapshot", "status", file, "-w", format)
		require.Equal(t, outcome{}, v.run())
		require.Empty(t, v.errs.String())
		require.Regexp(t, want, v.out.String())
	}
	var out bytes.Buffer
	require.NoError(t, writeTable(&out, []string{"HASH", "REVISION"}, []string{"1a2b3c", "4"}))
	require.Equal(t, "┌────────┬──────────┐\n│  HASH  │ REVISION │\n├────────┼──────────┤\n│ 1a2b3c │        4 │\n└────────┴──────────┘\n", out.String())
	for n, want := range map[int64]string{0: "0 B", 9: "9 B", 999: "999 B", 1000: "1.0 kB", 28672: "29 kB", 9_950_000: "10 MB", 1_234_567_890: "1.2 GB"} {
		require.Equal(t, want, humanBytes(n))
	}
}

func TestSnapshotVerify(t *testing.T) {
	file := snapshotFile(t)
	v := invoke(t, "dolmen", "snapshot", "verify", file)
	require.Equal(t, outcome{}, v.run())
	for _, line := range []string{
		file + " is sound.", "checksum        right", "version         3.7.0", "keys            1, with 3 revisions", "leases          1",
		"users           0, with 0 roles, authentication off", "raft index      9, of term 2",
	} {
		require.Contains(t, v.out.String(), line+"\n")
	}
	whole, err := os.ReadFile(file)
	require.NoError(t, err)
	whole[5000] ^= 1
	require.NoError(t, os.WriteFile(file, whole, 0o600))
	v = invoke(t, "dolmen", "snapshot", "verify", file)
	require.Equal(t, outcome{status: statusFailed}, v.run())
	require.Contains(t, v.errs.String(), file+": the file is damaged")
	require.Empty(t, v.out.String())
	require.NoError(t, os.WriteFile(file, whole[:len(whole)-32], 0o600))
	v = invoke(t, "dolmen", "snapshot", "verify", file)
	require.Equal(t, outcome{status: statusFailed}, v.run())
	require.Contains(t, v.errs.String(), "--skip-hash-check")
}

func TestSnapshotRestore(t *testing.T) {
	file := snapshotFile(t)
	v := invoke(t, "dolmen", "snapshot", "restore", file, "--bump-revision=10", "--mark-compacted", "--storage-engine=memory")
	v.terminal = true
	require.Equal(t, outcome{}, v.run())
	require.Contains(t, v.out.String(), "Restored "+file+" to default.etcd in ")
	require.Contains(t, v.out.String(), ": revision 14, 1 keys, 1 leases, 0 users.\n")
	require.FileExists(t, filepath.Join("default.etcd", "member", "FORMAT"))
	require.Contains(t, v.errs.String(), "%")

	v.out.Reset()
	v.errs.Reset()
	require.Equal(t, outcome{status: statusFailed}, v.run())
	require.Contains(t, v.errs.String(), `data-dir "default.etcd" not empty`)
}

func TestSnapshotUsage(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{nil, "a command is missing"},
		{[]string{"save"}, `unknown command "save"`},
		{[]string{"status"}, "accepts 1 arg(s), received 0"},
		{[]string{"status", "x", "-w", "xml"}, "--write-out=xml is not a format"},
		{[]string{"restore", "x", "--bump-revision=1"}, "go together"},
		{[]string{"restore", "x", "--mark-compacted"}, "go together"},
		{[]string{"restore", "x", "--mark-compacted", "--bump-revision=9223372036854775808"}, "larger than any revision"},
		{[]string{"restore", "x", "--storage-engine=bolt"}, "--storage-engine=bolt is not an engine"},
		{[]string{"restore", "x", "--initial-advertise-peer-urls=x"}, "--initial-advertise-peer-urls"},
	} {
		v := invoke(t, "dolmen", append([]string{"snapshot"}, tc.args...)...)
		require.Equal(t, outcome{status: statusUsage}, v.run(), tc.args)
		require.Contains(t, v.errs.String(), tc.want)
	}
	v := invoke(t, "dolmen", "snapshot", "status", "none")
	require.Equal(t, outcome{status: statusFailed}, v.run())
	require.Contains(t, v.errs.String(), "none: ")
}

// TestSnapshotInterrupted: a signal ends a restore, which leaves nothing.
func TestSnapshotInterrupted(t *testing.T) {
	file := snapshotFile(t)
	v := invoke(t, "dolmen", "snapshot", "restore", file)
	signals := make(chan os.Signal)
	v.listen = func() <-chan os.Signal { return signals }
	done := make(chan outcome, 1)
	go func() { done <- v.run() }()
	select {
	case signals <- syscall.SIGINT:
		if o := <-done; o.status != 0 {
			require.NoDirExists(t, "default.etcd")
		}
	case o := <-done: // it was faster than the signal
		require.Equal(t, outcome{}, o)
	}
}

func TestProgressBar(t *testing.T) {
	var out bytes.Buffer
	b := &progressBar{streams: streams{err: &out}}
	require.Nil(t, b.progress())
	b.terminal = true
	b.progress()("checking", 50, 100)
	b.progress()("checking", 51, 100) // too soon
	require.Equal(t, "\rchecking   [###############...............]  50% of 100 B  ", out.String())
	out.Reset()
	b.done()
	require.True(t, strings.HasPrefix(out.String(), "\r ") && strings.HasSuffix(out.String(), " \r"))
	out.Reset()
	b.done()
	require.Empty(t, out.String())
}
