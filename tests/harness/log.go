package harness

import (
	"bytes"
	"strings"
	"sync"
)

const (
	readyLine = "ready to serve client requests"
	raceLine  = "WARNING: DATA RACE"
	bindLine  = "address already in use"

	// maxLog bounds what is kept of one server's output: enough for any failure we have seen.
	maxLog = 8 << 20
)

// output collects what a server prints and closes ready at the line that says it serves. It belongs to one start of
// the process; exec copies into it from one goroutine.
type output struct {
	ready  chan struct{}
	line   chan struct{} // closed after lineAt lines
	lineAt int

	mu struct {
		sync.Mutex
		text    bytes.Buffer
		partial []byte // an unfinished last line
		isReady bool
		lines   int
	}
}

// newOutput tells of the line that says ready, and of the one with the given number, counted from 1.
func newOutput(lineAt int) *output {
	return &output{ready: make(chan struct{}), line: make(chan struct{}), lineAt: lineAt}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.mu.text.Len() < maxLog {
		o.mu.text.Write(p)
	}
	o.mu.partial = append(o.mu.partial, p...)
	for {
		end := bytes.IndexByte(o.mu.partial, '\n')
		if end < 0 {
			break
		}
		if !o.mu.isReady && bytes.Contains(o.mu.partial[:end], []byte(readyLine)) {
			o.mu.isReady = true
			close(o.ready)
		}
		if o.mu.lines++; o.mu.lines == o.lineAt {
			close(o.line)
		}
		o.mu.partial = o.mu.partial[end+1:]
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mu.text.String()
}

func (o *output) contains(s string) bool { return strings.Contains(o.String(), s) }
