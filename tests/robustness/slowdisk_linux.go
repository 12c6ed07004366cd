package robustness

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// slowDisk decides how long each fsync of one member takes, over all its starts. The member's calls are stopped in the
// kernel and go on when this says so; the calls themselves are done by the kernel as ever.
type slowDisk struct {
	socket string
	l      *net.UnixListener
	closed chan struct{}
	calls  atomic.Int64 // that were asked about

	mu struct {
		sync.Mutex
		delay   time.Duration
		changed chan struct{} // closed and replaced when delay changes
		err     error         // the first
	}
	running sync.WaitGroup
}

// newSlowDisk returns one without a delay. dir is short: it is part of a socket's name.
func newSlowDisk(dir, name string) (*slowDisk, error) {
	d := &slowDisk{socket: filepath.Join(dir, name), closed: make(chan struct{})}
	d.mu.changed = make(chan struct{})
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.socket})
	if err != nil {
		return nil, fmt.Errorf("listen for the member %s: %w", name, err)
	}
	d.l = l
	d.running.Go(d.accept)
	return d, nil
}

// close ends the supervision. The member is gone, or its next fsync fails.
func (d *slowDisk) close() error {
	close(d.closed)
	d.l.Close()
	d.running.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mu.err
}

// set makes every fsync take at least delay. Those that wait are measured by the new delay from their begin on.
func (d *slowDisk) set(delay time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.delay = delay
	close(d.mu.changed)
	d.mu.changed = make(chan struct{})
}

func (d *slowDisk) now() (time.Duration, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mu.delay, d.mu.changed
}

func (d *slowDisk) failed(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.err == nil {
		d.mu.err = err
	}
}

// accept takes the listener of each start of the member.
func (d *slowDisk) accept() {
	for {
		conn, err := d.l.AcceptUnix()
		if err != nil {
			return // it is closed
		}
		fd, err := receiveDescriptor(conn)
		conn.Close()
		if errors.Is(err, errNothingSent) {
			continue // the member was killed before it began
		}
		if err != nil {
			d.failed(err)
			continue
		}
		d.running.Go(func() {
			defer unix.Close(fd)
			if err := d.supervise(fd); err != nil {
				d.failed(err)
			}
		})
	}
}

var errNothingSent = errors.New("no descriptor was sent")

func receiveDescriptor(conn *net.UnixConn) (int, error) {
	data, control := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(data, control)
	if err != nil || n == 0 {
		return 0, errNothingSent
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return 0, fmt.Errorf("a start sent %d control messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return 0, fmt.Errorf("a start sent %d descriptors: %w", len(fds), err)
	}
	return fds[0], nil
}

// notification and verdict are the kernel's struct seccomp_notif and seccomp_notif_resp.
type (
	notification struct {
		id         uint64
		pid, flags uint32
		data       [64]byte
	}
	verdict struct {
		id    uint64
		value int64
		errno int32
		flags uint32
	}
)

// goOn is SECCOMP_USER_NOTIF_FLAG_CONTINUE: the kernel does the call.
const goOn = 1

// supervise answers the calls of one process until it is gone. A thread has one call at a time, which bounds those that
// wait.
func (d *slowDisk) supervise(fd int) error {
	var waiting sync.WaitGroup
	defer waiting.Wait()
	for {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		_, err := unix.Poll(poll, 100)
		select {
		case <-d.closed:
			return nil
		default:
		}
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return os.NewSyscallError("poll", err)
		case poll[0].Revents&unix.POLLIN != 0:
		case poll[0].Revents != 0:
			return nil // the process is gone
		default:
			continue
		}
		var n notification
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n)))
		if errno == unix.EINTR || errno == unix.ENOENT {
			continue // the caller was killed meanwhile
		}
		if errno != 0 {
			return os.NewSyscallError("ioctl(SECCOMP_IOCTL_NOTIF_RECV)", errno)
		}
		d.calls.Add(1)
		began := time.Now()
		if delay, _ := d.now(); delay == 0 {
			d.answer(fd, n.id)
			continue
		}
		waiting.Go(func() {
			d.hold(began)
			d.answer(fd, n.id)
		})
	}
}

// hold returns when a call that began at a time may go on.
func (d *slowDisk) hold(began time.Time) {
	for {
		delay, changed := d.now()
		timer := time.NewTimer(time.Until(began.Add(delay)))
		select {
		case <-timer.C:
			return
		case <-changed:
			timer.Stop()
		case <-d.closed:
			timer.Stop()
			return
		}
	}
}

func (d *slowDisk) answer(fd int, id uint64) {
	v := verdict{id: id, flags: goOn}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&v)))
	if errno != 0 && errno != unix.ENOENT { // ENOENT: the caller is gone
		d.failed(os.NewSyscallError("ioctl(SECCOMP_IOCTL_NOTIF_SEND)", errno))
	}
}
