package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/discovery"
)

// fakeMember is a member that does what the test says.
type fakeMember struct {
	ready, done chan struct{}
	err         error
	stopped     int
	stopErr     error
}

func newFakeMember() *fakeMember {
	return &fakeMember{ready: make(chan struct{}), done: make(chan struct{})}
}

func (m *fakeMember) Ready() <-chan struct{} { return m.ready }
func (m *fakeMember) Done() <-chan struct{}  { return m.done }
func (m *fakeMember) Err() error             { return m.err }

func (m *fakeMember) Stop(context.Context) error {
	m.stopped++
	return m.stopErr
}

// invocation runs a program in an empty directory and keeps what it printed.
type invocation struct {
	program
	out, errs bytes.Buffer
}

func invoke(t *testing.T, name string, args ...string) *invocation {
	t.Chdir(t.TempDir())
	v := &invocation{}
	v.program = program{name: name, args: args, stdout: &v.out, stderr: &v.errs,
		listen: func() <-chan os.Signal { return nil },
		open: func(context.Context, *config.Config, *zap.Logger) (member, error) {
			return nil, errors.New("must not be opened")
		}}
	return v
}

// lines decodes stderr, each line of which must be a JSON object with etcd's four keys.
func (v *invocation) lines(t *testing.T) []map[string]any {
	var all []map[string]any
	for line := range strings.Lines(v.errs.String()) {
		var decoded map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &decoded), line)
		for _, key := range []string{"level", "ts", "caller", "msg"} {
			require.Contains(t, decoded, key)
		}
		all = append(all, decoded)
	}
	return all
}

func (v *invocation) messages(t *testing.T) []string {
	var all []string
	for _, line := range v.lines(t) {
		all = append(all, line["level"].(string)+" "+line["msg"].(string))
	}
	return all
}

func TestVersion(t *testing.T) {
	for _, args := range [][]string{{"--version"}, {"version"}} {
		v := invoke(t, "dolmen", args...)
		require.Equal(t, outcome{}, v.run())
		require.Regexp(t, `^etcd Version: 3\.7\.3\nGit SHA: \S+\nGo Version: go\S+\nGo OS/Arch: \w+/\w+\nDolmen Version: \S+\n$`,
			v.out.String())
	}
}

func TestHelp(t *testing.T) {
	v := invoke(t, "dolmen", "--help")
	require.Equal(t, outcome{}, v.run())
	require.Contains(t, v.out.String(), "  --name 'default'\n")
	require.Contains(t, v.errs.String(), "dolmen [flags]")
}

func TestRefusals(t *testing.T) {
	tests := []struct {
		name   string
		args   []string
		status int
		errs   string // a line, or the beginning of the error of the last JSON line
	}{
		{"etcd", []string{"help"}, 1, `"help" is not a valid flag`},
		{"etcd", []string{"version"}, 1, `"version" is not a valid flag`},
		{"etcd", []string{"ctl"}, 1, `"ctl" is not a valid flag`},
		{"etcd", []string{"check"}, 1, `"check" is not a valid flag`},
		{"etcd", []string{"completion", "bash"}, 1, `"completion" is not a valid flag`},
		{"dolmen", []string{"gateway", "start"}, 1, "gateway is not part of dolmen; run etcd's own binary for it: etcd gateway start\n"},
		{"etcd", []string{"grpc-proxy"}, 1, "grpc-proxy is not part of dolmen; run etcd's own binary for it: etcd grpc-proxy\n"},
		{"dolmen", []string{"grpc-proxy", "--help"}, 1,
			"grpc-proxy is not part of dolmen; run etcd's own binary for it: etcd grpc-proxy --help\n"},
		{"dolmen", []string{"--nonsense"}, 2, "flag provided but not defined: -nonsense\n"},
		{"dolmen", []string{"--listen-client-urls", "x"}, 2,
			"invalid value \"x\" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: x\n"},
		{"dolmen", []string{"--heartbeat-interval", "0"}, 1, "--heartbeat-interval must be >0 (set to 0ms)"},
		{"dolmen", []string{"--memory-mlock"}, 1, "--memory-mlock is not supported yet by this version of dolmen"},
		{"dolmen", []string{"--log-level", "loud"}, 1, `--log-level: unrecognized level: "loud"`},
		{"dolmen", []string{"--log-outputs", "absent/x.log"}, 1, "log output: open absent/x.log: no such file or directory"},
		{"dolmen", []string{"--config-file", "absent.yml"}, 1, "open absent.yml: no such file or directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name+" "+strings.Join(tt.args, " "), func(t *testing.T) {
			v := invoke(t, tt.name, tt.args...)
			require.Equal(t, outcome{status: tt.status}, v.run())
			require.Empty(t, v.out.String())
			if strings.HasSuffix(tt.errs, "\n") {
				require.Equal(t, tt.errs, v.errs.String())
				return
			}
			lines := v.lines(t)
			last := lines[len(lines)-1]
			require.Equal(t, "failed to verify flags", last["msg"])
			require.True(t, strings.HasPrefix(last["error"].(string), tt.errs), last["error"])
		})
	}
}

