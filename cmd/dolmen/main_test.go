package main

import (
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// endVariable makes this test binary end as finish ends a program: by the signal it names, or with
// status 3.
const endVariable = "DOLMEN_TEST_END"

// programVariable makes this test binary the program itself.
const programVariable = "DOLMEN_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(programVariable) != "" {
		main()
	}
	how, set := os.LookupEnv(endVariable)
	if !set {
		os.Exit(m.Run())
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	o := outcome{status: 3}
	switch how {
	case "term":
		o.signal = syscall.SIGTERM
	case "int":
		o.signal = syscall.SIGINT
	}
	finish(o, signals)
}

func TestFinish(t *testing.T) {
	end := func(how string) syscall.WaitStatus {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), endVariable+"="+how)
		var exit *exec.ExitError
		require.ErrorAs(t, child.Run(), &exit)
		return exit.Sys().(syscall.WaitStatus)
	}
	require.Equal(t, 3, end("status").ExitStatus())
	require.Equal(t, syscall.SIGTERM, end("term").Signal())
	require.Equal(t, syscall.SIGINT, end("int").Signal())
}

// TestFinishWithSignalIgnored: a process whose parent had it ignore the signal ends all the same.
func TestFinishWithSignalIgnored(t *testing.T) {
	child := exec.Command("sh", "-c", `trap "" INT; exec "$0"`, os.Args[0])
	child.Env = append(os.Environ(), endVariable+"=int")
	var exit *exec.ExitError
	require.ErrorAs(t, child.Run(), &exit)
	require.Equal(t, 128+int(syscall.SIGINT), exit.ExitCode())
}
