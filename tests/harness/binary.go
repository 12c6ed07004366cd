package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"

	"github.com/dolmen-io/dolmen/internal/config"
)

// program is something that can be built and run by the tests.
type program struct {
	name string // file name under bin/
	env  string // variable that names a ready binary
	pkg  string // package to build
	dir  string // module to build it in, relative to the tests' module
	ours bool   // built as the tests are: with the race detector or not, and with the same engines
}

var (
	dolmenProgram  = program{name: "dolmen", env: "DOLMEN_BINARY", pkg: "./cmd/dolmen", dir: "..", ours: true}
	etcdProgram    = program{name: "etcd", env: "ETCD_BINARY", pkg: "go.etcd.io/etcd/server/v3", dir: "."}
	etcdctlProgram = program{name: "etcdctl", env: "ETCDCTL_BINARY", pkg: "go.etcd.io/etcd/etcdctl/v3", dir: "."}
	etcdutlProgram = program{name: "etcdutl", env: "ETCDUTL_BINARY", pkg: "go.etcd.io/etcd/etcdutl/v3", dir: "."}
)

// Each binary is built at most once per test process; which file that is does not change while it runs.
var (
	dolmenBinary  = sync.OnceValues(dolmenProgram.build)
	etcdBinary    = sync.OnceValues(etcdProgram.build)
	etcdctlBinary = sync.OnceValues(etcdctlProgram.build)
	etcdutlBinary = sync.OnceValues(etcdutlProgram.build)
)

// RealEtcd returns the path of the real etcd 3.7.3.
func RealEtcd() (string, error) { return etcdBinary() }

// Etcdctl returns the path of the official etcdctl 3.7.3.
func Etcdctl() (string, error) { return etcdctlBinary() }

// QuickExit keeps a program that is built with the race detector from waiting a second at its end.
const QuickExit = "GORACE=atexit_sleep_ms=0"

// OwnProgram returns the path of our own program, which is also a client: dolmen ctl.
// Give it QuickExit in its environment.
func OwnProgram() (string, error) { return dolmenBinary() }

// Etcdutl returns the path of the official etcdutl 3.7.3.
func Etcdutl() (string, error) { return etcdutlBinary() }

// Engines returns the engines that our program is built with: those that the tests themselves are.
func Engines() []string { return config.BuiltEngines() }

func (p program) build() (string, error) {
	if ready := os.Getenv(p.env); ready != "" {
		if _, err := os.Stat(ready); err != nil {
			return "", fmt.Errorf("%s names no binary: %w", p.env, err)
		}
		return ready, nil
	}
	module := moduleDir()
	bin := filepath.Join(module, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", fmt.Errorf("make the directory of test binaries: %w", err)
	}
	unlock, err := lockFile(filepath.Join(bin, p.name+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()

	out := filepath.Join(bin, p.name)
	args := []string{"build"}
	if p.ours && raceEnabled {
		out += "-race"
		args = append(args, "-race")
	}
	if p.ours && slices.Contains(Engines(), config.EngineRocksDB) {
		out += "-rocksdb"
		args = append(args, "-tags", config.EngineRocksDB)
	}
	cmd := exec.Command("go", append(args, "-o", out, p.pkg)...)
	cmd.Dir = filepath.Join(module, p.dir)
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", p.pkg, err, text)
	}
	return out, nil
}

// moduleDir is the tests' module: the parent of this file's folder.
func moduleDir() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(file))
}

// lockFile serialises the builds of test packages that run at the same time.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open build lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, fmt.Errorf("take build lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}