func TestFileURL(t *testing.T) {
	v := invoke(t, "dolmen", "--config-file", "f.yml")
	require.NoError(t, os.WriteFile("f.yml", []byte("listen-peer-urls: x"), 0o600))
	require.Equal(t, outcome{status: 1}, v.run())
	require.Equal(t, "unexpected error setting up listen-peer-urls: URL scheme must be http, https, unix, or unixs: x\n", v.errs.String())
}

func TestShadowedVariable(t *testing.T) {
	v := invoke(t, "etcd", "--name", "a")
	v.environ = []string{"ETCD_NAME=b"}
	require.Equal(t, outcome{status: 1}, v.run())
	lines := v.lines(t)
	last := lines[len(lines)-1]
	require.Equal(t, "fatal", last["level"])
	require.Equal(t, "ETCD_NAME", last["environment-variable"])
}

func TestAdvertiseMissing(t *testing.T) {
	v := invoke(t, "etcd", "--listen-client-urls", "http://127.0.0.1:1")
	require.Equal(t, outcome{status: 1}, v.run())
	messages := v.messages(t)
	require.Equal(t, []string{"warn failed to verify flags", "warn advertise client URLs are not set"}, messages[len(messages)-2:])
}

// TestRunUntilSignal is a normal life. No line of it is an error, and the signal is the outcome.
func TestRunUntilSignal(t *testing.T) {
	v := invoke(t, "etcd", "--name", "a")
	signals := make(chan os.Signal)
	v.listen = func() <-chan os.Signal { return signals }
	m := newFakeMember()
	v.open = func(_ context.Context, cfg *config.Config, lg *zap.Logger) (member, error) {
		require.Equal(t, "a.etcd", cfg.DataDir)
		require.Equal(t, "a=http://localhost:2380", cfg.InitialCluster)
		close(m.ready)
		return m, nil
	}
	ended := make(chan outcome)
	go func() { ended <- v.run() }()
	signals <- syscall.SIGTERM
	require.Equal(t, outcome{signal: syscall.SIGTERM}, <-ended)
	require.Equal(t, 1, m.stopped)
	messages := v.messages(t)
	require.Equal(t, "info received signal; shutting down", messages[len(messages)-1])
	require.Contains(t, messages, "info Initialize and start etcd server")
	for _, message := range messages {
		require.NotRegexp(t, "^(error|fatal) ", message)
	}
}

func TestReadyIsTold(t *testing.T) {
	v := invoke(t, "etcd")
	m := newFakeMember()
	v.open = func(context.Context, *config.Config, *zap.Logger) (member, error) { return m, nil }
	close(m.ready)
	reader, writer := io.Pipe()
	v.stderr = io.MultiWriter(writer, &v.errs)
	ended := make(chan outcome)
	go func() {
		ended <- v.run()
		writer.Close()
	}()
	waitFor(t, reader, "successfully notified init daemon")
	close(m.done)
	go io.Copy(io.Discard, reader)
	require.Equal(t, outcome{}, <-ended, "a member that ends without an error was removed")
}

// waitFor reads until a line with the text.
func waitFor(t *testing.T, r io.Reader, text string) {
	var seen []byte
	buffer := make([]byte, 4096)
	for !bytes.Contains(seen, []byte(text)) {
		n, err := r.Read(buffer)
		require.NoError(t, err)
		seen = append(seen, buffer[:n]...)
	}
}

func TestMemberFails(t *testing.T) {
	v := invoke(t, "etcd")
	m := newFakeMember()
	m.err = errors.New("disk on fire")
	close(m.done)
	v.open = func(context.Context, *config.Config, *zap.Logger) (member, error) { return m, nil }
	require.Equal(t, outcome{status: 1}, v.run())
	messages := v.messages(t)
	require.Equal(t, "fatal member failed", messages[len(messages)-1])
}

func TestSignalWhileOpening(t *testing.T) {
	for _, opens := range []bool{false, true} {
		v := invoke(t, "etcd")
		signals := make(chan os.Signal, 1)
		v.listen = func() <-chan os.Signal { return signals }
		m := newFakeMember()
		m.stopErr = errors.New("too slow")
		v.open = func(ctx context.Context, _ *config.Config, _ *zap.Logger) (member, error) {
			signals <- syscall.SIGINT
			<-ctx.Done()
			if opens {
				return m, nil
			}
			return nil, ctx.Err()
		}
		require.Equal(t, outcome{signal: syscall.SIGINT}, v.run())
		require.Equal(t, opens, m.stopped == 1)
	}
}

