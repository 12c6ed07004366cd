package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/wal"
)

// TestCommands runs commands in this process: each file is a list of them with what they print and how they end.
func TestCommands(t *testing.T) {
	datadriven.RunTest(t, "testdata/commands", func(t *testing.T, d *datadriven.TestData) string {
		v := invoke(t, "dolmen", strings.Fields(d.Input)...)
		for _, arg := range d.CmdArgs {
			prepare(t, arg.Key)
		}
		return v.ended()
	})
}

// prepare makes something to look at in the working directory.
func prepare(t *testing.T, what string) {
	t.Helper()
	member := filepath.Join(defaultDataDir, "member")
	segment := filepath.Join(member, "wal", "0000000000000000-0000000000000000.wal")
	switch what {
	case "member": // that was killed before its engine was flushed
		require.NoError(t, os.MkdirAll(member, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(member, "FORMAT"), []byte(`{"product":"dolmen","format":1,"engine":"pebble"}`), 0o600))
		writeLog(t, filepath.Join(member, "wal")).close()
	case "running":
		log := writeLog(t, filepath.Join(member, "wal"))
		require.NoError(t, os.WriteFile(filepath.Join(member, "FORMAT"), []byte(`{"product":"dolmen","format":1,"engine":"pebble"}`), 0o600))
		t.Cleanup(log.close)
	case "damaged":
		content, err := os.ReadFile(segment)
		require.NoError(t, err)
		content[110] ^= 1
		require.NoError(t, os.WriteFile(segment, content, 0o600))
	case "torn":
		require.NoError(t, os.Truncate(segment, 140))
	case "newer":
		require.NoError(t, os.WriteFile(filepath.Join(member, "FORMAT"), []byte(`{"product":"dolmen","format":3,"engine":"pebble"}`), 0o600))
	default:
		t.Fatalf("nothing is prepared for %q", what)
	}
}

// openLog is a log that can be closed in a test's clean-up.
type openLog struct {
	t   *testing.T
	log *wal.Log
}

func (l openLog) close() { require.NoError(l.t, l.log.Close()) }

// writeLog makes a log with two entries.
func writeLog(t *testing.T, dir string) openLog {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(dir), 0o700))
	log, err := wal.Create(zap.NewNop(), dir, wal.Metadata{NodeID: 0xa, ClusterID: 0xb}, wal.Options{UnsafeNoFsync: true})
	require.NoError(t, err)
	put, err := proto.Marshal(&etcdserverpb.InternalRaftRequest{Put: &etcdserverpb.PutRequest{Key: []byte("k"), Value: []byte("v")}})
	require.NoError(t, err)
	one := uint64(1)
	require.NoError(t, log.Append(&raftpb.HardState{Term: &one, Vote: new(uint64(0xa)), Commit: new(uint64(2))}, []*raftpb.Entry{
		{Index: &one, Term: &one}, {Index: new(uint64(2)), Term: &one, Data: put},
	}))
	return openLog{t, log}
}

// ended runs the invocation and renders all that can be seen of it.
func (v *invocation) ended() string {
	o := v.run()
	var text strings.Builder
	text.WriteString(v.out.String())
	if v.errs.Len() > 0 {
		fmt.Fprintf(&text, "-- stderr\n%s", v.errs.String())
	}
	fmt.Fprintf(&text, "-- exit %d\n", o.status)
	return text.String()
}

// TestEveryCommandExplainsItself: a newcomer finds in the help of each command what it does, and an example.
func TestEveryCommandExplainsItself(t *testing.T) {
	root := invoke(t, "dolmen").rootCommand()
	var check func(cmd *cobra.Command)
	check = func(cmd *cobra.Command) {
		if cmd.Hidden || cmd.Name() == "help" {
			return
		}
		require.NotEmpty(t, cmd.Short, cmd.CommandPath())
		require.Contains(t, cmd.Example, cmd.CommandPath())
		for _, child := range cmd.Commands() {
			check(child)
		}
	}
	check(root)
}

