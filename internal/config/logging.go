package config

import (
	"errors"
	"fmt"
	"slices"

	"go.uber.org/zap/zapcore"

	"github.com/dolmen-io/dolmen/internal/telemetry"
)

// Words of Log.Outputs that are not file paths.
const (
	logDefault = "default"
	logStderr  = "stderr"
	logStdout  = "stdout"
	logJournal = "systemd/journal"
)

func (l *Log) validate() error {
	switch l.Logger {
	case "zap":
	case "capnslog":
		return errors.New("--logger=capnslog is removed in v3.5")
	default:
		return fmt.Errorf("unknown logger option %q", l.Logger)
	}
	if _, err := zapcore.ParseLevel(l.Level); err != nil {
		return fmt.Errorf("--log-level: %w, supported values debug, info, warn, error, panic, fatal", err)
	}
	switch l.Format {
	case FormatJSON, FormatConsole, FormatAuto, "":
	default:
		return fmt.Errorf("unknown log format: %s, supported values json, console", l.Format)
	}
	if len(l.Outputs) > 1 && slices.Contains(l.Outputs, logDefault) {
		return fmt.Errorf("multi logoutput for %q is not supported yet", logDefault)
	}
	if len(l.Outputs) > 1 && slices.Contains(l.Outputs, logJournal) {
		return fmt.Errorf("running with systemd/journal but other '--log-outputs' values (%q) are configured with "+
			"'default'; override 'default' value with something else", l.Outputs)
	}
	if !l.Rotate {
		return nil
	}
	files := 0
	for _, output := range l.Outputs {
		switch output {
		case logDefault, logStderr, logStdout, logJournal:
		default:
			files++
		}
	}
	if files != 1 {
		return errRotationOutput
	}
	_, err := telemetry.ParseRotation(l.RotationJSON)
	return err
}