func TestBootstrapFails(t *testing.T) {
	v := invoke(t, "etcd")
	require.Equal(t, outcome{status: 1}, v.run())
	lines := v.lines(t)
	require.Equal(t, "discovery failed", lines[len(lines)-1]["msg"])
	require.Equal(t, "must not be opened", lines[len(lines)-1]["error"])

	v = invoke(t, "etcd")
	v.open = func(context.Context, *config.Config, *zap.Logger) (member, error) {
		return nil, errors.New("--initial-cluster must include http://localhost:2380")
	}
	require.Equal(t, outcome{status: 1}, v.run())
	messages := v.messages(t)
	require.Equal(t, []string{"warn failed to start", "warn forgot to set --initial-cluster?",
		"warn forgot to set --initial-advertise-peer-urls?"}, messages[len(messages)-3:])

	v = invoke(t, "etcd")
	v.open = func(context.Context, *config.Config, *zap.Logger) (member, error) { return nil, discovery.ErrFull }
	require.Equal(t, outcome{status: 1}, v.run())
	messages = v.messages(t)
	require.Equal(t, []string{"warn failed to bootstrap; discovery token was already used",
		"warn do not reuse discovery token; generate a new one to bootstrap a cluster"}, messages[len(messages)-2:])
}

func TestDataDir(t *testing.T) {
	tests := []struct {
		holds []string
		want  string // the last line, or the error
	}{
		{[]string{"member", "fixtures"}, "server has already been initialized"},
		{[]string{"member", "stray"}, "found invalid file under data directory"},
		{[]string{"proxy"}, "v2 http proxy has already been deprecated in 3.6"},
		{[]string{"proxy", "member"}, "invalid datadir; both member and proxy directories exist"},
	}
	for _, tt := range tests {
		v := invoke(t, "etcd", "--data-dir", "d")
		for _, name := range tt.holds {
			require.NoError(t, os.MkdirAll(filepath.Join("d", name), 0o700))
		}
		require.Equal(t, outcome{status: 1}, v.run())
		require.Contains(t, v.errs.String(), tt.want)
	}
	v := invoke(t, "etcd", "--data-dir", "file")
	require.NoError(t, os.WriteFile("file", nil, 0o600))
	require.Equal(t, outcome{status: 1}, v.run())
	require.Contains(t, v.errs.String(), "data directory cannot be used")
}

// TestLogFormat is the table of names, terminals and flags.
func TestLogFormat(t *testing.T) {
	tests := []struct {
		name     string
		terminal bool
		args     []string
		json     bool
	}{
		{"dolmen", true, nil, false},
		{"dolmen", false, nil, true},
		{"dolmen", true, []string{"--log-format=json"}, true},
		{"dolmen", false, []string{"--log-format=console"}, false},
		{"etcd", true, nil, true},
		{"etcd", true, []string{"--log-format=console"}, false},
	}
	for _, tt := range tests {
		v := invoke(t, tt.name, tt.args...)
		v.terminal = tt.terminal
		v.run()
		require.Equal(t, tt.json, strings.HasPrefix(v.errs.String(), "{"), tt)
	}
}

// TestStrayLogs: what a library prints becomes a line of ours, but for the trace of HTTP/2, which is Go's own text.
func TestStrayLogs(t *testing.T) {
	printed := func(godebug string) (ours int, plain string) {
		core, lines := observer.New(zap.InfoLevel)
		var buf bytes.Buffer
		log.SetOutput(&buf)
		defer log.SetOutput(os.Stderr)
		defer adoptStrayLogs(config.Default(), zap.New(core), []string{"GODEBUG=" + godebug})()
		log.Print(`field ":authority"`)
		return lines.FilterMessage(`field ":authority"`).Len(), buf.String()
	}
	ours, plain := printed("madvdontneed=1")
	require.Equal(t, 1, ours)
	require.Empty(t, plain)

	ours, plain = printed("madvdontneed=1,http2debug=2")
	require.Zero(t, ours)
	require.True(t, strings.HasSuffix(plain, " field \":authority\"\n"), plain)
}

func TestRotationByFlags(t *testing.T) {
	v := invoke(t, "etcd", "--log-outputs=a.log", "--enable-log-rotation")
	require.Equal(t, outcome{status: 1}, v.run())
	require.Empty(t, v.errs.String())
	content, err := os.ReadFile("a.log")
	require.NoError(t, err)
	require.Contains(t, string(content), "discovery failed")
}
