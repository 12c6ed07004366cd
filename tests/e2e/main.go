// Command e2e runs etcd's own common tests against our program.
//
// The tests are package common of etcd's module of tests, built with the tag e2e: they start clusters of one and three
// processes, with and without TLS, and speak to them through etcdctl. Here the process is ours, under the name etcd, and
// etcdctl and etcdutl are the official ones. With -mixed there are also clusters of which one member, or two of three, is
// the real etcd: to the tests it is the release before. The module comes from the module proxy at the version in go.mod.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/dolmen-io/dolmen/tests/harness"
)

// suite is the package of etcd's tests.
const suite = "go.etcd.io/etcd/tests/v3/common"

// The tests' clusters listen on 20000 and the 14 ports that follow, and cannot be told to use others.
const (
	firstPort = 20000
	ports     = 15
)

// options are the command's flags.
type options struct {
	run     string
	etcd    bool
	mixed   bool
	timeout time.Duration
	verbose bool
}

func main() {
	var o options
	flag.StringVar(&o.run, "run", "", "run only the tests that match, as of go test")
	flag.BoolVar(&o.etcd, "etcd", false, "run them against the real etcd instead, nothing excluded")
	flag.BoolVar(&o.mixed, "mixed", false, "run the tests of mixed versions too (LastVersion), the other members being the real etcd")
	flag.DurationVar(&o.timeout, "timeout", 40*time.Minute, "give up after this time")
	flag.BoolVar(&o.verbose, "v", false, "print the tests' output also where they pass")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	excluded, err := parseExclusions(exclusionList)
	if err != nil {
		return fmt.Errorf("excluded.txt: %w", err)
	}
	if o.etcd {
		excluded = nil
	}
	if err := portsAreFree(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "dolmen-e2e-")
	if err != nil {
		return fmt.Errorf("make a directory for programs and data: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := install(dir, o); err != nil {
		return err
	}
	return runSuite(ctx, dir, o, excluded)
}

// install puts the programs where the tests look for them, under the names that they look for.
func install(dir string, o options) error {
	programs := map[string]func() (string, error){
		"etcd": harness.OwnProgram, "etcdctl": harness.Etcdctl, "etcdutl": harness.Etcdutl,
	}
	if o.etcd {
		programs["etcd"] = harness.RealEtcd
	}
	if o.mixed {
		programs["etcd-last-release"] = harness.RealEtcd
	}
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		fmt.Println("building", name)
		program, err := programs[name]()
		if err != nil {
			return err
		}
		if err := os.Symlink(program, filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("put %s among the programs: %w", name, err)
		}
	}
	return nil
}

// runSuite runs the tests with the programs in dir, where the clusters' data goes too, and prints what became of them.
func runSuite(ctx context.Context, dir string, o options, excluded []exclusion) error {
	for _, e := range excluded {
		fmt.Printf("excluded: %s: %s\n", e.test, e.reason)
	}
	fmt.Println("running", suite)
	r := newReport(os.Stdout, o.verbose)
	deadline := time.Now().Add(o.timeout)
	err := goTest(ctx, r, o.run, deadline, dir, excluded)
	// A test that fails may leave goroutines behind, and those after it then refuse to run: they do in a new process.
	// Of each round at least the first one runs.
	for left := r.leftOut(); len(left) > 0 && ctx.Err() == nil; left = r.leftOut() {
		fmt.Printf("%d tests did not run because of one before them: another round\n", len(left))
		err = errors.Join(err, goTest(ctx, r, again(o.run, left), deadline, dir, excluded))
	}
	r.summary(len(excluded))
	switch {
	case ctx.Err() != nil:
		return errors.New("interrupted")
	case r.failed > 0:
		return fmt.Errorf("%d tests failed", r.failed)
	case err != nil:
		return err
	case r.passed == 0:
		return errors.New("no test ran")
	}
	return nil
}

// again is the pattern of the tests that were left out of those that match run, which may say which subtests.
func again(run string, left []string) string {
	pattern := "^(" + strings.Join(left, "|") + ")$"
	if i := strings.IndexByte(run, '/'); i >= 0 {
		pattern += run[i:]
	}
	return pattern
}

// goTest runs go test on the suite once. The error says that tests failed, or that they could not be run.
func goTest(ctx context.Context, r *report, run string, deadline time.Time, dir string, excluded []exclusion) error {
	left := time.Until(deadline)
	if left <= 0 {
		return errors.New("the time is over")
	}
	args := []string{"test", "-json", "-count=1", "-vet=off", "-tags=e2e", "-timeout=" + left.String()}
	if run != "" {
		args = append(args, "-run="+run)
	}
	if len(excluded) > 0 {
		args = append(args, "-skip="+skipPattern(excluded))
	}
	cmd := exec.CommandContext(ctx, "go", append(args, suite, "-args", "-bin-dir="+dir)...)
	// With EXPECT_DEBUG the output of a test that fails has what the members logged.
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "EXPECT_DEBUG=true")
	// The tests are a process below go's, and an interrupt must reach both. Their clusters end with them.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("read what go test prints: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start go test: %w", err)
	}
	if err := errors.Join(r.read(out), cmd.Wait()); err != nil {
		return fmt.Errorf("go test: %w", err)
	}
	return nil
}

// portsAreFree says which port keeps the tests from starting their servers: they would fail one by one and not say why.
func portsAreFree() error {
	var taken []string
	for port := firstPort; port < firstPort+ports; port++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			taken = append(taken, fmt.Sprint(port))
			continue
		}
		l.Close()
	}
	if len(taken) > 0 {
		return fmt.Errorf("the tests need ports %d to %d of localhost, and another program listens on %s",
			firstPort, firstPort+ports-1, strings.Join(taken, ", "))
	}
	return nil
}
