package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/tests/harness"
)

// clusterPage is the page whose commands are run. Beside them it has comments, which are not shown:
//
//	<!-- stop a -->, <!-- kill a -->    what the text says that happens to member a
//	<!-- ID is of a -->                 whose ID stands for ID in the commands that follow
const clusterPage = "../../docs/cluster.md"

// memberPatience is how long a member may take until it serves.
const memberPatience = 90 * time.Second

var (
	clusterStep = regexp.MustCompile("(?s)<!-- (.*?) -->|```sh\n(.*?)```\n(?:```text\n(.*?)```\n)?")
	anyAddress  = regexp.MustCompile(`127\.0\.0\.1:\d+`)
	readyLine   = `"msg":"ready to serve client requests"`
)

// reader follows the page as somebody would who reads it.
type reader struct {
	t         *testing.T
	program   string
	dir       string
	addresses map[string]string // on the page, and where it is free
	members   map[string]*exec.Cmd
	whose     string // of whom ID is
}

// address puts addresses that are free in the place of those on the page.
func (r *reader) address(text string) string {
	return anyAddress.ReplaceAllStringFunc(text, func(a string) string {
		if r.addresses[a] == "" {
			r.addresses[a] = freeAddress(r.t)
		}
		return r.addresses[a]
	})
}

func (r *reader) log(name string) string { return filepath.Join(r.dir, name+".log") }

func (r *reader) command(args ...string) *exec.Cmd {
	cmd := exec.Command(r.program, args...)
	cmd.Dir, cmd.Env = r.dir, append(os.Environ(), harness.QuickExit)
	return cmd
}

// start starts a member as in a terminal of its own.
func (r *reader) start(args []string) (name string) {
	r.t.Helper()
	name = args[slices.Index(args, "--name")+1]
	out, err := os.Create(r.log(name))
	require.NoError(r.t, err)
	defer out.Close() // the process has its own
	cmd := r.command(append(args, "--log-format=json")...)
	cmd.Stdout, cmd.Stderr = out, out
	require.NoError(r.t, cmd.Start())
	r.members[name] = cmd
	return name
}

func (r *reader) awaitReady(name string) {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		text, err := os.ReadFile(r.log(name))
		require.NoError(r.t, err)
		return strings.Contains(string(text), readyLine)
	}, memberPatience, 20*time.Millisecond, "member %s", name)
}

func (r *reader) end(name string, sig syscall.Signal) {
	cmd := r.members[name]
	delete(r.members, name)
	_ = cmd.Process.Signal(sig)
	_ = cmd.Wait() // a signal is what ended it
}

// ctl runs a command of a client, again while there is no leader, and returns what it prints.
func (r *reader) ctl(args []string) (printed string) {
	r.t.Helper()
	var failure string
	require.Eventually(r.t, func() bool {
		ctx, cancel := context.WithTimeout(r.t.Context(), answerPatience)
		defer cancel()
		cmd := exec.CommandContext(ctx, r.program, args...)
		cmd.Dir, cmd.Env = r.dir, append(os.Environ(), harness.QuickExit)
		var errors strings.Builder
		cmd.Stderr = &errors
		out, err := cmd.Output()
		printed, failure = string(out), fmt.Sprintf("%v: %s", err, errors.String())
		// Health goes to stderr as far as it is bad.
		return err == nil
	}, memberPatience, 100*time.Millisecond, "%q: %s", args, &failure)
	return printed
}

// idOf is the ID of a member, as a reader finds it in a list.
func (r *reader) idOf(name string) string {
	r.t.Helper()
	list := r.ctl([]string{"ctl", "--endpoints=" + r.address("127.0.0.1:2379"), "member", "list"})
	for line := range strings.Lines(list) {
		if fields := strings.Split(line, ", "); len(fields) > 2 && fields[2] == name {
			return fields[0]
		}
	}
	require.FailNow(r.t, "no such member", "%s in\n%s", name, list)
	return ""
}

// run runs the commands of a block and returns what those of clients print. Members that follow on each other come up
// together.
func (r *reader) run(block string) (printed string) {
	r.t.Helper()
	commands, err := splitCommands(r.address(block))
	require.NoError(r.t, err)
	var started []string
	for _, words := range commands {
		isMember := words[0] == "bin/dolmen" && strings.HasPrefix(words[1], "--")
		if !isMember {
			for _, name := range started {
				r.awaitReady(name)
			}
			started = nil
		}
		switch {
		case isMember:
			started = append(started, r.start(words[1:]))
		case words[0] == "bin/dolmen" && words[1] == "ctl":
			if i := slices.Index(words, "ID"); i >= 0 {
				words[i] = r.idOf(r.whose)
			}
			printed += r.ctl(words[1:])
		case words[0] == "rm" && words[1] == "-rf" && filepath.IsLocal(words[2]):
			require.NoError(r.t, os.RemoveAll(filepath.Join(r.dir, words[2])))
		default:
			require.FailNow(r.t, "the test does not know this command", "%q", words)
		}
	}
	for _, name := range started {
		r.awaitReady(name)
	}
	return printed
}

