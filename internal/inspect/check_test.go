package inspect_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dolmen-io/dolmen/embed"
	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/engine/enginetest"
	"github.com/dolmen-io/dolmen/internal/inspect"
	"github.com/dolmen-io/dolmen/internal/node"
)

var engines = config.BuiltEngines()

func start(t *testing.T, dir, engine string) *embed.Member {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.DataDir, cfg.StorageEngine = dir, engine
	m, err := embed.Start(t.Context(), cfg)
	require.NoError(t, err)
	return m
}

// written returns the data directory of a stopped member that has done a little of everything.
func written(t *testing.T, engine string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	m := start(t, dir, engine)
	client, err := m.Client()
	require.NoError(t, err)
	ctx := t.Context()
	lease, err := client.Grant(ctx, 1000)
	require.NoError(t, err)
	for i := range 20 {
		_, err := client.Put(ctx, fmt.Sprintf("key%d", i%5), strings.Repeat("v", 100), clientv3.WithLease(lease.ID))
		require.NoError(t, err)
	}
	_, err = client.Compact(ctx, 12, clientv3.WithCompactPhysical())
	require.NoError(t, err)
	_, err = client.Delete(ctx, "key0")
	require.NoError(t, err)
	_, err = client.RoleAdd(ctx, "reader")
	require.NoError(t, err)
	_, err = client.UserAdd(ctx, "ada", "secret")
	require.NoError(t, err)
	require.NoError(t, client.Close())
	require.NoError(t, m.Close(context.WithoutCancel(ctx)))
	return dir
}

// text renders a report without what differs between runs.
func text(t *testing.T, r *inspect.Report, dir string) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, r.WriteText(&b))
	s := strings.ReplaceAll(b.String(), dir, "DIR")
	for _, mask := range [][2]string{
		{`\b[0-9a-f]{13,16}\b`, "ID"}, {`127\.0\.0\.1:\d+`, "ADDRESS"}, {`engine( +)(\w+), [\d.]+ \w+`, "engine${1}ENGINE, SIZE"},
		{`index \d+ of term \d`, "index N of term N"}, {`\d+ entries, 1 to \d+; term \d, committed to \d+`, "N entries"}, {`reads from \d+`, "reads from N"},
		{`stored, [\d.]+ kB`, "stored, SIZE"}, {`etcd's, [\d.]+ kB`, "etcd's, SIZE"},
		{`crashed: \d+ entries`, "crashed: N"},
	} {
		s = regexp.MustCompile(mask[0]).ReplaceAllString(s, mask[1])
	}
	return s
}

func TestCheckSound(t *testing.T) {
	for _, engine := range engines {
		t.Run(engine, func(t *testing.T) {
			dir := written(t, engine)
			before := enginetest.Image(t, dir)
			r, err := inspect.Check(dir, "")
			require.NoError(t, err)
			require.True(t, r.Sound, "%+v", r.Findings)
			require.Equal(t, before, enginetest.Image(t, dir), "nothing is written")
			require.Equal(t, `data directory  DIR, written by dolmen (format 1)
member          ID of cluster ID
version         3.7.0
members         ID "default" at http://ADDRESS
engine          ENGINE, SIZE; applied index N of term N
raft log        DIR/member/wal, 1 segment of 64.0 MB
                N entries; a start reads from N
keys            4 keys at revision 22; 15 revisions stored, SIZE
compaction      to revision 12
leases          1 lease, 4 keys attached
authentication  off; 1 user, 1 role, revision 3

sound
`, text(t, r, dir))
			require.Equal(t, engine, r.Engine.Name)
			require.Equal(t, r.Log.Last, r.Engine.Applied)
			require.Equal(t, &inspect.Keys{Revision: 22, Keys: 4, Revisions: 15, Bytes: r.Keys.Bytes, Compacted: 12, Finished: 12}, r.Keys)
			encoded, err := json.Marshal(r)
			require.NoError(t, err)
			var decoded inspect.Report
			require.NoError(t, json.Unmarshal(encoded, &decoded))
			require.Equal(t, r, &decoded)

			// And a member starts on it as before.
			m := start(t, dir, engine)
			_, err = inspect.Check(dir, "")
			require.ErrorIs(t, err, inspect.ErrInUse)
			require.NoError(t, m.Close(context.WithoutCancel(t.Context())))
		})
	}
}

