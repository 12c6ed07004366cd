package main

import (
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReport(t *testing.T) {
	var out strings.Builder
	r := newReport(&out, false)
	require.NoError(t, r.read(strings.NewReader(`go: downloading something
{"Action":"start"}
{"Action":"run","Test":"TestA"}
{"Action":"output","Test":"TestA","Output":"quiet\n"}
{"Action":"run","Test":"TestA/quick"}
{"Action":"pass","Test":"TestA/quick","Elapsed":4}
{"Action":"run","Test":"TestA/slow"}
{"Action":"pass","Test":"TestA/slow","Elapsed":5}
{"Action":"pass","Test":"TestA","Elapsed":9.5}
{"Action":"run","Test":"TestB"}
{"Action":"run","Test":"TestB/x"}
{"Action":"output","Test":"TestB/x","Output":"expected 1\n"}
{"Action":"fail","Test":"TestB/x","Elapsed":2}
{"Action":"run","Test":"TestB/y"}
{"Action":"skip","Test":"TestB/y","Elapsed":0}
{"Action":"fail","Test":"TestB","Elapsed":3}
{"Action":"run","Test":"TestL"}
{"Action":"output","Test":"TestL","Output":"leak.go:113: Found leaked goroutined BEFORE test\n"}
{"Action":"skip","Test":"TestL","Elapsed":0}
{"Action":"run","Test":"TestC"}
{"Action":"output","Test":"TestC","Output":"panic: test timed out\n"}
{"Action":"output","Output":"FAIL\n"}
{"Action":"fail","Elapsed":4}`)))
	r.summary(2)
	require.Equal(t, `pass    5.00s TestA/slow
pass    9.50s TestA
expected 1
fail    3.00s TestB
left    0.00s TestL
go: downloading something
FAIL
panic: test timed out

3 passed, 4 failed, 1 skipped by themselves, 2 excluded (subtests count)
slowest: TestA 10s TestB 3s TestL 0s
FAILED TestB
FAILED TestB/x
FAILED TestC (did not end)
FAILED TestL (not run)
`, out.String())
}

// TestLeftOut: what one test has kept from running is run again, and counts only then.
func TestLeftOut(t *testing.T) {
	r := newReport(io.Discard, false)
	require.NoError(t, r.read(strings.NewReader(`{"Action":"run","Test":"TestL"}
{"Action":"output","Test":"TestL","Output":"leak.go:113: Found leaked goroutined BEFORE test\n"}
{"Action":"skip","Test":"TestL","Elapsed":0}`)))
	left := r.leftOut()
	require.Equal(t, []string{"TestL"}, left)
	require.Equal(t, "^(TestL)$", again("", left))
	require.Equal(t, "^(TestL|TestM)$/x/y", again("Test/x/y", []string{"TestL", "TestM"}))
	require.NoError(t, r.read(strings.NewReader(`{"Action":"pass","Test":"TestL","Elapsed":1}`)))
	r.summary(0)
	require.Zero(t, r.failed)
	require.Equal(t, 1, r.passed)
}

func TestReportOfABuildThatFails(t *testing.T) {
	var out strings.Builder
	r := newReport(&out, false)
	require.NoError(t, r.read(strings.NewReader(`{"Action":"build-output","Output":"undefined: x\n"}
{"Action":"build-fail"}
{"Action":"fail","Elapsed":0}`)))
	require.Equal(t, "undefined: x\n", out.String())
}

func TestVerboseReportPrintsEverything(t *testing.T) {
	var out strings.Builder
	r := newReport(&out, true)
	require.NoError(t, r.read(strings.NewReader(`{"Action":"run","Test":"TestA"}
{"Action":"output","Test":"TestA","Output":"quiet\n"}
{"Action":"pass","Test":"TestA","Elapsed":1.5}
{"Action":"run","Test":"TestB"}
{"Action":"output","Test":"TestB","Output":"loud\n"}
{"Action":"fail","Test":"TestB","Elapsed":1}
{"Action":"output","Output":"FAIL\n"}
{"Action":"fail"}`)))
	require.Equal(t, "quiet\npass    1.50s TestA\nloud\nfail    1.00s TestB\nFAIL\n", out.String())
}
