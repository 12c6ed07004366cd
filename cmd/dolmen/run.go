package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"go.etcd.io/etcd/pkg/v3/netutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/telemetry"
)

// The exit statuses, etcd's.
const (
	statusOK     = 0
	statusFailed = 1
	statusUsage  = 2
)

// etcdName is the program name under which this is etcd in all that can be seen.
const etcdName = "etcd"

// program is what one invocation is given.
type program struct {
	name           string   // as called, without the directory
	args           []string // without the name
	environ        []string
	stdout, stderr io.Writer
	terminal       bool // whether stderr is one
	// listen returns the signals that are to stop a member. Until it is called they end the process, as they
	// should a command.
	listen func() <-chan os.Signal
	open   opener
}

// opener starts a member. The context ends the opening, not the member.
type opener func(context.Context, *config.Config, *zap.Logger) (member, error)

// member is a running member.
type member interface {
	// Ready is closed when the member serves clients.
	Ready() <-chan struct{}
	// Done is closed when the member has stopped, for whatever reason.
	Done() <-chan struct{}
	// Err is why the member stopped by itself; nil if it was asked to or was removed. Valid after Done.
	Err() error
	// Stop stops the member gracefully, in the time that the context allows.
	Stop(context.Context) error
}

// outcome is how the process is to end: by a signal if one is set, else with a status.
type outcome struct {
	status int
	signal syscall.Signal
}

func (p *program) run() outcome {
	if p.isCommand() {
		return outcome{status: p.command()}
	}
	signals := p.listen()
	cfg, notices, err := config.Parse(p.args, p.environ)
	if status, done := p.answer(err); done {
		return outcome{status: status}
	}
	lg, logErr := p.logger(cfg)
	if logErr != nil {
		// The settings of the log are themselves wrong; say so where an operator looks first.
		if err == nil {
			err = logErr
		}
		if lg, logErr = p.logger(config.Default()); logErr != nil {
			fmt.Fprintln(p.stderr, logErr)
			return outcome{status: statusFailed}
		}
	}
	o := p.member(cfg, notices, err, lg.Logger, signals)
	if err := lg.Close(); err != nil {
		fmt.Fprintln(p.stderr, "closing the log:", err)
	}
	return o
}

// answer deals with what needs no logger.
func (p *program) answer(err error) (status int, done bool) {
	var (
		usage   *config.UsageError
		fileURL *config.FileURLError
	)
	switch {
	case errors.Is(err, config.ErrHelp):
		fmt.Fprintln(p.stderr, config.Usage(p.name))
		fmt.Fprint(p.stdout, config.Help())
		return statusOK, true
	case errors.Is(err, config.ErrVersion):
		printVersion(p.stdout)
		return statusOK, true
	case errors.As(err, &usage):
		fmt.Fprintln(p.stderr, usage)
		return statusUsage, true
	case errors.As(err, &fileURL):
		fmt.Fprintln(p.stderr, fileURL)
		return statusFailed, true
	}
	return 0, false
}

// logger opens the log as cfg says. The automatic format is for people at a terminal; programs that
// started us under etcd's name get what etcd writes.
func (p *program) logger(cfg *config.Config) (*telemetry.Logger, error) {
	o := telemetry.LogOptions{
		Level:   cfg.Log.Level,
		Console: cfg.Log.Format == config.FormatConsole,
		Outputs: cfg.Log.Outputs,
		Stdout:  p.stdout,
		Stderr:  p.stderr,
	}
	if cfg.Log.Format == config.FormatAuto {
		o.Console = p.terminal && p.name != etcdName
	}
	if cfg.Log.Rotate {
		rotation, err := telemetry.ParseRotation(cfg.Log.RotationJSON)
		if err != nil {
			return nil, err
		}
		o.Rotation = rotation
	}
	return telemetry.NewLogger(o)
}

// member runs a member from the checks of its configuration to its end.
func (p *program) member(cfg *config.Config, notices config.Notices, parseErr error, lg *zap.Logger,
	signals <-chan os.Signal,
) outcome {
	defer adoptStrayLogs(cfg, lg, p.environ)()
	notices.Log(lg)
	lg.Info("Running: ", zap.Strings("args", append([]string{p.name}, p.args...)))
	if parseErr != nil {
		reportConfig(lg, parseErr)
		return outcome{status: statusFailed}
	}
	cfg.Complete(netutil.GetDefaultHost).Log(lg)
	if err := inspectDataDir(cfg.DataDir, lg); err != nil {
		fatal(lg, "data directory cannot be used", zap.String("data-dir", cfg.DataDir), zap.Error(err))
		return outcome{status: statusFailed}
	}
	m, sig, err := p.openUnlessSignalled(cfg, lg, signals)
	switch {
	case sig != 0 && err != nil:
		lg.Info("stopped before the member was open", zap.Error(err))
		return outcome{signal: sig}
	case sig != 0:
		return stop(m, sig, lg)
	case err != nil:
		reportBootstrap(lg, cfg, err)
		return outcome{status: statusFailed}
	}
	return serve(m, lg, signals)
}

// openUnlessSignalled opens the member; a signal cancels the opening, and is returned with what came
// of it.
func (p *program) openUnlessSignalled(cfg *config.Config, lg *zap.Logger, signals <-chan os.Signal) (member, syscall.Signal, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	type opened struct {
		member member
		err    error
	}
	result := make(chan opened, 1)
	go func() {
		m, err := p.open(ctx, cfg, lg)
		result <- opened{m, err}
	}()
	select {
	case r := <-result:
		return r.member, 0, r.err
	case sig := <-signals:
		logSignal(lg, sig)
		cancel()
		r := <-result
		return r.member, asSignal(sig), r.err
	}
}

// serve waits for the end of an open member.
func serve(m member, lg *zap.Logger, signals <-chan os.Signal) outcome {
	ready := m.Ready()
	for {
		select {
		case <-ready:
			notifySystemd(lg)
			ready = nil
		case sig := <-signals:
			logSignal(lg, sig)
			return stop(m, asSignal(sig), lg)
		case <-m.Done():
			if err := m.Err(); err != nil {
				fatal(lg, "member failed", zap.Error(err))
				return outcome{status: statusFailed}
			}
			return outcome{status: statusOK}
		}
	}
}

func stop(m member, sig syscall.Signal, lg *zap.Logger) outcome {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := m.Stop(ctx); err != nil {
		lg.Warn("member did not stop cleanly; what was acknowledged is in its log", zap.Error(err))
	}
	return outcome{signal: sig}
}

func logSignal(lg *zap.Logger, sig os.Signal) {
	lg.Info("received signal; shutting down", zap.String("signal", sig.String()))
}

func asSignal(sig os.Signal) syscall.Signal {
	if s, ok := sig.(syscall.Signal); ok {
		return s
	}
	return syscall.SIGTERM
}

// fatal writes a line at fatal level and returns, so that the caller still closes what it opened.
// zap's own Fatal exits.
func fatal(lg *zap.Logger, message string, fields ...zap.Field) {
	ce := lg.WithOptions(zap.AddCallerSkip(1), zap.WithFatalHook(returning{})).Check(zapcore.FatalLevel, message)
	if ce != nil {
		ce.Write(fields...)
	}
}

type returning struct{}

// OnWrite lets a fatal line be only a line.
func (returning) OnWrite(*zapcore.CheckedEntry, []zapcore.Field) {}
