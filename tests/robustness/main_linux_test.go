package robustness

import (
	"fmt"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == launchWord {
		fmt.Fprintln(os.Stderr, "launch a member:", launch(os.Args[2:]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}
