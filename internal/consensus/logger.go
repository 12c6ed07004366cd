package consensus

import (
	"fmt"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// raftLogger is raft.Logger over zap. Tools wait for raft's lines ("became leader at term 2"), so they keep their
// text and level, under etcd's logger name.
type raftLogger struct{ lg *zap.Logger }

// impossible is what raft's own panics are turned into: the loop recovers it and stops the member with its text.
type impossible struct{ text string }

func newRaftLogger(lg *zap.Logger) raftLogger {
	// One frame for the method, one for log.
	return raftLogger{lg: lg.Named("raft").WithOptions(zap.AddCallerSkip(2))}
}

func (l raftLogger) log(level zapcore.Level, v []any) {
	if e := l.lg.Check(level, ""); e != nil {
		e.Message = fmt.Sprint(v...)
		e.Write()
	}
}

func (l raftLogger) logf(level zapcore.Level, format string, v []any) {
	if e := l.lg.Check(level, ""); e != nil {
		e.Message = fmt.Sprintf(format, v...)
		e.Write()
	}
}

// infoLevel is the level of what raft says as information. What it says when entries that are in the log already are
// acknowledged again is for debugging: with asynchronous storage writes that is every other append, and etcd, which has none,
// never prints it.
func infoLevel(format string) zapcore.Level {
	if format == "entry at index %d missing from unstable log; ignoring" {
		return zapcore.DebugLevel
	}
	return zapcore.InfoLevel
}

func (l raftLogger) Debug(v ...any)                   { l.log(zapcore.DebugLevel, v) }
func (l raftLogger) Debugf(format string, v ...any)   { l.logf(zapcore.DebugLevel, format, v) }
func (l raftLogger) Info(v ...any)                    { l.log(zapcore.InfoLevel, v) }
func (l raftLogger) Infof(format string, v ...any)    { l.logf(infoLevel(format), format, v) }
func (l raftLogger) Warning(v ...any)                 { l.log(zapcore.WarnLevel, v) }
func (l raftLogger) Warningf(format string, v ...any) { l.logf(zapcore.WarnLevel, format, v) }
func (l raftLogger) Error(v ...any)                   { l.log(zapcore.ErrorLevel, v) }
func (l raftLogger) Errorf(format string, v ...any)   { l.logf(zapcore.ErrorLevel, format, v) }

// raft calls these when its state is impossible. The process is not ended from here: the loop's owner stops the
// member, with its other parts, in order.
func (l raftLogger) Fatal(v ...any)                 { panic(impossible{fmt.Sprint(v...)}) }
func (l raftLogger) Fatalf(format string, v ...any) { panic(impossible{fmt.Sprintf(format, v...)}) }
func (l raftLogger) Panic(v ...any)                 { panic(impossible{fmt.Sprint(v...)}) }
func (l raftLogger) Panicf(format string, v ...any) { panic(impossible{fmt.Sprintf(format, v...)}) }
