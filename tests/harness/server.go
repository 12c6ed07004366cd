package harness

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// Kind says which implementation a Server runs.
type Kind int

// The kinds of server.
const (
	Etcd   Kind = iota // etcd 3.7.3, the oracle
	Dolmen             // ours
)

func (k Kind) String() string {
	if k == Etcd {
		return "etcd"
	}
	return "dolmen"
}

// Subject returns the kind under test: ours, unless DOLMEN_TEST_SUBJECT=etcd asks to test the tests.
func Subject() Kind {
	if os.Getenv("DOLMEN_TEST_SUBJECT") == "etcd" {
		return Etcd
	}
	return Dolmen
}

// Options of one server. The zero value is a member with short election times that fsyncs.
type Options struct {
	Engine  string   // ours only: one of Engines(); "" = DOLMEN_TEST_ENGINE, else the default
	NoFsync bool     // --unsafe-no-fsync: for comparisons, which never lose the page cache
	Args    []string // further flags
	DataDir string   // where the data is already; "" = a new directory

	// TLS makes the client listener serve https and is how Dial and HTTPClient connect; the certificates that the server
	// needs are flags in Args (see NewSecure). Nil means http.
	TLS *tls.Config
}

const (
	advertisedClient = "127.0.0.1:2379"

	// AdvertisedPeer is the peer URL that every server that stands alone advertises; see the package comment.
	AdvertisedPeer = "http://127.0.0.1:2380"
)

const (
	startDeadline = 60 * time.Second // a race-enabled binary on two busy cores
	stopDeadline  = 30 * time.Second
	bindAttempts  = 10 // another process may take a port between our picking it and the server's listening
)

// Server is one member as a process. Its methods are called from the test's goroutine only.
type Server struct {
	Kind    Kind
	DataDir string

	tb       testing.TB
	opts     Options
	place    *place // of a member of a Cluster; nil for a server that stands alone
	endpoint string // host:port of the client listener; changes with each start of a server that stands alone
	peerURL  string
	out      *output // of the current or last run
	cmd      *exec.Cmd
	exited   chan error // one value when the process is gone
	history  []*output
}

// Start starts a server, with an empty data directory unless opts names one, and returns when it is ready. The server is killed when the test
// ends; its log is shown if the test failed.
func Start(tb testing.TB, kind Kind, opts Options) *Server {
	tb.Helper()
	s := &Server{Kind: kind, DataDir: filepath.Join(tb.TempDir(), kind.String()), tb: tb, opts: opts,
		out: newOutput(0)}
	if opts.DataDir != "" {
		s.DataDir = opts.DataDir
	}
	tb.Cleanup(s.cleanup)
	s.launch()
	return s
}

// Restart starts the server again on its data directory, on new ports, and returns when it is ready.
func (s *Server) Restart() {
	s.tb.Helper()
	if s.cmd != nil {
		s.tb.Fatalf("restart %s: it still runs; Kill or Stop it first", s.Kind)
	}
	s.launch()
}

// Kill sends SIGKILL and waits until the process is gone.
func (s *Server) Kill() {
	s.tb.Helper()
	if s.cmd == nil {
		return
	}
	s.signal(syscall.SIGKILL)
	<-s.exited
	s.cmd = nil
	s.checkRaces()
}

// KillAtLine starts a stopped server and kills it as soon as it has printed n lines or is ready: somewhere within its
// recovery.
func (s *Server) KillAtLine(n int) {
	s.tb.Helper()
	if s.cmd != nil {
		s.tb.Fatalf("start %s to kill it: it still runs", s.Kind)
	}
	path, err := s.binary()
	if err != nil {
		s.tb.Fatal(err)
	}
	cmd, exited, err := s.spawn(path, n)
	if err != nil {
		s.tb.Fatalf("start %s to kill it: %v", s.Kind, err)
	}
	select {
	case <-s.out.line:
	case <-s.out.ready:
	case <-exited: // a port was taken: it did not get far, which is allowed here
		exited <- nil
	}
	s.cmd, s.exited = cmd, exited
	s.Kill()
}

// Stop asks the server to end with SIGTERM and fails the test if it does not end by itself.
func (s *Server) Stop() {
	s.tb.Helper()
	if s.cmd == nil {
		return
	}
	s.signal(syscall.SIGTERM)
	timeout := time.NewTimer(stopDeadline)
	defer timeout.Stop()
	select {
	case <-s.exited:
	case <-timeout.C:
		s.signal(syscall.SIGQUIT) // the log then shows where it hangs
		<-s.exited
		s.tb.Errorf("%s did not stop within %v of SIGTERM", s.Kind, stopDeadline)
	}
	s.cmd = nil
	s.checkRaces()
}

