package lint

import (
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestModule holds this module to the rules.
func TestModule(t *testing.T) {
	root := filepath.Join("..", "..")
	files, err := Load(root)
	require.NoError(t, err)
	require.NotEmpty(t, files)
	architecture, err := os.ReadFile(filepath.Join(root, "ARCHITECTURE.md"))
	require.NoError(t, err)
	for _, finding := range Check(files, string(architecture)) {
		t.Error(finding)
	}
	for name, reason := range exceptions() {
		require.NotEmpty(t, reason, name)
		file, _, _ := strings.Cut(name, ":")
		_, ours := os.Stat(filepath.Join(root, file))
		_, tests := os.Stat(filepath.Join(root, "tests", file))
		require.True(t, ours == nil || tests == nil, "an exception for nothing: %s", name)
	}
}

// TestNothingOfEtcdsServerIsLinked looks at what the program consists of, also through libraries.
func TestNothingOfEtcdsServerIsLinked(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "./cmd/dolmen")
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.Output()
	require.NoError(t, err)
	linked := strings.Fields(string(out))
	require.Contains(t, linked, "go.etcd.io/etcd/etcdctl/v3/ctlv3/command")
	for _, rule := range confinements() {
		if !strings.HasPrefix(rule.library, "go.etcd.io/etcd/server/v3/") || len(rule.in) > 0 {
			continue
		}
		for _, imported := range linked {
			if rule.forbids(&File{}, imported) {
				t.Errorf("%s is linked: %s", imported, rule.why)
			}
		}
	}
}

// TestOtherModules holds the modules that compare with etcd to the rules for tests.
func TestOtherModules(t *testing.T) {
	for _, module := range []string{"tests", "bench"} {
		files, err := Load(filepath.Join("..", "..", module))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, finding := range CheckTests(files) {
			t.Error(module, finding)
		}
	}
}

func TestCheckTests(t *testing.T) {
	f, err := Parse("harness/a.go", []byte("package harness\nfunc f() { time.Sleep(1) }\n"))
	require.NoError(t, err)
	require.Equal(t, []Finding{
		{Path: "harness", Text: "package has no comment that begins \"Package harness \""},
		{Path: "harness/a.go", Line: 2, Text: "no time.Sleep in a test: wait for the condition, or use testing/synctest"},
	}, CheckTests([]*File{f}))
}

// source is a file as given to Parse.
type source struct{ path, text string }

func check(t *testing.T, architecture string, sources ...source) []string {
	var files []*File
	for _, s := range sources {
		f, err := Parse(s.path, []byte(s.text))
		require.NoError(t, err)
		files = append(files, f)
	}
	all := []string{}
	for _, finding := range Check(files, architecture) {
		all = append(all, finding.String())
	}
	return all
}

const mvccDoc = "// Package mvcc is documented.\npackage mvcc\n"

func TestDocs(t *testing.T) {
	require.Empty(t, check(t, "", source{"internal/mvcc/a.go", mvccDoc}, source{"internal/mvcc/b.go", "package mvcc"}))
	require.Empty(t, check(t, "", source{"cmd/dolmen/main.go", "// Command dolmen runs.\npackage main"}))
	for _, bad := range []string{"package mvcc", "// Something else.\npackage mvcc", "// Package mvcc\n\npackage mvcc"} {
		require.Equal(t, []string{`internal/mvcc: package has no comment that begins "Package mvcc "`},
			check(t, "", source{"internal/mvcc/a.go", bad}))
	}
}