// printedAs compares lines, where "..." stands for anything, also for further lines if it stands alone.
func printedAs(want, got string) bool {
	var pattern strings.Builder
	for line := range strings.Lines(want) {
		if line == "...\n" {
			pattern.WriteString(`(?s:.*)`)
			continue
		}
		pattern.WriteString(strings.ReplaceAll(regexp.QuoteMeta(line), regexp.QuoteMeta("..."), ".*"))
	}
	return regexp.MustCompile("^" + pattern.String() + "$").MatchString(got)
}

// TestClusterPage does what docs/cluster.md says, on free ports.
func TestClusterPage(t *testing.T) {
	program, err := harness.OwnProgram()
	require.NoError(t, err)
	page, err := os.ReadFile(clusterPage)
	require.NoError(t, err)
	r := &reader{t: t, program: program, dir: t.TempDir(), addresses: map[string]string{}, members: map[string]*exec.Cmd{}}
	t.Cleanup(func() {
		for name := range r.members {
			r.end(name, syscall.SIGKILL)
			if text, err := os.ReadFile(r.log(name)); t.Failed() && err == nil {
				t.Logf("%s:\n%s", name, text)
			}
		}
	})
	blocks := 0
	for _, step := range clusterStep.FindAllStringSubmatch(string(page), -1) {
		note, commands, want := step[1], step[2], step[3]
		words := strings.Fields(note)
		switch {
		case note == "":
			blocks++
			got := r.run(commands)
			if want = r.address(want); want != "" && !printedAs(want, got) {
				t.Errorf("%s\nis said to print\n%s\nand printed\n%s", commands, want, got)
			}
		case words[0] == "stop":
			r.end(words[1], syscall.SIGTERM)
		case words[0] == "kill":
			r.end(words[1], syscall.SIGKILL)
		case strings.HasPrefix(note, "ID is of "):
			r.whose = words[3]
		default:
			t.Fatalf("the test does not know the note %q", note)
		}
	}
	require.Equal(t, strings.Count(string(page), "```sh\n"), blocks)
	require.GreaterOrEqual(t, blocks, 8)

	// The member that was removed has stopped by itself.
	removed := r.members["d"]
	delete(r.members, "d")
	require.NoError(t, removed.Wait())
	text, err := os.ReadFile(r.log("d"))
	require.NoError(t, err)
	require.Contains(t, string(text), "the member has been permanently removed from the cluster")
}

// TestClusterScript starts and stops what "make cluster" does, twice on the same data.
func TestClusterScript(t *testing.T) {
	program, err := harness.OwnProgram()
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "cluster")
	members := ""
	port := func() string { return strings.TrimPrefix(freeAddress(t), "127.0.0.1:") }
	for _, name := range []string{"a", "b", "c"} {
		members += name + ":" + port() + ":" + port() + " "
	}
	for range 2 {
		cmd := exec.Command("../../tools/cluster.sh", program, dir, "--heartbeat-interval=50", "--election-timeout=500")
		cmd.Env = append(os.Environ(), harness.QuickExit, "MEMBERS="+members)
		out, err := os.Create(filepath.Join(t.TempDir(), "out"))
		require.NoError(t, err)
		defer out.Close()
		cmd.Stdout, cmd.Stderr = out, out
		require.NoError(t, cmd.Start())
		said := func() string {
			text, err := os.ReadFile(out.Name())
			require.NoError(t, err)
			return string(text)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM) }) // it may have ended
		require.Eventually(t, func() bool { return strings.Contains(said(), "Ctrl-C stops all members") }, memberPatience, 50*time.Millisecond)
		require.Equal(t, 3, strings.Count(said(), ": serves clients at http://127.0.0.1:"))
		require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
		require.NoError(t, <-ended)
		require.Contains(t, said(), "all members have stopped")
	}
}

func TestPrintedAs(t *testing.T) {
	for _, tc := range []struct {
		want, got string
		same      bool
	}{
		{"a\nb ...\n", "a\nb c d\n", true},
		{"a\n...\nz\n", "a\nb\nc\nz\n", true},
		{"a\n", "a\nb\n", false},
		{"a ...\n", "a b\nc\n", false},
		{"a.c\n", "abc\n", false},
	} {
		if got := printedAs(tc.want, tc.got); got != tc.same {
			t.Errorf("%q and %q: %t", tc.want, tc.got, got)
		}
	}
}
