// Command dolmen runs one member of an etcd-compatible metadata store.
//
// Without a command it is a member and takes etcd's flags. With one it is a tool: a client, or something to look at
// a member's files with. Called through a link named "etcd" it behaves as etcd's own program does, down to its log
// format.
package main

import (
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/term"
)

// signalPatience is how long the process waits to die of its own signal, which takes microseconds.
const signalPatience = time.Second

func main() {
	signals := make(chan os.Signal, 1)
	p := &program{
		name:     filepath.Base(os.Args[0]),
		args:     os.Args[1:],
		environ:  os.Environ(),
		stdout:   os.Stdout,
		stderr:   os.Stderr,
		terminal: term.IsTerminal(int(os.Stderr.Fd())),
		listen: func() <-chan os.Signal {
			signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
			return signals
		},
		open: openMember,
	}
	finish(p.run(), signals)
}

// finish ends the process. A member that a signal stopped dies of that signal, so that a supervisor
// sees why; the first process of a container cannot, and exits with status 0.
func finish(o outcome, signals chan os.Signal) {
	if o.signal == 0 {
		os.Exit(o.status)
	}
	if os.Getpid() == 1 {
		os.Exit(0)
	}
	signal.Stop(signals)
	signal.Reset(o.signal)
	if err := syscall.Kill(os.Getpid(), o.signal); err != nil {
		os.Exit(128 + int(o.signal))
	}
	// A process that was started with the signal ignored, as a shell without job control starts those in the
	// background, does not die of it.
	<-time.After(signalPatience)
	os.Exit(128 + int(o.signal))
}