// TestReportText has what the members of the other tests do not have.
func TestReportText(t *testing.T) {
	r := &inspect.Report{
		DataDir: "d", Kind: "dolmen", Format: 1,
		Cluster: inspect.Cluster{Member: "a", ID: "c", Removed: 1, Members: []inspect.Member{
			{ID: "a", Name: "one", PeerURLs: []string{"http://a:2380", "http://b:2380"}}, {ID: "b", PeerURLs: []string{"http://c:2380"}, Learner: true}}},
		Keys:     &inspect.Keys{Revision: 9, Keys: 1, Revisions: 1, Bytes: 20, Compacted: 7, Finished: 5},
		Alarms:   []inspect.Alarm{{Member: "a", Type: "NOSPACE"}},
		Auth:     &inspect.Auth{Enabled: true, Revision: 5, Users: 2, Roles: 1},
		Notes:    []string{"something"},
		Findings: []inspect.Finding{{Where: "engine", What: "is broken", Do: "Mend it."}, {Where: "raft log", What: "is gone", Do: "Find it."}},
	}
	var b bytes.Buffer
	require.NoError(t, r.WriteText(&b))
	require.Equal(t, `data directory  d, written by dolmen (format 1)
member          a of cluster c
members         a "one" at http://a:2380,http://b:2380
                b "" at http://c:2380, a learner
                removed before: 1 member
note            something
keys            1 key at revision 9; 1 revision stored, 20 B
compaction      to revision 7, not finished
alarm           NOSPACE of member a
authentication  on; 2 users, 1 role, revision 5

DAMAGED: 2 findings
1. engine: is broken
   Mend it.
2. raft log: is gone
   Find it.
`, b.String())
	r.Keys.Compacted = 0
	b.Reset()
	require.NoError(t, r.WriteText(&b))
	require.Contains(t, b.String(), "compaction      none\n")
}

func glob(t *testing.T, dir, pattern string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "member", pattern))
	require.NoError(t, err)
	require.NotEmpty(t, names, pattern)
	return names[0]
}

func flip(t *testing.T, file string, offset int) {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	content[offset] ^= 1
	require.NoError(t, os.WriteFile(file, content, 0o600))
}

func TestCheckDamage(t *testing.T) {
	sound := map[string]string{}
	for _, engine := range engines {
		sound[engine] = written(t, engine)
	}
	segment := "wal/0000000000000000-0000000000000000.wal"
	for _, tt := range []struct {
		name, engine string
		damage       func(t *testing.T, dir string)
		where, what  string
	}{
		{"a bit in a table", embed.EnginePebble, func(t *testing.T, dir string) { flip(t, glob(t, dir, "engine/*.sst"), 100) },
			"engine", `corrupt data.*\.sst`},
		{"a table missing", embed.EnginePebble, func(t *testing.T, dir string) { require.NoError(t, os.Remove(glob(t, dir, "engine/*.sst"))) },
			"engine", `corrupt data`},
		{"a bit in a checkpoint", embed.EngineMemory, func(t *testing.T, dir string) { flip(t, glob(t, dir, "engine/checkpoint-*"), 100) },
			"engine", `checkpoint file checkpoint-\w+: .*checksum does not match`},
		{"a bit in the log", embed.EnginePebble, func(t *testing.T, dir string) {
			// In an entry's data: what pads records is in no checksum.
			content, err := os.ReadFile(glob(t, dir, segment))
			require.NoError(t, err)
			flip(t, glob(t, dir, segment), bytes.LastIndex(content, []byte("http://")))
		},
			"raft log", segment + ` at offset \d+: .*crc.*; the last sound record is .* at offset \d+`},
		{"the log lost its end", embed.EnginePebble, func(t *testing.T, dir string) {
			require.NoError(t, os.Truncate(glob(t, dir, segment), 480))
		}, "raft log", `it ends at index 4 but the engine has applied up to \d+: it has lost its end`},
		{"the log missing", embed.EngineMemory, func(t *testing.T, dir string) {
			require.NoError(t, os.RemoveAll(filepath.Join(dir, "member", "wal")))
		}, "raft log", `there is none in .*/member/wal, though the engine has applied index \d+`},
		{"a segment missing", embed.EngineMemory, func(t *testing.T, dir string) {
			file := glob(t, dir, segment)
			require.NoError(t, os.Rename(file, strings.Replace(file, "0000-0", "0003-0", 1)))
		}, "", ""},
		{"FORMAT missing", embed.EnginePebble, func(t *testing.T, dir string) { require.NoError(t, os.Remove(glob(t, dir, "FORMAT"))) },
			"FORMAT", `FORMAT is missing`},
		{"FORMAT lost in a crash", embed.EnginePebble, func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(glob(t, dir, "FORMAT"), make([]byte, 50), 0o600))
		}, "FORMAT", `does not say that dolmen wrote it`},
		{"another member's log", embed.EnginePebble, func(t *testing.T, dir string) {
			other := filepath.Join(t.TempDir(), "data")
			cfg := embed.NewConfig()
			cfg.DataDir, cfg.Name = other, "other"
			m, err := embed.Start(t.Context(), cfg)
			require.NoError(t, err)
			require.NoError(t, m.Close(context.WithoutCancel(t.Context())))
			require.NoError(t, os.RemoveAll(filepath.Join(dir, "member", "wal")))
			require.NoError(t, os.CopyFS(filepath.Join(dir, "member", "wal"), os.DirFS(filepath.Join(other, "member", "wal"))))
		}, "raft log", `has lost its end`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			require.NoError(t, os.CopyFS(dir, os.DirFS(sound[tt.engine])))
			tt.damage(t, dir)
			before := enginetest.Image(t, dir)
			r, err := inspect.Check(dir, "")
			require.NoError(t, err)
			require.Equal(t, before, enginetest.Image(t, dir))
			if tt.where == "" {
				require.True(t, r.Sound, "%+v", r.Findings)
				return
			}
			require.False(t, r.Sound)
			require.NotEmpty(t, r.Findings)
			found := r.Findings[0]
			require.Equal(t, tt.where, found.Where)
			require.Regexp(t, tt.what, found.What)
			require.NotEmpty(t, found.Do)
			require.Contains(t, text(t, r, dir), "\nDAMAGED: ")
		})
	}
}

