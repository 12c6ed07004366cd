package robustness

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// launchWord as the first argument makes the test binary the launcher of a member: it gives the process a fault to live
// with and then becomes the member.
//
//	robustness.test launch-a-member [-fsync socket] [-tmpfs bytes] member argument...
const launchWord = "launch-a-member"

// launch does what the arguments after launchWord say. It returns only with an error.
func launch(args []string) error {
	flags := flag.NewFlagSet(launchWord, flag.ContinueOnError)
	socket := flags.String("fsync", "", "unix `socket` of who answers the member's fsyncs")
	size := flags.Int64("tmpfs", 0, "`bytes` of a file system of its own for the member's data")
	if err := flags.Parse(args); err != nil {
		return err
	}
	command := flags.Args()
	if len(command) == 0 {
		return errors.New("no command to become")
	}
	runtime.LockOSThread() // a filter is on this thread, which exec makes the whole process
	if *size > 0 {
		if err := mountData(command, *size); err != nil {
			return err
		}
	}
	if *socket != "" {
		if err := superviseFsync(*socket); err != nil {
			return err
		}
	}
	return syscall.Exec(command[0], command, os.Environ())
}

// mountData gives the member's data directory a file system of its own, unless an earlier start has.
func mountData(command []string, size int64) error {
	const option = "--data-dir="
	at := slices.IndexFunc(command, func(arg string) bool { return strings.HasPrefix(arg, option) })
	if at < 0 {
		return fmt.Errorf("no %s in %q", option, command)
	}
	dir := strings.TrimPrefix(command[at], option)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var here, parent unix.Stat_t
	if err := errors.Join(unix.Stat(dir, &here), unix.Stat(filepath.Dir(dir), &parent)); err != nil {
		return err
	}
	if here.Dev != parent.Dev {
		return nil
	}
	return os.NewSyscallError("mount", unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("mode=0700,size=%d", size)))
}

// notifyFilter has the kernel ask the filter's listener about each call that makes data durable, and allow all others.
func notifyFilter() []unix.SockFilter {
	const (
		number   = 0 // offset of the call's number in the kernel's seccomp_data
		load     = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		ifEqual  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		answer   = unix.BPF_RET | unix.BPF_K
		syncings = 3
	)
	filter := []unix.SockFilter{{Code: load, K: number}}
	for i, call := range []uint32{unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNC_FILE_RANGE} {
		filter = append(filter, unix.SockFilter{Code: ifEqual, Jt: uint8(syncings - i), K: call})
	}
	return append(filter, unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_USER_NOTIF})
}

// superviseFsync puts the calling thread under notifyFilter and hands the filter's listener to who listens at a socket.
func superviseFsync(socket string) error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl(PR_SET_NO_NEW_PRIVS)", err)
	}
	filter := notifyFilter()
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// The second flag keeps a call that is asked about from beginning anew at each signal of Go's scheduler.
	listener, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	_, _, err = conn.WriteMsgUnix([]byte{1}, unix.UnixRights(int(listener)), nil)
	if err != nil {
		return err
	}
	return unix.Close(int(listener))
}
