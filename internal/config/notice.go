package config

import (
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Notice is one log line that waits for a logger.
type Notice struct {
	Level   zapcore.Level
	Message string
	Fields  []zap.Field
}

// Notices are log lines in the order in which they arose.
type Notices []Notice

// Log writes the notices to lg.
func (n Notices) Log(lg *zap.Logger) {
	for _, one := range n {
		lg.Log(one.Level, one.Message, one.Fields...)
	}
}

func (n *Notices) info(message string, fields ...zap.Field) {
	*n = append(*n, Notice{zapcore.InfoLevel, message, fields})
}

func (n *Notices) warn(message string, fields ...zap.Field) {
	*n = append(*n, Notice{zapcore.WarnLevel, message, fields})
}
