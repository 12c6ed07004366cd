package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Failure says what a checker found wrong. The same options lead to the same failure.
type Failure struct {
	Seed    uint64
	Step    uint64        // how many events had happened
	At      time.Duration // simulated time
	Checker string
	Text    string
	Trace   []string // the newest lines
}

// Error implements error.
func (f *Failure) Error() string {
	return fmt.Sprintf("seed %d, step %d, at %v: %s: %s\n  %s", f.Seed, f.Step, f.At, f.Checker, f.Text, strings.Join(f.Trace, "\n  "))
}

// traceLines is how much of a trace a failure shows.
const traceLines = 60

// trace is what happened, a line each. The newest lines are always there, all of them only if asked for.
type trace struct {
	all    bool
	lines  []string
	digest uint64
}

func (t *trace) add(line string) {
	t.digest = pairSum([]byte(line), nil) + t.digest*1099511628211
	if !t.all && len(t.lines) >= 2*traceLines {
		t.lines = append(t.lines[:0], t.lines[traceLines:]...)
	}
	t.lines = append(t.lines, line)
}

func (t *trace) newest() []string { return t.lines[max(0, len(t.lines)-traceLines):] }

// note puts a line into the trace.
func (w *world) note(format string, args ...any) {
	w.add(fmt.Sprintf("%d %v ", w.step, w.now) + fmt.Sprintf(format, args...))
}

// violated ends the run: the first violation counts.
func (w *world) violated(checker, format string, args ...any) {
	if w.failure != nil || slices.Contains(w.options.breaks.without, checker) {
		return
	}
	w.failure = &Failure{Seed: w.seed, Step: w.step, At: w.now, Checker: checker, Text: fmt.Sprintf(format, args...),
		Trace: append([]string(nil), w.newest()...)}
}
