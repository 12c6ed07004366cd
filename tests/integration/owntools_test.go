package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dolmen-io/dolmen/tests/harness"
)

// tool runs our own program and returns its standard output and exit status.
func tool(t *testing.T, args ...string) (string, int) {
	t.Helper()
	dolmen, err := harness.OwnProgram()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), dolmen, args...)
	cmd.Env = append(cmd.Environ(), harness.QuickExit)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if errs.Len() > 0 {
		t.Logf("dolmen %v: %s", args, errs.String())
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// TestToolsOnData looks at the data of etcd and of ours, on each engine: while the member runs, after it was stopped,
// and after it was killed.
func TestToolsOnData(t *testing.T) {
	for _, name := range append(harness.Engines(), "etcd") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kind, opts := harness.Dolmen, harness.Options{Engine: name}
			if name == "etcd" {
				kind, opts = harness.Etcd, harness.Options{}
			}
			server := harness.Start(t, kind, opts)
			client, ctx := newClient(t, server.Endpoint())
			const puts = 30
			for i := range puts {
				_, err := client.Put(ctx, fmt.Sprintf("key-%d", i), "a value that nobody is shown")
				must(t, err)
			}
			_, err := client.Compact(ctx, 10, clientv3.WithCompactPhysical())
			must(t, err)
			if out, status := tool(t, "check", "--data-dir", server.DataDir); status != 3 || out != "" {
				t.Errorf("check of a running member: exit %d, %s", status, out)
			}
			if _, status := tool(t, "wal", "dump", "--data-dir", server.DataDir); status != 0 {
				t.Errorf("wal dump of a running member: exit %d", status)
			}
			server.Kill()
			lookAt(t, name, server.DataDir, puts)
			server.Restart()
			server.Stop()
			lookAt(t, name, server.DataDir, puts)
		})
	}
}

func lookAt(t *testing.T, name, dir string, puts int) {
	t.Helper()
	out, status := tool(t, "check", "--data-dir", dir, "--json")
	var report struct {
		Kind     string
		Sound    bool
		Findings []any
		Log      struct {
			Last   uint64 `json:"last_index"`
			Commit uint64
		}
		Keys *struct{ Revision, Keys int }
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || status != 0 || !report.Sound {
		t.Errorf("check: exit %d, %v, %s", status, err, out)
	}
	switch {
	case name == "etcd" && (report.Kind != "etcd" || report.Keys == nil):
		t.Errorf("not recognised as etcd's: %s", out)
	case name != "etcd" && report.Kind != "dolmen":
		t.Errorf("not recognised as ours: %s", out)
	case report.Log.Commit == 0 || report.Log.Last < report.Log.Commit:
		t.Errorf("the log ends at %d and is committed to %d", report.Log.Last, report.Log.Commit)
	}

	out, status = tool(t, "wal", "dump", "--data-dir", dir, "--kind", "put", "--json")
	if n := strings.Count(out, "\n"); status != 0 || n != puts || strings.Contains(out, "nobody") || !strings.Contains(out, `"key":"key-7"`) {
		t.Errorf("wal dump: exit %d, %d puts of %d:\n%s", status, n, puts, out)
	}
}
