package robustness

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestSlowDisk: a command under the launcher syncs as late as it is told, and at once when the disk is well again.
func TestSlowDisk(t *testing.T) {
	d, err := newSlowDisk(t.TempDir(), "m")
	require.NoError(t, err)
	sync := func() *exec.Cmd {
		// dd syncs once, after it has written.
		cmd := exec.Command(os.Args[0], launchWord, "-fsync", d.socket, "/bin/dd", "if=/dev/zero", "bs=1", "count=1", "conv=fsync",
			"of="+filepath.Join(t.TempDir(), "file"))
		cmd.Stderr = os.Stderr
		return cmd
	}
	require.NoError(t, sync().Run())
	require.EqualValues(t, 1, d.calls.Load())

	const delay = 200 * time.Millisecond
	d.set(delay)
	began := time.Now()
	require.NoError(t, sync().Run())
	require.GreaterOrEqual(t, time.Since(began), delay)

	d.set(time.Hour)
	held := sync()
	require.NoError(t, held.Start())
	require.Eventually(t, func() bool { return d.calls.Load() == 3 }, 10*time.Second, time.Millisecond)
	d.set(0)
	require.NoError(t, held.Wait())

	d.set(time.Hour)
	killed := sync()
	require.NoError(t, killed.Start())
	require.Eventually(t, func() bool { return d.calls.Load() == 4 }, 10*time.Second, time.Millisecond)
	require.NoError(t, killed.Process.Kill())
	require.Error(t, killed.Wait())
	require.NoError(t, d.close())
}
