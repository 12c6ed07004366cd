package robustness

import (
	"bytes"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inOwnMounts says in the environment that the process may mount file systems which nobody else sees, and which are gone
// when it is.
const inOwnMounts = "ROBUSTNESS_IN_OWN_MOUNTS"

// withOwnDisks runs the calling test again in a process with mounts of its own, where it calls f with the size of the file
// systems that members may have to themselves. Where the system gives a process no mounts of its own, it calls f here and
// with 0.
func withOwnDisks(t *testing.T, f func(size int64)) {
	t.Helper()
	if os.Getenv(inOwnMounts) != "" {
		// What is mounted here is not to be seen outside.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(os.NewSyscallError("mount", err))
		}
		f(ownDiskSize)
		return
	}
	attributes := func() *syscall.SysProcAttr {
		return &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
			Pdeathsig:   syscall.SIGKILL,
		}
	}
	probe := exec.Command("/bin/sh", "-c", "mount -t tmpfs none /mnt")
	probe.SysProcAttr = attributes()
	if out, err := probe.CombinedOutput(); err != nil {
		t.Logf("no disk will be full, this system gives a process no mounts of its own: %v %s", err, out)
		f(0)
		return
	}
	cmd := exec.Command(os.Args[0], append(os.Args[1:len(os.Args):len(os.Args)], "-test.run=^"+t.Name()+"$", "-test.v")...)
	cmd.SysProcAttr = attributes()
	cmd.Env = append(os.Environ(), inOwnMounts+"=1")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if testing.Verbose() {
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr // a long run shows how it goes
	}
	if err := cmd.Run(); err != nil {
		t.Errorf("in a process with mounts of its own: %v\n%s", err, out.Bytes())
	}
}