// Discard kills the server, removes its data and forgets its logs: for tests that start hundreds.
func (s *Server) Discard() {
	s.tb.Helper()
	s.Kill()
	s.history = nil
	if err := os.RemoveAll(s.DataDir); err != nil {
		s.tb.Errorf("remove the data of %s: %v", s.Kind, err)
	}
}

// String is the kind, with the name of a member of a cluster.
func (s *Server) String() string {
	if s.place == nil {
		return s.Kind.String()
	}
	return s.Kind.String() + "-" + s.place.name
}

// Endpoint is the host:port of the client listener.
func (s *Server) Endpoint() string { return s.endpoint }

// URL is the URL of the client listener.
func (s *Server) URL() string { return s.scheme() + "://" + s.endpoint }

func (s *Server) scheme() string {
	if s.opts.TLS != nil {
		return "https"
	}
	return "http"
}

// Log returns what the current (or last) run printed.
func (s *Server) Log() string { return s.out.String() }

// Pid returns the process id of the running server.
func (s *Server) Pid() int { return s.cmd.Process.Pid }

// Dial opens a gRPC connection without retries, so that a test sees what the server sent. It is closed with
// the test.
func (s *Server) Dial(opts ...grpc.DialOption) *grpc.ClientConn {
	s.tb.Helper()
	creds := insecure.NewCredentials()
	if s.opts.TLS != nil {
		creds = credentials.NewTLS(s.opts.TLS)
	}
	opts = append([]grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDisableRetry(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1 << 30)),
	}, opts...)
	conn, err := grpc.NewClient("passthrough:///"+s.endpoint, opts...)
	if err != nil {
		s.tb.Fatalf("dial %s: %v", s.Kind, err)
	}
	s.tb.Cleanup(func() { conn.Close() })
	return conn
}

// DialAs is Dial with another TLS configuration, as of a client with a certificate of its own.
func (s *Server) DialAs(cfg *tls.Config, opts ...grpc.DialOption) *grpc.ClientConn {
	s.tb.Helper()
	return s.Dial(append([]grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(cfg))}, opts...)...)
}

// HTTPClient returns a client for URL, with HTTP/2 where the server offers it. Its idle connections are closed with the
// test.
func (s *Server) HTTPClient() *http.Client {
	transport := &http.Transport{TLSClientConfig: s.opts.TLS.Clone(), ForceAttemptHTTP2: true}
	s.tb.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func (s *Server) launch() {
	s.tb.Helper()
	path, err := s.binary()
	if err != nil {
		s.tb.Fatal(err)
	}
	for range bindAttempts {
		err = s.launchOnce(path)
		if !errors.Is(err, errPortTaken) {
			break
		}
	}
	if err != nil {
		s.tb.Fatalf("start %s: %v\n%s", s.Kind, err, s.out.String())
	}
}

var errPortTaken = errors.New("a picked port was taken by another process")

func (s *Server) launchOnce(path string) error {
	if err := s.begin(path); err != nil {
		return err
	}
	err := s.await()
	if err != nil {
		s.cmd = nil // await has seen its end
	}
	return err
}

// begin starts the process and does not wait for it to be ready.
func (s *Server) begin(path string) error {
	cmd, exited, err := s.spawn(path, 0)
	if err == nil {
		s.cmd, s.exited = cmd, exited
	}
	return err
}

// await waits until the process that was begun is ready. When it returns an error, the process is gone.
func (s *Server) await() error {
	timeout := time.NewTimer(startDeadline)
	defer timeout.Stop()
	select {
	case <-s.out.ready:
		return nil
	case err := <-s.exited:
		if s.out.contains(bindLine) {
			return errPortTaken
		}
		return fmt.Errorf("it ended before it was ready: %w", err)
	case <-timeout.C:
		_ = s.cmd.Process.Signal(syscall.SIGQUIT)
		<-s.exited
		return fmt.Errorf("not ready within %v", startDeadline)
	}
}

// spawn starts the process, on new ports if it stands alone; exited gets one value when it is gone.
func (s *Server) spawn(path string, lineAt int) (cmd *exec.Cmd, exited chan error, err error) {
	ports, err := freePorts(2)
	if err != nil {
		return nil, nil, err
	}
	s.endpoint, s.peerURL = ports[0], "http://"+ports[1]
	command := append([]string{path}, s.args()...)
	if s.place != nil {
		s.endpoint, s.peerURL = s.place.client, "http://"+s.place.peer
		command = append(slices.Clone(s.place.launcher), append([]string{path}, s.args()...)...)
	}
	s.out = newOutput(lineAt)
	s.history = append(s.history, s.out)

	cmd = exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = s.out, s.out
	cmd.SysProcAttr = childAttributes()
	// A race is fatal at once, where the log still shows what led to it. ETCD_VERIFY turns on etcd's own checks.
	cmd.Env = append(plainEnvironment(), "GORACE=halt_on_error=1", "ETCD_VERIFY=all")
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	exited = make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	return cmd, exited, nil
}

// plainEnvironment is ours without what servers would take for configuration.
func plainEnvironment() []string {
	return slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "ETCD") || strings.HasPrefix(variable, "DOLMEN_")
	})
}