func TestImports(t *testing.T) {
	tests := []struct {
		path, imported string
		want           string // "" if allowed
	}{
		{"internal/mvcc/a.go", module + "/internal/engine", ""},
		{"internal/mvcc/a.go", module + "/internal/state", "may not import internal/state"},
		{"internal/mvcc/a.go", module + "/internal/lease", "may not import internal/lease"},
		{"internal/mvcc/a_test.go", module + "/internal/state", ""},
		{"internal/mvcc/a.go", "go.etcd.io/raft/v3", "only the loop speaks raft"},
		{"internal/mvcc/a.go", "go.etcd.io/raft/v3/raftpb", "raft's messages stay"},
		{"internal/mvcc/a.go", "github.com/cockroachdb/pebble/v2", "engines are behind"},
		{"internal/mvcc/a_test.go", "github.com/cockroachdb/pebble/v2/vfs", "engines are behind"},
		{"internal/node/a.go", "github.com/cockroachdb/pebble/v2/vfs", "engines are behind"},
		{"internal/node/a_test.go", "github.com/cockroachdb/pebble/v2/vfs", ""},
		{"internal/wal/a.go", "C", "the program is Go"},
		{"internal/engine/rocksdb/a.go", "C", ""},
		{"internal/mvcc/a.go", "google.golang.org/grpc/codes", "does not know how requests arrive"},
		{"internal/mvcc/a_test.go", "google.golang.org/grpc/codes", ""},
		{"internal/mvcc/a.go", "google.golang.org/grpcfoo", ""},
		{"internal/mvcc/a.go", module + "/internal/engine/enginetest", "a suite for tests"},
		{"internal/mvcc/a_test.go", module + "/internal/engine/enginetest", ""},
		{"internal/mvcc/a.go", "go.etcd.io/bbolt", "a file format"},
		{"internal/mvcc/a.go", "go.etcd.io/etcd/server/v3/storage/mvcc", "writes anew"},
		{"internal/mvcc/a_test.go", "go.etcd.io/etcd/server/v3/embed", "writes anew"},
		{"internal/mvcc/a.go", "go.etcd.io/etcd/server/v3/lease/leasepb", ""},
		{"internal/mvcc/a.go", "go.etcd.io/etcd/server/v3/lease/leasehttp", "writes anew"},
		{"internal/mvcc/a.go", "go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp", ""},
		{"internal/mvcc/a.go", "go.etcd.io/etcd/server/v3/etcdserver/apply", "writes anew"},
	}
	for _, tt := range tests {
		t.Run(tt.path+" "+tt.imported, func(t *testing.T) {
			found := check(t, "", source{tt.path, mvccDoc + "import _ \"" + tt.imported + "\"\n"})
			if tt.want == "" {
				require.Empty(t, found)
				return
			}
			require.Len(t, found, 1)
			require.True(t, strings.HasPrefix(found[0], tt.path+":3: "+path.Dir(tt.path)+" may not import "), found[0])
			require.Contains(t, found[0], tt.want)
		})
	}
}

func TestConfinedLibrariesInTheirPlace(t *testing.T) {
	for path, imported := range map[string]string{
		"internal/consensus/a.go":     "go.etcd.io/raft/v3",
		"internal/wal/a.go":           "go.etcd.io/raft/v3/raftpb",
		"internal/engine/pebble/a.go": "github.com/cockroachdb/pebble/v2",
		"internal/rpc/a.go":           "google.golang.org/grpc",
	} {
		name := filepath.Base(filepath.Dir(path))
		require.Empty(t, check(t, "", source{path, "// Package " + name + " is.\npackage " + name + "\nimport _ \"" + imported + "\"\n"}))
	}
}

func TestUnknownPackage(t *testing.T) {
	require.Equal(t, []string{"internal/util: package has no place in the order of packages; add it to layers in internal/lint"},
		check(t, "", source{"internal/util/a.go", "// Package util is.\npackage util\n"},
			source{"internal/util/b.go", "package util\n"}))
}

func TestSizes(t *testing.T) {
	long := "func (t *T[K]) f() {\n" + strings.Repeat("\n", maxFunctionLines) + "}\n"
	require.Equal(t, []string{"internal/mvcc/a.go:3: T.f has 72 lines, more than a screen of 70"},
		check(t, "", source{"internal/mvcc/a.go", mvccDoc + long}))
	require.Empty(t, check(t, "", source{"internal/mvcc/a.go", mvccDoc}, source{"internal/mvcc/a_test.go", mvccDoc + long}))

	require.Equal(t, []string{"internal/mvcc/a.go: file has more than 500 lines; give each subject its own"},
		check(t, "", source{"internal/mvcc/a.go", mvccDoc + strings.Repeat("\n", maxFileLines)}))
}

