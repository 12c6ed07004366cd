package telemetry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"gopkg.in/natefinch/lumberjack.v2"
)

// logTime is etcd's form of a timestamp, microseconds always written, so that log pipelines made for
// etcd parse ours.
const logTime = "2006-01-02T15:04:05.000000Z0700"

const journalOutput = "systemd/journal"

// Of lines that repeat within a second, sampleFirst are written and then every sampleThereafter-th;
// etcd's numbers. A failing disk or a client in a loop must not fill the log.
const (
	sampleFirst      = 100
	sampleThereafter = 100
)

// LogOptions says what a logger writes, in which form and where to.
type LogOptions struct {
	// Level is the lowest level written: debug, info, warn, error, panic or fatal.
	Level string
	// Console writes readable lines instead of one JSON object a line.
	Console bool
	// Outputs are "default" or "stderr", "stdout", "systemd/journal", or file paths to append to.
	// A path of /dev/null discards everything.
	Outputs []string
	// Rotation, if not nil, rotates the files of Outputs.
	Rotation *Rotation
	// Stdout and Stderr stand behind the outputs of these names.
	Stdout, Stderr io.Writer
}

// Rotation says when a log file is renamed and a new one begun.
type Rotation struct {
	MaxSize    int  `json:"maxsize"`    // MB that a file may grow to; 0 is 100
	MaxAge     int  `json:"maxage"`     // days that a renamed file is kept; 0 keeps it
	MaxBackups int  `json:"maxbackups"` // renamed files to keep; 0 keeps all
	LocalTime  bool `json:"localtime"`  // name files by local time instead of UTC
	Compress   bool `json:"compress"`   // gzip renamed files
}

// ParseRotation reads the JSON of --log-rotation-config-json. Errors have etcd's texts.
func ParseRotation(text string) (*Rotation, error) {
	var (
		rotation  Rotation
		syntax    *json.SyntaxError
		wrongType *json.UnmarshalTypeError
	)
	err := json.Unmarshal([]byte(text), &rotation)
	switch {
	case err == nil:
		return &rotation, nil
	case errors.As(err, &syntax):
		return nil, fmt.Errorf("improperly formatted log rotation config: %w", err)
	case errors.As(err, &wrongType):
		return nil, fmt.Errorf("invalid log rotation config: %w", err)
	default:
		return nil, fmt.Errorf("fail to unmarshal log rotation config: %w", err)
	}
}

// Logger is a zap logger and the files it writes to.
type Logger struct {
	*zap.Logger
	files []io.Closer
}

// Close flushes and closes the log files. Lines logged afterwards are lost.
func (l *Logger) Close() error {
	// A terminal or a pipe cannot be synced and says so; only files matter, and closing them reports.
	_ = l.Sync()
	return l.closeFiles()
}

// NewLogger opens the outputs. It fails if a file cannot be opened, the journal cannot be reached, or
// the level is unknown.
func NewLogger(o LogOptions) (*Logger, error) {
	level, err := zapcore.ParseLevel(o.Level)
	if err != nil {
		return nil, fmt.Errorf("log level: %w", err)
	}
	logger := &Logger{}
	sink, err := logger.open(o)
	if err != nil {
		return nil, errors.Join(err, logger.closeFiles())
	}
	// The journal's writer takes the level out of the JSON line.
	console := o.Console && !slices.Contains(o.Outputs, journalOutput)
	core := zapcore.NewSamplerWithOptions(
		zapcore.NewCore(encoder(console), sink, level), time.Second, sampleFirst, sampleThereafter)
	logger.Logger = zap.New(core, zap.AddCaller(), zap.AddStacktrace(zapcore.ErrorLevel), zap.ErrorOutput(sink))
	return logger, nil
}

func (l *Logger) closeFiles() error {
	var failed error
	for _, file := range l.files {
		failed = errors.Join(failed, file.Close())
	}
	return failed
}

// open returns one writer for all outputs, each of them once.
func (l *Logger) open(o LogOptions) (zapcore.WriteSyncer, error) {
	outputs := slices.Clone(o.Outputs)
	slices.Sort(outputs)
	outputs = slices.Compact(outputs)
	if slices.Contains(outputs, os.DevNull) {
		return zapcore.AddSync(io.Discard), nil
	}
	var sinks []zapcore.WriteSyncer
	stderr := false
	for _, output := range outputs {
		switch output {
		case "default", "stderr":
			if !stderr {
				sinks = append(sinks, zapcore.Lock(zapcore.AddSync(o.Stderr)))
			}
			stderr = true
		case "stdout":
			sinks = append(sinks, zapcore.Lock(zapcore.AddSync(o.Stdout)))
		case journalOutput:
			journal, err := openJournal(o.Stderr)
			if err != nil {
				return nil, fmt.Errorf("log output %s: %w", journalOutput, err)
			}
			sinks = append(sinks, zapcore.Lock(zapcore.AddSync(journal)))
		default:
			file, err := l.openFile(output, o.Rotation)
			if err != nil {
				return nil, err
			}
			sinks = append(sinks, file)
		}
	}
	return zapcore.NewMultiWriteSyncer(sinks...), nil
}

func (l *Logger) openFile(path string, rotation *Rotation) (zapcore.WriteSyncer, error) {
	if rotation != nil {
		file := &lumberjack.Logger{
			Filename: path, MaxSize: rotation.MaxSize, MaxAge: rotation.MaxAge, MaxBackups: rotation.MaxBackups,
			LocalTime: rotation.LocalTime, Compress: rotation.Compress,
		}
		l.files = append(l.files, file)
		return zapcore.AddSync(file), nil
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("log output: %w", err)
	}
	l.files = append(l.files, file)
	return zapcore.Lock(file), nil
}

// encoder writes the keys level, ts, caller and msg, which tools for etcd's logs expect.
func encoder(console bool) zapcore.Encoder {
	keys := zapcore.EncoderConfig{
		LevelKey: "level", TimeKey: "ts", CallerKey: "caller", MessageKey: "msg",
		NameKey: "logger", StacktraceKey: "stacktrace",
		LineEnding:     zapcore.DefaultLineEnding,
		EncodeLevel:    zapcore.LowercaseLevelEncoder,
		EncodeTime:     zapcore.TimeEncoderOfLayout(logTime),
		EncodeDuration: zapcore.StringDurationEncoder,
		EncodeCaller:   zapcore.ShortCallerEncoder,
	}
	if console {
		return zapcore.NewConsoleEncoder(keys)
	}
	return zapcore.NewJSONEncoder(keys)
}
