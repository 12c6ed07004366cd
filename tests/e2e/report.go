package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// event is a line of go test -json.
type event struct {
	Action  string
	Test    string
	Elapsed float64 // seconds
	Output  string
}

// slow is how long a subtest takes that has a line of its own: some tests take minutes, and who waits wants to see that
// they go on.
const slow = 5 * time.Second

// outcome is a test that has ended.
type outcome struct {
	test    string
	elapsed time.Duration
}

// report prints a line for each test that ends and is top-level or slow, the output of those that fail, and a summary.
type report struct {
	out     io.Writer
	verbose bool
	output  map[string][]string // of the tests that run, by test
	loose   []string            // what was printed outside of any test

	passed, failed, skipped int // tests and their subtests
	failures                []string
	unrun                   []string  // tests that one before them kept from running
	ends                    []outcome // of top-level tests
}

func newReport(out io.Writer, verbose bool) *report {
	return &report{out: out, verbose: verbose, output: map[string][]string{}}
}

// read follows the events to their end.
func (r *report) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			r.line(line)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// line takes one line of go test: an event, or text that go itself prints.
func (r *report) line(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil {
		r.loose = append(r.loose, string(line))
		return
	}
	switch e.Action {
	case "run":
		r.output[e.Test] = nil
	case "output", "build-output":
		r.text(e)
	case "pass", "fail", "skip":
		r.ended(e)
	}
}

// text keeps what a test prints until it is known whether the test passes.
func (r *report) text(e event) {
	if r.verbose {
		fmt.Fprint(r.out, e.Output)
	}
	if e.Test == "" {
		r.loose = append(r.loose, e.Output)
	} else {
		r.output[e.Test] = append(r.output[e.Test], e.Output)
	}
}

// show prints what a failure printed, once.
func (r *report) show(output []string) {
	if !r.verbose {
		fmt.Fprint(r.out, strings.Join(output, ""))
	}
}

// ended counts a test that has ended, and prints it if it is top-level or slow, or has failed.
func (r *report) ended(e event) {
	if e.Test == "" {
		if e.Action == "fail" {
			r.show(r.loose)
		}
		return
	}
	output := r.output[e.Test]
	delete(r.output, e.Test)
	switch {
	case e.Action == "pass":
		r.passed++
	case e.Action == "fail":
		r.failed++
		r.failures = append(r.failures, e.Test)
		r.show(output)
	case slices.ContainsFunc(output, isLeak):
		r.unrun = append(r.unrun, e.Test)
		e.Action = "left"
	default:
		r.skipped++
	}
	o := outcome{e.Test, time.Duration(e.Elapsed * float64(time.Second))}
	whole := !strings.Contains(e.Test, "/")
	if whole {
		r.ends = append(r.ends, o)
	}
	if whole || o.elapsed >= slow {
		fmt.Fprintf(r.out, "%-4s %7.2fs %s\n", e.Action, o.elapsed.Seconds(), e.Test)
	}
}

// isLeak recognises what a test says that skips itself because it found goroutines of a test before it.
func isLeak(line string) bool { return strings.Contains(line, "Found leaked") }

// leftOut returns the tests that did not run because of one before them, and forgets them.
func (r *report) leftOut() []string {
	tests := r.unrun
	r.unrun = nil
	return tests
}

// summary prints the counts, the slowest tests, and those that failed or did not come to their end.
func (r *report) summary(excluded int) {
	for test, output := range r.output {
		r.show(output)
		r.failed++
		r.failures = append(r.failures, test+" (did not end)")
	}
	for _, test := range r.unrun {
		r.failed++
		r.failures = append(r.failures, test+" (not run)")
	}
	slices.Sort(r.failures)
	slices.SortFunc(r.ends, func(a, b outcome) int { return int(b.elapsed - a.elapsed) })
	fmt.Fprintf(r.out, "\n%d passed, %d failed, %d skipped by themselves, %d excluded (subtests count)\n",
		r.passed, r.failed, r.skipped, excluded)
	fmt.Fprint(r.out, "slowest:")
	for _, o := range r.ends[:min(5, len(r.ends))] {
		fmt.Fprintf(r.out, " %s %.0fs", o.test, o.elapsed.Seconds())
	}
	fmt.Fprintln(r.out)
	for _, test := range r.failures {
		fmt.Fprintln(r.out, "FAILED", test)
	}
}