func TestCompletion(t *testing.T) {
	for shell, want := range map[string]string{
		"bash":       "complete -o default -F __start_dolmen dolmen",
		"zsh":        "#compdef dolmen",
		"fish":       "complete -c dolmen",
		"powershell": "Register-ArgumentCompleter -CommandName 'dolmen'",
	} {
		v := invoke(t, "dolmen", "completion", shell)
		require.Equal(t, outcome{}, v.run())
		require.Contains(t, v.out.String(), want)
		script, _, status := child("", ctlName, "completion", shell)
		require.Zero(t, status)
		require.Equal(t, v.out.String(), script, "a shell knows one program")
	}
}

// child runs this test binary as the program, in an environment without settings of its own.
func child(stdin string, args ...string) (stdout, stderr string, status int) {
	cmd := exec.Command(os.Args[0], args...)
	// With the race detector a process waits a second at its end unless it is told not to.
	cmd.Env = append(os.Environ(), programVariable+"=1", "GORACE=atexit_sleep_ms=0")
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		return "", err.Error(), -1
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// TestCtl runs etcdctl's commands as the program runs them, since they use its streams and end it.
func TestCtl(t *testing.T) {
	datadriven.RunTest(t, "testdata/ctl", func(_ *testing.T, d *datadriven.TestData) string {
		stdout, stderr, status := child("", append([]string{ctlName}, strings.Fields(d.Input)...)...)
		if stderr != "" {
			stdout += "-- stderr\n" + regexp.MustCompile(`(?m)^\{"level".*\n`).ReplaceAllString(stderr, "{LOG}\n")
		}
		return stdout + fmt.Sprintf("-- exit %d\n", status)
	})
}

// TestCtlNamesItself: no text tells a user of dolmen to call another program.
func TestCtlNamesItself(t *testing.T) {
	stray := regexp.MustCompile(`(^|[^/\w])etcdctl (\w|--)`)
	var check func(cmd *cobra.Command)
	check = func(cmd *cobra.Command) {
		for _, text := range []string{cmd.Short, cmd.Long, cmd.Example} {
			require.NotRegexp(t, stray, text, cmd.CommandPath())
		}
		for _, child := range cmd.Commands() {
			check(child)
		}
	}
	root := invoke(t, "dolmen").ctlRoot()
	check(root)
	help, _, status := child("", "help", ctlName, "lease", "grant")
	require.Zero(t, status)
	require.Contains(t, help, "dolmen ctl lease grant <ttl> [flags]")
	require.Contains(t, root.UsageString(), "dolmen ctl [command]")
}

// TestCtlEndsBySignal: a command is not a member, a signal just ends it.
func TestCtlEndsBySignal(t *testing.T) {
	cmd := exec.Command(os.Args[0], ctlName, "txn", "-i")
	cmd.Env = append(os.Environ(), programVariable+"=1")
	_, err := cmd.StdinPipe() // nothing comes through it
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	waitFor(t, stdout, "compares:")
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	var exit *exec.ExitError
	require.ErrorAs(t, cmd.Wait(), &exit)
	require.Equal(t, syscall.SIGINT, exit.Sys().(syscall.WaitStatus).Signal())
}

func TestCtlCompletes(t *testing.T) {
	root := invoke(t, "dolmen").ctlRoot()
	words, directive := complete(root, []string{"member", "a"})
	require.Equal(t, []string{"add\tAdds a member into the cluster"}, words)
	require.Equal(t, cobra.ShellCompDirectiveNoFileComp, directive)
	words, _ = complete(root, []string{"get", "--write-out", ""})
	require.Equal(t, []string{"fields", "json", "protobuf", "simple", "table"}, words)

	v := invoke(t, "dolmen", cobra.ShellCompRequestCmd, "ctl", "lease", "g")
	require.Equal(t, outcome{}, v.run())
	require.Contains(t, v.out.String(), "grant\tCreates leases\n")
}