func TestForbidden(t *testing.T) {
	require.Equal(t, []string{"internal/mvcc/a.go:3: no init functions: what a package needs is handed to it"},
		check(t, "", source{"internal/mvcc/a.go", mvccDoc + "func init() {}\nfunc (t T) init() {}\n"}))

	bad := mvccDoc + "func f() {\n t.Skip()\n time.Sleep(1)\n tb.Skipf(\"\")\n b.SkipNow()\n}\n"
	require.Equal(t, []string{
		"internal/mvcc/a_test.go:4: no skipped tests: a test that cannot run here belongs elsewhere",
		"internal/mvcc/a_test.go:5: no time.Sleep in a test: wait for the condition, or use testing/synctest",
		"internal/mvcc/a_test.go:6: no skipped tests: a test that cannot run here belongs elsewhere",
		"internal/mvcc/a_test.go:7: no skipped tests: a test that cannot run here belongs elsewhere",
	}, check(t, "", source{"internal/mvcc/a_test.go", bad}))
	require.Empty(t, check(t, "", source{"internal/mvcc/a_test.go",
		mvccDoc + "import \"testing/synctest\"\nfunc f() { time.Sleep(1) }\n"}))
}

func TestGoroutines(t *testing.T) {
	code := source{"internal/mvcc/a.go", mvccDoc + "func (t *T) run() {\n go f()\n}\nfunc g() {\n wg.Go(f)\n x.Go()\n}\n"}
	table := "| `internal/mvcc/a.go:T.run` | T | none | ends |\n| `internal/mvcc/a.go:g` | T | none | ends |\n"
	require.Empty(t, check(t, table, code))

	found := check(t, "", code)
	require.Len(t, found, 2)
	require.True(t, strings.HasPrefix(found[0], "internal/mvcc/a.go:4: goroutine is not listed; add `internal/mvcc/a.go:T.run` "), found[0])
	require.True(t, strings.HasPrefix(found[1], "internal/mvcc/a.go:7: goroutine is not listed; add `internal/mvcc/a.go:g` "), found[1])

	require.Equal(t, []string{"ARCHITECTURE.md: goroutine internal/mvcc/a.go:gone is listed but not started there"},
		check(t, table+"| `internal/mvcc/a.go:gone` | T | none | ends |\n", code))
	require.Equal(t, []string{"ARCHITECTURE.md: goroutine internal/mvcc/a.go:g needs an owner, a queue and a stop"},
		check(t, "| `internal/mvcc/a.go:T.run` | T | none | ends |\n| `internal/mvcc/a.go:g` | T |  | ends |\n", code))
}

func TestLoad(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"internal/mvcc/a.go":          mvccDoc,
		"internal/mvcc/pb.go":         "// Code generated by x. DO NOT EDIT.\npackage mvcc\n",
		"internal/mvcc/readme.md":     "text",
		"internal/mvcc/testdata/b.go": "not go",
		".hidden/c.go":                "not go",
		"tests/go.mod":                "module x",
		"tests/d.go":                  "not go",
	} {
		full := filepath.Join(root, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(full), 0o700))
		require.NoError(t, os.WriteFile(full, []byte(text), 0o600))
	}
	files, err := Load(root)
	require.NoError(t, err)
	require.Len(t, files, 1)
	require.Equal(t, "internal/mvcc/a.go", files[0].Path)

	require.NoError(t, os.WriteFile(filepath.Join(root, "broken.go"), []byte("not go"), 0o600))
	_, err = Load(root)
	require.ErrorContains(t, err, "broken.go")
	_, err = Load(filepath.Join(root, "absent"))
	require.Error(t, err)
}