// TestCheckUnflushed: a member that was killed before its engine had a file is sound.
func TestCheckUnflushed(t *testing.T) {
	for _, engine := range engines {
		dir := written(t, engine)
		require.NoError(t, os.RemoveAll(filepath.Join(dir, "member", "engine")))
		r, err := inspect.Check(dir, "")
		require.NoError(t, err)
		require.True(t, r.Sound, "%+v", r.Findings)
		require.Contains(t, text(t, r, dir), "note            the engine has not been flushed yet: everything is in the raft log\n")
		require.Equal(t, uint64(0), r.Log.ReadFrom)
	}
}

// TestCheckTornLog: what a crash leaves is no damage, and is told.
func TestCheckTornLog(t *testing.T) {
	dir := written(t, embed.EnginePebble)
	file := glob(t, dir, "wal/*.wal")
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(file, int64(len(bytes.TrimRight(content, "\x00")))-2))
	r, err := inspect.Check(dir, "")
	require.NoError(t, err)
	require.True(t, r.Sound, "%+v", r.Findings)
	require.Regexp(t, `a crash has torn the end of the raft log, .*\.wal at offset \d+`, r.Notes[0])
}

// TestCheckAfterCrash copies the directory of a member that runs, which is what a crash leaves.
func TestCheckAfterCrash(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	m := start(t, dir, embed.EnginePebble)
	crashed := filepath.Join(t.TempDir(), "data")
	require.NoError(t, os.CopyFS(crashed, os.DirFS(dir)))
	require.NoError(t, m.Close(context.WithoutCancel(t.Context())))
	r, err := inspect.Check(crashed, "")
	require.NoError(t, err)
	require.True(t, r.Sound, "%+v", r.Findings)
	require.Len(t, r.Notes, 1)
	require.Regexp(t, `the member has crashed: \d+ entries of the log are not in the engine yet`, r.Notes[0])
}

func TestCheckWALDir(t *testing.T) {
	dir := written(t, embed.EngineMemory)
	elsewhere := filepath.Join(t.TempDir(), "log")
	require.NoError(t, os.Rename(filepath.Join(dir, "member", "wal"), elsewhere))
	r, err := inspect.Check(dir, elsewhere)
	require.NoError(t, err)
	require.True(t, r.Sound)
	require.Equal(t, elsewhere, r.Log.Dir)
}

// etcdWritten returns the data directory of a stopped member as etcd would have left it, and its database: the log
// goes on a little behind that.
func etcdWritten(t *testing.T) (dir, db string) {
	t.Helper()
	dir = written(t, embed.EnginePebble)
	member := filepath.Join(dir, "member")
	m := start(t, dir, embed.EnginePebble)
	client, err := m.Client()
	require.NoError(t, err)
	_, err = pb.NewMaintenanceClient(client.ActiveConnection()).Alarm(t.Context(), &pb.AlarmRequest{
		Action: pb.AlarmRequest_ACTIVATE, MemberID: 0xab, Alarm: pb.AlarmType_NOSPACE,
	})
	require.NoError(t, err)
	snapshot, err := client.Snapshot(t.Context())
	require.NoError(t, err)
	content, err := io.ReadAll(snapshot)
	require.NoError(t, errors.Join(err, snapshot.Close()))
	for _, key := range []string{"key1", "key2"} {
		_, err = client.Delete(t.Context(), key)
		require.NoError(t, err)
	}
	require.NoError(t, client.Close())
	require.NoError(t, m.Close(context.WithoutCancel(t.Context())))
	for _, name := range []string{"FORMAT", "LOCK", "engine", "export"} {
		require.NoError(t, os.RemoveAll(filepath.Join(member, name)))
	}
	db = filepath.Join(member, "snap", "db")
	require.NoError(t, os.Mkdir(filepath.Dir(db), 0o700))
	require.NoError(t, os.WriteFile(db, content[:len(content)-sha256.Size], 0o600))
	return dir, db
}

