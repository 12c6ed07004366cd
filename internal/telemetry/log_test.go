package telemetry

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

func TestJSONLine(t *testing.T) {
	var out, errs bytes.Buffer
	lg, err := NewLogger(LogOptions{Level: "info", Outputs: []string{"default", "stdout", "stderr"}, Stdout: &out, Stderr: &errs})
	require.NoError(t, err)
	lg.Debug("not this")
	lg.Info("hello", zap.Int("n", 3))
	require.NoError(t, lg.Close())

	require.Equal(t, out.String(), errs.String(), "each output is written once")
	require.Equal(t, 1, strings.Count(out.String(), "\n"))
	var line map[string]any
	require.NoError(t, json.Unmarshal(out.Bytes(), &line))
	require.Regexp(t, `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d{4})$`, line["ts"])
	require.Regexp(t, `^telemetry/log_test.go:\d+$`, line["caller"])
	delete(line, "ts")
	delete(line, "caller")
	require.Equal(t, map[string]any{"level": "info", "msg": "hello", "n": 3.0}, line)
}

func TestConsoleLine(t *testing.T) {
	var errs bytes.Buffer
	lg, err := NewLogger(LogOptions{Level: "debug", Console: true, Outputs: []string{"stderr"}, Stderr: &errs})
	require.NoError(t, err)
	lg.Debug("hello")
	require.Regexp(t, `^\S+\tdebug\ttelemetry/log_test.go:\d+\thello\n$`, errs.String())
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.log")
	for range 2 {
		lg, err := NewLogger(LogOptions{Level: "info", Outputs: []string{path}})
		require.NoError(t, err)
		lg.Info("appended")
		require.NoError(t, lg.Close())
	}
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, 2, strings.Count(string(content), `"msg":"appended"`))

	_, err = NewLogger(LogOptions{Level: "info", Outputs: []string{filepath.Join(dir, "absent", "a.log")}})
	require.ErrorContains(t, err, "log output: open ")
}

func TestRotatedFile(t *testing.T) {
	dir := t.TempDir()
	rotation, err := ParseRotation(`{"maxsize": 1, "maxbackups": 3}`)
	require.NoError(t, err)
	lg, err := NewLogger(LogOptions{Level: "info", Outputs: []string{filepath.Join(dir, "a.log")}, Rotation: rotation})
	require.NoError(t, err)
	long := strings.Repeat("x", 400<<10)
	for range 4 {
		lg.Info("filling", zap.String("text", long))
	}
	require.NoError(t, lg.Close())
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 2, "a full file and its successor")
}

func TestParseRotationErrors(t *testing.T) {
	for text, want := range map[string]string{
		"{":                  "improperly formatted log rotation config: ",
		`{"maxsize": "big"}`: "invalid log rotation config: ",
	} {
		_, err := ParseRotation(text)
		require.ErrorContains(t, err, want)
	}
}

func TestBadOptions(t *testing.T) {
	_, err := NewLogger(LogOptions{Level: "loud"})
	require.ErrorContains(t, err, `log level: unrecognized level: "loud"`)

	var errs bytes.Buffer
	lg, err := NewLogger(LogOptions{Level: "info", Outputs: []string{"stderr", os.DevNull}, Stderr: &errs})
	require.NoError(t, err)
	lg.Info("discarded")
	require.Empty(t, errs.String())
}
