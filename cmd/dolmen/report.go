package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.etcd.io/etcd/api/v3/version"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zapgrpc"
	"google.golang.org/grpc/grpclog"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/discovery"
)

// stopTimeout covers etcd's longest graceful stop (7 s for requests, then a flush) on a slow disk.
const stopTimeout = 30 * time.Second

// printVersion writes etcd's four lines, which tools parse, and then our own.
func printVersion(w io.Writer) {
	own, revision := buildVersion()
	fmt.Fprintf(w, "etcd Version: %s\nGit SHA: %s\nGo Version: %s\nGo OS/Arch: %s/%s\nDolmen Version: %s\n",
		version.Version, revision, runtime.Version(), runtime.GOOS, runtime.GOARCH, own)
}

// buildVersion is this program's version and the commit it was built from, as far as the Go tool
// recorded them.
func buildVersion() (own, revision string) {
	own, revision = "devel", "unknown"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return own, revision
	}
	if info.Main.Version != "" && info.Main.Version != "(devel)" {
		own = info.Main.Version
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			revision = setting.Value[:min(7, len(setting.Value))] // etcd prints seven digits
		}
	}
	return own, revision
}

// adoptStrayLogs sends what libraries write to Go's and gRPC's global loggers to ours, so that every
// line of the process has the same form. The trace that GODEBUG=http2debug asks for stays as Go prints
// it, which is how etcd prints it and what its readers look for. It returns how to undo it.
func adoptStrayLogs(cfg *config.Config, lg *zap.Logger, environ []string) (undo func()) {
	grpcLogger := lg
	if cfg.Log.Level != "debug" {
		grpcLogger = lg.WithOptions(zap.IncreaseLevel(zapcore.WarnLevel))
	}
	grpclog.SetLoggerV2(zapgrpc.NewLogger(grpcLogger))
	globals := zap.ReplaceGlobals(lg)
	std := func() {}
	if !slices.ContainsFunc(environ, func(variable string) bool {
		return strings.HasPrefix(variable, "GODEBUG=") && strings.Contains(variable, "http2debug=")
	}) {
		std = zap.RedirectStdLog(lg)
	}
	return func() {
		std()
		globals()
	}
}

// reportConfig says why the configuration is refused.
func reportConfig(lg *zap.Logger, err error) {
	var shadowed *config.ShadowedError
	if errors.As(err, &shadowed) {
		fatal(lg, shadowed.Error(), zap.String("environment-variable", shadowed.Variable))
		return
	}
	lg.Warn("failed to verify flags", zap.Error(err))
	if errors.Is(err, config.ErrAdvertiseClientURLs) {
		lg.Warn("advertise client URLs are not set", zap.Error(err))
	}
}

// reportBootstrap says why the member could not be opened. etcd calls every reason but one "discovery
// failed", and tools look for that.
func reportBootstrap(lg *zap.Logger, cfg *config.Config, err error) {
	if errors.Is(err, discovery.ErrFull) {
		lg.Warn("failed to bootstrap; discovery token was already used", zap.String("discovery-token", cfg.Discovery.Token),
			zap.Strings("discovery-endpoints", cfg.Discovery.Endpoints), zap.Error(err))
		lg.Warn("do not reuse discovery token; generate a new one to bootstrap a cluster")
		return
	}
	text := err.Error()
	if !strings.Contains(text, "include") || !strings.Contains(text, "--initial-cluster") {
		fatal(lg, "discovery failed", zap.Error(err))
		return
	}
	lg.Warn("failed to start", zap.Error(err))
	if cfg.InitialCluster == cfg.InitialClusterFromName() {
		lg.Warn("forgot to set --initial-cluster?")
	}
	defaults := config.Default()
	if len(cfg.AdvertisePeerURLs) == 1 && cfg.AdvertisePeerURLs[0] == defaults.AdvertisePeerURLs[0] {
		lg.Warn("forgot to set --initial-advertise-peer-urls?")
	}
}

// inspectDataDir logs what the data directory holds, and refuses one of a program that is not this.
func inspectDataDir(dir string, lg *zap.Logger) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	kind := "empty"
	for _, entry := range entries {
		switch entry.Name() {
		case "member":
			if kind == "proxy" {
				return errors.New("invalid datadir; both member and proxy directories exist")
			}
			kind = "member"
		case "proxy":
			if kind == "member" {
				return errors.New("invalid datadir; both member and proxy directories exist")
			}
			kind = "proxy"
		case "fixtures": // generated certificates
		default:
			lg.Warn("found invalid file under data directory",
				zap.String("filename", entry.Name()), zap.String("data-dir", dir))
		}
	}
	switch kind {
	case "proxy":
		return fmt.Errorf("v2 http proxy has already been deprecated in 3.6; %s is its data, choose another --data-dir",
			filepath.Join(dir, "proxy"))
	case "member":
		lg.Info("server has already been initialized", zap.String("data-dir", dir), zap.String("dir-type", kind))
	default:
		lg.Info("Initialize and start etcd server", zap.String("data-dir", dir), zap.String("dir-type", kind))
	}
	return nil
}

// notifySystemd tells a supervisor that listens for it that clients are served.
func notifySystemd(lg *zap.Logger) {
	lg.Info("notifying init daemon")
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		lg.Error("failed to notify systemd for readiness", zap.Error(err))
		return
	}
	lg.Info("successfully notified init daemon")
}