func TestCheckEtcd(t *testing.T) {
	dir, _ := etcdWritten(t)
	before := enginetest.Image(t, dir)
	r, err := inspect.Check(dir, "")
	require.NoError(t, err)
	require.True(t, r.Sound, "%+v", r.Findings)
	require.Equal(t, before, enginetest.Image(t, dir), "nothing is written")
	require.Equal(t, `data directory  DIR, written by etcd
member          ID of cluster ID
version         3.7.0
members         ID "default" at http://ADDRESS
database        etcd's, SIZE; applied index N of term N
raft log        DIR/member/wal, 1 segment of 64.0 MB
                N entries; a start reads from N
note            the member has crashed: N of the log are not in the database yet, and the figures below are without what they did; the next start applies them
keys            4 keys at revision 22; 15 revisions stored, SIZE
compaction      to revision 12
leases          1 lease, 4 keys attached
alarm           NOSPACE of member ab
authentication  off; 1 user, 1 role, revision 3

sound
`, text(t, r, dir))
	require.NotZero(t, r.Log.ReadFrom)
	require.Greater(t, r.Log.Last, r.Database.Applied)

	require.NoError(t, os.RemoveAll(filepath.Join(dir, "member", "wal")))
	r, err = inspect.Check(dir, "")
	require.NoError(t, err)
	require.Equal(t, "raft log", r.Findings[0].Where)
}

// TestCheckEtcdDamage: what a take-over refuses is found.
func TestCheckEtcdDamage(t *testing.T) {
	dir, db := etcdWritten(t)
	content, err := os.ReadFile(db)
	require.NoError(t, err)
	for name, damaged := range map[string][]byte{
		"zeros":    make([]byte, len(content)),
		"cut off":  content[:len(content)/2/4096*4096],
		"a record": bytes.ReplaceAll(content, []byte("key4\x10"), []byte("key4\x17")),
		"a member": bytes.ReplaceAll(content, []byte(`{"id":`), []byte(`{"ib":`)),
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(db, damaged, 0o600))
			r, err := inspect.Check(dir, "")
			require.NoError(t, err)
			require.False(t, r.Sound)
			require.Equal(t, "database", r.Findings[0].Where)
			require.Contains(t, r.Findings[0].What, db)
		})
	}
	require.NoError(t, os.WriteFile(db, content, 0o600))
	running, err := os.OpenFile(db, os.O_RDWR, 0)
	require.NoError(t, err)
	require.NoError(t, syscall.Flock(int(running.Fd()), syscall.LOCK_EX))
	_, err = inspect.Check(dir, "")
	require.ErrorIs(t, err, inspect.ErrInUse)
	require.NoError(t, running.Close())
}

// TestCheckInterruptedTakeOver: what a crash in the middle of taking over leaves is no damage.
func TestCheckInterruptedTakeOver(t *testing.T) {
	dir := written(t, embed.EnginePebble)
	member := filepath.Join(dir, "member")
	require.NoError(t, os.Rename(filepath.Join(member, "engine"), filepath.Join(member, "engine.import")))
	r, err := inspect.Check(dir, "")
	require.NoError(t, err)
	require.True(t, r.Sound, "%+v", r.Findings)
	require.NotZero(t, r.Engine.Applied)
	require.Contains(t, text(t, r, dir), "note            taking over the directory of an etcd member was interrupted; the next start completes it\n")
}

func TestCheckRefuses(t *testing.T) {
	_, err := inspect.Check(filepath.Join(t.TempDir(), "absent"), "")
	require.ErrorIs(t, err, inspect.ErrNothing)
	_, err = inspect.Check(t.TempDir(), "")
	require.ErrorIs(t, err, inspect.ErrNothing)
	require.ErrorContains(t, err, "neither dolmen nor etcd has written to")

	dir := written(t, embed.EnginePebble)
	format := glob(t, dir, "FORMAT")
	require.NoError(t, os.WriteFile(format, []byte(`{"product":"dolmen","format":99,"engine":"pebble"}`), 0o600))
	_, err = inspect.Check(dir, "")
	require.ErrorIs(t, err, node.ErrForeign)
	require.ErrorContains(t, err, "says format 99")
	require.NoError(t, os.WriteFile(format, []byte(`{"product":"dolmen","format":1,"engine":"granite"}`), 0o600))
	_, err = inspect.Check(dir, "")
	require.ErrorContains(t, err, `this version knows no engine "granite"`)
}
