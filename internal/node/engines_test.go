package node

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/memory"
)

// plain hides everything of an engine but the interface.
type plain struct{ engine.Engine }

func openMemory(t *testing.T, value string) engine.Engine {
	t.Helper()
	eng, err := memory.Open(t.TempDir(), memory.Options{})
	require.NoError(t, err)
	var b engine.Batch
	b.Put([]byte("k"), []byte(value))
	require.NoError(t, eng.Commit(&b))
	return eng
}

// TestSwitched replaces an engine under a reader: what was begun on the old one ends on it, what begins later is the
// new one's.
func TestSwitched(t *testing.T) {
	old := openMemory(t, "old")
	s := newSwitched(old)
	sn, err := s.Snapshot()
	require.NoError(t, err)
	closed := make(chan error, 1)
	s.replace(plain{openMemory(t, "new")}, func(err error) { closed <- err })

	value, err := s.Get([]byte("k"))
	require.NoError(t, err)
	require.Equal(t, "new", string(value))
	value, err = sn.Get([]byte("k"))
	require.NoError(t, err)
	require.Equal(t, "old", string(value))
	select {
	case <-closed:
		t.Fatal("the engine was closed under its reader")
	default:
	}
	require.NoError(t, sn.Close())
	require.NoError(t, <-closed)
	_, err = old.Get([]byte("k"))
	require.ErrorIs(t, err, engine.ErrClosed)

	require.NoError(t, s.Flush())
	value, err = s.Durable([]byte("k"))
	require.NoError(t, err)
	require.Equal(t, "new", string(value))
	require.NotZero(t, s.Stats())
	require.ErrorIs(t, s.Compact(), errNoCompactor)
	require.NoError(t, s.Close())
	require.ErrorIs(t, s.Close(), engine.ErrClosed)
	_, err = s.Snapshot()
	require.ErrorIs(t, err, engine.ErrClosed)
}

// TestSwitchedUnderLoad replaces engines while others read.
func TestSwitchedUnderLoad(t *testing.T) {
	eng := openMemory(t, "0")
	s := newSwitched(eng)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				sn, err := s.Snapshot()
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := sn.Get([]byte("k")); err != nil {
					t.Error(err)
				}
				if err := sn.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 50 {
		s.replace(openMemory(t, "1"), func(err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	close(done)
	readers.Wait()
	require.NoError(t, s.Close())
}
