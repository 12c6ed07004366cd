package integration

import (
	"bytes"
	"errors"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/dolmen-io/dolmen/tests/harness"
)

// ran is everything that can be seen of a command that was run without a server.
func ran(t *testing.T, env []string, path string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = append(append(cmd.Environ(), harness.QuickExit), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?m)^\{"level":"warn".*\n`).ReplaceAllString(errs.String(), "LOG\n")
	text = regexp.MustCompile(`"(ts|stacktrace)":"[^"]*"`).ReplaceAllString(text, `"$1":""`)
	return out.String() + "stderr: " + text + cmd.ProcessState.String()
}

// TestOwnCtlExplainsAndRefuses: every help text, the global flags and what is said of wrong arguments are etcdctl's,
// but for the name. The scripts for shells are our program's own.
func TestOwnCtlExplainsAndRefuses(t *testing.T) {
	t.Parallel()
	etcdctl, err := harness.Etcdctl()
	must(t, err)
	dolmen, err := harness.OwnProgram()
	must(t, err)
	commands := []string{
		"", "help", "options", "version", "--help", "help lease", "help lease grant",
		"get", "put", "del", "txn", "compaction", "alarm", "alarm disarm", "alarm list", "defrag", "endpoint", "endpoint health",
		"endpoint status", "endpoint hashkv", "move-leader", "watch", "lease", "lease grant", "lease revoke", "lease timetolive",
		"lease list", "lease keep-alive", "member", "member add", "member remove", "member update", "member list", "member promote",
		"snapshot", "snapshot save", "make-mirror", "lock", "elect", "auth", "auth enable", "auth disable", "auth status", "user",
		"user add", "user delete", "user get", "user list", "user passwd", "user grant-role", "user revoke-role", "role", "role add",
		"role delete", "role get", "role list", "role grant-permission", "role revoke-permission", "check", "check perf",
		"check datascale", "downgrade", "downgrade validate", "downgrade enable", "downgrade cancel",
	}
	own := regexp.MustCompile(`dolmen ctl`)
	compare := func(env []string, args ...string) {
		t.Helper()
		want := ran(t, env, etcdctl, args...)
		got := own.ReplaceAllString(ran(t, env, dolmen, append([]string{"ctl"}, args...)...), "etcdctl")
		if got != want {
			t.Errorf("%v %v\netcdctl\n%s\ndolmen ctl\n%s", env, args, want, got)
		}
	}
	for _, command := range commands {
		args := strings.Fields(command)
		if len(args) > 0 && !strings.HasPrefix(args[0], "-") && args[0] != "help" {
			args = append(args, "--help")
		}
		compare(nil, args...)
	}
	for _, wrong := range []string{
		"nonsense", "gett a", "ge", "lea", "lease nonsense", "get", "put", "get --nonsense", "-w nonsense get a", "--user", "watch", "watch --",
		"watch a --", "lease grant", "lease grant 1 2", "lease revoke zz", "member add", "compaction", "del", "move-leader", "snapshot save",
		"role grant-permission r x k", "completion tcsh", "--dial-timeout=x get a", "--cert=absent --key=absent get a", "--command-timeout=1s --endpoints=127.0.0.1:1 get a",
	} {
		compare(nil, strings.Fields(wrong)...)
	}
	// Settings from the environment, good and bad, and one that a flag wins over.
	compare([]string{"ETCDCTL_WRITE_OUT=nonsense"}, "get", "a")
	compare([]string{"ETCDCTL_ENDPOINTS=127.0.0.1:1", "ETCDCTL_COMMAND_TIMEOUT=1s"}, "get", "a")
	compare([]string{"ETCDCTL_WRITE_OUT=json"}, "get", "a", "-w", "nonsense")
	compare([]string{"ETCDCTL_WATCH_RANGE_END=b"}, "watch")
	compare([]string{"ETCDCTL_WATCH_KEY=a"}, "watch", "b")
}
