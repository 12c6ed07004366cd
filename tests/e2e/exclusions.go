package main

import (
	_ "embed"
	"fmt"
	"regexp"
	"strings"
)

// exclusionList names the tests that are not run: one a line, and why.
//
//go:embed excluded.txt
var exclusionList string

// exclusion is a test that is not run against our program.
type exclusion struct {
	test   string // as go test prints it: TestName, or TestName/Subtest
	reason string
}

// parseExclusions reads lines of a test's name, a colon and the reason. Empty lines and lines that begin with # say
// nothing; a test without a reason, or twice, is an error.
func parseExclusions(text string) ([]exclusion, error) {
	var all []exclusion
	known := map[string]bool{}
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		test, reason, _ := strings.Cut(line, ":")
		test, reason = strings.TrimSpace(test), strings.TrimSpace(reason)
		switch {
		case !strings.HasPrefix(test, "Test"):
			return nil, fmt.Errorf("line %d: %q is not a test's name", i+1, test)
		case reason == "":
			return nil, fmt.Errorf("line %d: no reason why %s is excluded", i+1, test)
		case known[test]:
			return nil, fmt.Errorf("line %d: %s is excluded twice", i+1, test)
		}
		known[test] = true
		all = append(all, exclusion{test: test, reason: reason})
	}
	return all, nil
}

// skipPattern is the value of go test's -skip that matches the excluded tests and no other.
func skipPattern(excluded []exclusion) string {
	var tests []string
	for _, e := range excluded {
		parts := strings.Split(e.test, "/")
		for i, part := range parts {
			parts[i] = "^" + regexp.QuoteMeta(part) + "$"
		}
		tests = append(tests, strings.Join(parts, "/"))
	}
	return strings.Join(tests, "|")
}
