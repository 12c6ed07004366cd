package telemetry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap/zapcore"
)

// journalWriter sends JSON log lines to systemd's journal with the priority of their level, so that
// journalctl -p selects them. A line that the journal does not take goes to fallback.
type journalWriter struct {
	send     func(message string, priority journal.Priority, vars map[string]string) error
	fallback io.Writer
}

// openJournal fails if the journal's socket does not answer.
func openJournal(fallback io.Writer) (*journalWriter, error) {
	if !journal.Enabled() {
		return nil, errors.New("can't find journal; run under systemd or choose another --log-outputs")
	}
	return &journalWriter{send: journal.Send, fallback: fallback}, nil
}

// Write takes one line.
func (w *journalWriter) Write(line []byte) (int, error) {
	var head struct{ Level, Caller string }
	if err := json.Unmarshal(line, &head); err != nil {
		return 0, fmt.Errorf("journal: line is not JSON: %w", err)
	}
	err := w.send(string(line), priority(head.Level), map[string]string{
		"PACKAGE":           filepath.Dir(head.Caller),
		"SYSLOG_IDENTIFIER": filepath.Base(os.Args[0]),
	})
	if err != nil {
		return w.fallback.Write(line)
	}
	return len(line), nil
}

func priority(level string) journal.Priority {
	parsed, err := zapcore.ParseLevel(level)
	switch {
	case err != nil || parsed == zapcore.InfoLevel:
		return journal.PriInfo
	case parsed == zapcore.DebugLevel:
		return journal.PriDebug
	case parsed == zapcore.WarnLevel:
		return journal.PriWarning
	case parsed == zapcore.ErrorLevel:
		return journal.PriErr
	default:
		return journal.PriCrit
	}
}
