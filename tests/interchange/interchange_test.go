package interchange

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dolmen-io/dolmen/tests/harness"
)

// keys is how many keys the long way there and back carries; -short takes shortKeys.
var keys = flag.Int("keys", 100_000, "keys of the way there and back")

const shortKeys = 1000

func keyCount() int { return scaled(*keys, shortKeys) }

// scaled is how many keys a test takes, or at most few with -short.
func scaled(n, few int) int {
	if testing.Short() {
		return min(n, few)
	}
	return n
}

var engines = harness.Engines()

func lease(id int64) *pb.LeaseGrantRequest { return &pb.LeaseGrantRequest{ID: id, TTL: 3000 + id%100} }

// server starts a server on a directory, which may be made.
func server(t *testing.T, kind harness.Kind, engine, dir string, args ...string) *harness.Server {
	t.Helper()
	return harness.Start(t, kind, harness.Options{Engine: engine, DataDir: dir, NoFsync: true, Args: args})
}

// run runs a command and returns what it printed.
func run(t *testing.T, path string, args ...string) string {
	t.Helper()
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), harness.QuickExit)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", filepath.Base(path), args, err, out)
	}
	return string(out)
}

func binary(t *testing.T, get func() (string, error)) string {
	t.Helper()
	path, err := get()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "data")
	must(t, os.CopyFS(to, os.DirFS(from)))
	return to
}

// hashRevisions are some revisions around the compaction and the newest.
func hashRevisions(w *world) []int64 {
	return []int64{1, w.revision / 2, max(1, w.revision-40), max(1, w.revision-20), w.revision - 1}
}

// original is a real etcd with history, leases, users and roles, and what a client sees of it.
func original(t *testing.T, seed uint64, keys int) (*harness.Server, *world) {
	t.Helper()
	s := server(t, harness.Etcd, "", "")
	c := connect(t, s, false)
	fill(t, c, seed, keys)
	secure(t, c)
	first := observe(t, s, true)
	return s, observe(t, s, true, hashRevisions(first)...)
}

// TestTakeOver starts ours on the directory of a real etcd that was stopped, or killed while its database was behind
// its log.
func TestTakeOver(t *testing.T) {
	for _, end := range []string{"stopped", "killed"} {
		t.Run(end, func(t *testing.T) {
			etcd, want := original(t, 1, scaled(2000, 500))
			if end == "stopped" {
				etcd.Stop()
			} else {
				_, err := connect(t, etcd, true).Put(t.Context(), "the last word", "before the end")
				must(t, err)
				etcd.Kill()
				after := server(t, harness.Etcd, "", copyDir(t, etcd.DataDir))
				want = observe(t, after, true, want.again()...)
				after.Stop()
			}
			for _, engine := range engines {
				t.Run(engine, func(t *testing.T) { takeOver(t, etcd.DataDir, engine, want) })
			}
		})
	}
}

func takeOver(t *testing.T, from, engine string, want *world) {
	t.Helper()
	dir := copyDir(t, from)
	ours := server(t, harness.Dolmen, engine, dir)
	compare(t, "taken over", want, observe(t, ours, true, want.again()...))
	checkAlice(t, ours)
	for _, line := range []string{"took over the directory of an etcd member", "can be removed"} {
		if !strings.Contains(ours.Log(), line) {
			t.Errorf("the log does not say %q", line)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "member", "snap.etcd", "db")); err != nil {
		t.Error("etcd's files were not kept: ", err)
	}
	fill(t, connect(t, ours, true), 2, scaled(500, 100))
	more := observe(t, ours, true, want.revision)
	for _, end := range []func(){ours.Stop, ours.Kill} {
		end()
		ours.Restart()
		compare(t, "after a restart", more, observe(t, ours, true, want.revision))
	}
}

// TestTakeOverInterrupted kills ours again and again while it takes a directory over.
func TestTakeOverInterrupted(t *testing.T) {
	etcd, want := original(t, 3, scaled(1000, 300))
	etcd.Kill()
	for _, engine := range engines {
		t.Run(engine, func(t *testing.T) {
			ours := server(t, harness.Dolmen, engine, "")
			ours.Stop()
			step := 24 / scaled(24, 8)
			for line := 1; line <= 24; line += step {
				must(t, os.RemoveAll(ours.DataDir))
				must(t, os.CopyFS(ours.DataDir, os.DirFS(etcd.DataDir)))
				ours.KillAtLine(line)
				ours.KillAtLine(line + 1)
				if line%2 == 0 || line%3 == 1 {
					ours.Restart()
					compare(t, "killed at line "+strconv.Itoa(line), want, observe(t, ours, true, want.again()...))
					ours.Kill()
				}
			}
		})
	}
}

// TestThereAndBack: etcd, a snapshot of it, ours, a snapshot of that, etcd; nothing may differ at any step.
func TestThereAndBack(t *testing.T) {
	etcdutl, dolmen := binary(t, harness.Etcdutl), binary(t, harness.OwnProgram)
	etcd, want := original(t, 4, keyCount())
	out := save(t, etcd, filepath.Join(t.TempDir(), "etcd.db"))
	etcd.Stop()
	for _, engine := range engines {
		t.Run(engine, func(t *testing.T) {
			sameStatus(t, out)
			run(t, dolmen, "snapshot", "verify", out)
			dir := filepath.Join(t.TempDir(), "ours")
			run(t, dolmen, restoreArgs(out, dir, "--storage-engine="+engine)...)
			ours := server(t, harness.Dolmen, engine, dir)
			compare(t, "restored from etcd", want, observe(t, ours, true, want.again()...))
			checkAlice(t, ours)
			fill(t, connect(t, ours, true), 5, keyCount()/10)
			changed := observe(t, ours, true, want.revision)
			changed = observe(t, ours, true, append(hashRevisions(changed), want.revision)...)

			back := save(t, ours, filepath.Join(t.TempDir(), "ours.db"))
			ours.Stop()
			sameStatus(t, back)
			run(t, dolmen, "snapshot", "verify", back)
			dir = filepath.Join(t.TempDir(), "etcd")
			run(t, etcdutl, restoreArgs(back, dir)...)
			again := server(t, harness.Etcd, "", dir)
			compare(t, "restored from ours", changed, observe(t, again, true, changed.again()...))
			checkAlice(t, again)
			fill(t, connect(t, again, true), 6, 200)
		})
	}
}