func (s *Server) binary() (string, error) {
	if s.Kind == Etcd {
		return etcdBinary()
	}
	return dolmenBinary()
}

func (s *Server) args() []string {
	args := []string{
		"--data-dir=" + s.DataDir,
		"--listen-client-urls=" + s.URL(),
		"--listen-peer-urls=" + s.peerURL,
	}
	if s.place != nil {
		args = append(args, s.place.args(s.URL())...)
	} else {
		args = append(args, "--name=default",
			"--advertise-client-urls="+s.scheme()+"://"+advertisedClient,
			"--initial-advertise-peer-urls="+AdvertisedPeer,
			"--initial-cluster=default="+AdvertisedPeer,
			// A single voter elects itself after one timeout; a short one makes hundreds of starts affordable.
			"--heartbeat-interval=10",
			"--election-timeout=50")
	}
	if s.opts.NoFsync {
		args = append(args, "--unsafe-no-fsync")
	}
	if s.Kind == Dolmen {
		engine := s.opts.Engine
		if engine == "" {
			engine = os.Getenv("DOLMEN_TEST_ENGINE")
		}
		if engine != "" {
			args = append(args, "--storage-engine="+engine)
		}
	}
	return append(args, s.opts.Args...)
}

func (s *Server) signal(sig syscall.Signal) {
	if err := s.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.tb.Errorf("signal %s with %v: %v", s.Kind, sig, err)
	}
}

// PeerURL returns where the server listens for other members; it changes with each start.
func (s *Server) PeerURL() string { return s.peerURL }

// Died reports whether the process ended without being told to, and the last lines it printed.
func (s *Server) Died() (last string, died bool) {
	if s.cmd == nil || len(s.exited) == 0 {
		return "", false
	}
	return tail(s.out.String(), 40), true
}

func (s *Server) cleanup() {
	if last, died := s.Died(); died {
		s.tb.Errorf("%s ended by itself; its last lines:\n%s", s.Kind, last)
	}
	s.Kill()
	if !s.tb.Failed() {
		return
	}
	for i, out := range s.history {
		name := fmt.Sprintf("%s-%s-%d.log", strings.ReplaceAll(s.tb.Name(), "/", "_"), s, i+1)
		path, err := keepLog(name, out.String())
		if err != nil {
			s.tb.Logf("keep the log of %s: %v", s, err)
			continue
		}
		s.tb.Logf("log of %s, start %d: %s", s, i+1, path)
	}
}

// keepLog writes a log to where it survives the test.
func keepLog(name, text string) (path string, err error) {
	dir := filepath.Join(moduleDir(), "bin", "logs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	path = filepath.Join(dir, name)
	return path, os.WriteFile(path, []byte(text), 0o644)
}

// checkRaces fails the test if the server reported a data race.
func (s *Server) checkRaces() {
	s.tb.Helper()
	if text := s.out.String(); strings.Contains(text, raceLine) {
		s.tb.Errorf("%s has a data race:\n%s", s.Kind, text[strings.Index(text, raceLine):])
	}
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return strings.Join(all, "\n")
}

// freePorts returns n loopback addresses that nobody listened on a moment ago.
func freePorts(n int) ([]string, error) {
	addrs := make([]string, n)
	for i := range addrs {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("pick a free port: %w", err)
		}
		defer l.Close()
		addrs[i] = l.Addr().String()
	}
	return addrs, nil
}
