package integration

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dolmen-io/dolmen/tests/harness"
)

// commandDeadline bounds one etcdctl command.
const commandDeadline = 30 * time.Second

// ctl runs etcdctl, or our own program's copy of it, against one server and keeps what it printed, masked.
type ctl struct {
	t      *testing.T
	server *harness.Server
	path   string
	prefix []string          // arguments before those of etcdctl
	format string            // of -w
	vars   map[string]string // values for $NAME in arguments
	masks  []mask
	lines  []string
}

// mask replaces what differs between two runs.
type mask struct {
	pattern *regexp.Regexp
	with    string
}

func newCtl(t *testing.T, server *harness.Server, format string, own bool) *ctl {
	t.Helper()
	c := &ctl{t: t, server: server, format: format, vars: map[string]string{}}
	binary := harness.Etcdctl
	if own {
		binary, c.prefix = harness.OwnProgram, []string{"ctl"}
		c.masks = append(c.masks, mask{regexp.MustCompile(`dolmen ctl`), "etcdctl"})
	}
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	c.path = path
	for _, m := range [][2]string{
		{regexp.QuoteMeta(server.Endpoint()), "ENDPOINT"},
		{`took = \S+`, "took = TIME"},
		{`"took":"[^"]*"`, `"took":"TIME"`},
		{`"Took" : \S+`, `"Took" : TIME`},
		{`remaining\(\d+s\)`, "remaining(TIME)"},
		{`"ttl":\d+`, `"ttl":TIME`},
		{`"TTL" : \d+`, `"TTL" : TIME`},
		{`/[0-9a-f]{12,16}`, "/LEASE"},                                           // the key of a lock
		{`"([dD][bB]Size|[dD][bB]SizeInUse)" ?: ?\d+`, `"$1":SIZE`},              // status
		{`"([rR]aftIndex|[rR]aftAppliedIndex)" ?: ?\d+`, `"$1":INDEX`},           // status
		{`[\d.]+ \w+, [\d.]+ \w+, \d+%`, "SIZES"},                                // status
		{`(true|false), (true|false), (\d+), \d+, \d+,`, "$1, $2, $3, INDEXES,"}, // status
		{`\{"level".*\n`, ""},                                                    // the client's own log
	} {
		c.masks = append(c.masks, mask{regexp.MustCompile(m[0]), m[1]})
	}
	return c
}

// run runs one command with optional standard input and keeps output, errors and exit status.
func (c *ctl) run(stdin, command string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), commandDeadline)
	defer cancel()
	cmd := c.command(ctx, command)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Errorf("%s: %v", command, err)
	}
	if m := regexp.MustCompile(`lease ([0-9a-f]+) granted`).FindStringSubmatch(out.String()); m != nil {
		c.nameLease(m[1])
	}
	c.note("$ %s", command)
	c.note("%sexit %d", out.String(), cmd.ProcessState.ExitCode())
	if errs.Len() > 0 {
		c.note("stderr: %s", errs.String())
	}
}

// grant makes a lease and names it $LEASE. Only the simple format tells its id in the form that etcdctl takes.
func (c *ctl) grant() {
	c.t.Helper()
	format := c.format
	c.format = "simple"
	c.run("", "lease grant 1000")
	c.format = format
}

// nameLease makes $LEASE stand for an id, in hexadecimal as etcdctl takes it, and masks it in both notations.
func (c *ctl) nameLease(hex string) {
	c.vars["$LEASE"] = hex
	id, err := strconv.ParseInt(hex, 16, 64)
	if err != nil {
		c.t.Errorf("lease id %q: %v", hex, err)
	}
	c.masks = append([]mask{
		{regexp.MustCompile(`\b` + hex + `\b`), "LEASE"},
		{regexp.MustCompile(`\b` + strconv.FormatInt(id, 10) + `\b`), "LEASE"},
	}, c.masks...)
}

func (c *ctl) command(ctx context.Context, command string) *exec.Cmd {
	args := append(slices.Clone(c.prefix), "--endpoints="+c.server.Endpoint())
	if c.format != "" {
		args = append(args, "--write-out="+c.format)
	}
	for _, word := range strings.Fields(command) {
		if value, ok := c.vars[word]; ok {
			word = value
		}
		// A quoted word may be empty or hold escapes.
		if unquoted, err := strconv.Unquote(word); err == nil {
			word = unquoted
		}
		args = append(args, word)
	}
	cmd := exec.CommandContext(ctx, c.path, args...)
	cmd.Env = append(cmd.Environ(), harness.QuickExit)
	return cmd
}

func (c *ctl) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	for _, m := range c.masks {
		text = m.pattern.ReplaceAllString(text, m.with)
	}
	c.lines = append(c.lines, text)
}

// process is a command that goes on until it is stopped.
type process struct {
	c     *ctl
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
	stop  context.CancelFunc
}

// start starts a command that prints as things happen.
func (c *ctl) start(command string) *process {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), commandDeadline)
	cmd := c.command(ctx, command)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.note("$ %s", command)
	return &process{c: c, cmd: cmd, stdin: stdin, out: bufio.NewReader(stdout), stop: cancel}
}

// expect reads n lines, as many as etcd prints, within the command's deadline.
func (p *process) expect(n int) {
	p.c.t.Helper()
	for range n {
		line, err := p.out.ReadString('\n')
		if err != nil {
			p.c.t.Errorf("%s: etcdctl %v: %v after %v", p.c.server.Kind, p.cmd.Args[1:], err, p.c.lines)
			return
		}
		p.c.note("%s", strings.TrimSuffix(line, "\n"))
	}
}

func (p *process) send(line string) {
	p.c.t.Helper()
	p.c.note("> %s", line)
	if _, err := io.WriteString(p.stdin, line+"\n"); err != nil {
		p.c.t.Errorf("write to etcdctl: %v", err)
	}
}

func (p *process) end() {
	p.stop()
	_ = p.cmd.Wait() // it was killed
}

// compareCtl runs the same commands with etcdctl against etcd and the subject, and with our own program against the
// subject, and compares what was printed.
func compareCtl(t *testing.T, format string, body func(*ctl)) {
	t.Helper()
	var want []string
	for _, run := range []struct {
		kind harness.Kind
		own  bool
	}{{harness.Etcd, false}, {harness.Subject(), false}, {harness.Subject(), true}} {
		c := newCtl(t, harness.Start(t, run.kind, harness.Options{NoFsync: true}), format, run.own)
		body(c)
		if run.kind == harness.Etcd && !run.own {
			want = c.lines
			continue
		}
		name := run.kind.String()
		if run.own {
			name += ", asked by dolmen ctl,"
		}
		compareLines(t, name, want, c.lines)
	}
}

func compareLines(t *testing.T, name string, wanted, printed []string) {
	t.Helper()
	differences := 0
	for i := range max(len(wanted), len(printed)) {
		want, got, command := "(nothing)", "(nothing)", ""
		if i < len(wanted) {
			want = wanted[i]
		}
		if i < len(printed) {
			got = printed[i]
		}
		if want == got {
			continue
		}
		for j := i; j >= 0 && command == "" && j < len(wanted); j-- {
			if strings.HasPrefix(wanted[j], "$ ") {
				command = wanted[j]
			}
		}
		if differences++; differences > 10 {
			t.Error("and more")
			return
		}
		t.Errorf("%s\netcd printed\n%s\n%s printed\n%s", command, want, name, got)
	}
}
