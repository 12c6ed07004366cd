package harness

import "syscall"

// childAttributes makes a server die with the test process, so that an interrupted run leaves nothing behind.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