// restoreArgs are those that make the member that the harness starts.
func restoreArgs(file, dir string, more ...string) []string {
	return append([]string{
		"snapshot", "restore", file, "--data-dir=" + dir, "--name=default",
		"--initial-cluster=default=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
	}, more...)
}

// save has etcdctl save a snapshot.
func save(t *testing.T, s *harness.Server, path string) string {
	t.Helper()
	out := run(t, binary(t, harness.Etcdctl), "--endpoints="+s.Endpoint(), "--user=root:"+rootPassword, "--command-timeout=120s",
		"snapshot", "save", path)
	// etcd tells its version only some seconds after its first start.
	if s.Kind == harness.Dolmen && !strings.Contains(out, "Server version 3.7.0") {
		t.Errorf("etcdctl does not tell the server's version: %s", out)
	}
	return path
}

// sameStatus compares what both programs say about a file, in each format.
func sameStatus(t *testing.T, path string) {
	t.Helper()
	for _, format := range []string{"simple", "json", "fields", "table"} {
		args := []string{"snapshot", "status", path, "--write-out=" + format}
		want, got := run(t, binary(t, harness.Etcdutl), args...), run(t, binary(t, harness.OwnProgram), args...)
		if want != got {
			t.Errorf("status as %s:\n%s\netcdutl says\n%s", format, got, want)
		}
	}
}

// TestRestoredDirectory starts ours on what "etcdutl snapshot restore" makes, bumped or not, and compares with etcd on
// the same, and with what our own restore makes.
func TestRestoredDirectory(t *testing.T) {
	etcdutl, dolmen := binary(t, harness.Etcdutl), binary(t, harness.OwnProgram)
	etcd, _ := original(t, 7, scaled(1000, 300))
	file := save(t, etcd, filepath.Join(t.TempDir(), "etcd.db"))
	etcd.Stop()
	raw := filepath.Join(etcd.DataDir, "member", "snap", "db")
	for name, tc := range map[string]struct {
		file string
		more []string
	}{
		"plain":  {file, nil},
		"bumped": {file, []string{"--bump-revision=1000000", "--mark-compacted"}},
		"raw":    {raw, []string{"--skip-hash-check"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "etcd")
			run(t, etcdutl, restoreArgs(tc.file, dir, tc.more...)...)
			theirs := server(t, harness.Etcd, "", copyDir(t, dir))
			w := observe(t, theirs, true)
			revisions := hashRevisions(w)
			if name == "bumped" {
				// Not before: how far its compaction has come shows in what etcd still answers.
				revisions = nil
			}
			w = observe(t, theirs, true, revisions...)
			theirs.Stop()
			for _, engine := range engines {
				ours := server(t, harness.Dolmen, engine, copyDir(t, dir))
				compare(t, engine+" on etcdutl's directory", w, observe(t, ours, true, revisions...))
				fill(t, connect(t, ours, true), 8, 100)
				ours.Stop()

				own := filepath.Join(t.TempDir(), engine)
				run(t, dolmen, restoreArgs(tc.file, own, append(tc.more, "--storage-engine="+engine, "--wal-dir="+own+".wal")...)...)
				ours = server(t, harness.Dolmen, engine, own, "--wal-dir="+own+".wal")
				compare(t, engine+" on its own directory", w, observe(t, ours, true, revisions...))
				ours.Stop()
			}
		})
	}
}

// TestHash compares the checksum over everything, which is the same for the same content.
func TestHash(t *testing.T) {
	var hashes []string
	for _, s := range []*harness.Server{server(t, harness.Etcd, "", ""), server(t, harness.Subject(), "", "")} {
		c := connect(t, s, false)
		hash := func() {
			res, err := pb.NewMaintenanceClient(c.ActiveConnection()).Hash(t.Context(), &pb.HashRequest{})
			must(t, err)
			b, err := json.Marshal([]any{res.Hash, res.Header.Revision})
			must(t, err)
			hashes = append(hashes, string(b))
		}
		awaitVersion(t, c)
		hash()
		fill(t, c, 9, scaled(500, 300))
		hash()
		_, err := pb.NewMaintenanceClient(c.ActiveConnection()).Alarm(t.Context(), &pb.AlarmRequest{
			Action: pb.AlarmRequest_ACTIVATE, MemberID: 5, Alarm: pb.AlarmType_NOSPACE,
		})
		must(t, err)
		hash()
	}
	half := len(hashes) / 2
	for i := range half {
		if hashes[i] != hashes[half+i] {
			t.Errorf("hash %d is %s, etcd's is %s", i, hashes[half+i], hashes[i])
		}
	}
}

// awaitVersion waits until the cluster has a version, which is part of the data.
func awaitVersion(t *testing.T, c *clientv3.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	for {
		st, err := c.Status(ctx, c.Endpoints()[0])
		must(t, err)
		if st.StorageVersion != "" {
			return
		}
	}
}
