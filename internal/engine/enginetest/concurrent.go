package enginetest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// testConcurrent reads and flushes from many goroutines while commits go on. Every batch writes the
// same number under two keys, so a reader that sees two numbers has seen a part of a batch.
func testConcurrent(t *testing.T, h Harness) {
	e := open(t, h.NewDisk())
	commit(t, e, "a=0", "z=0")
	done := make(chan struct{})
	var wg sync.WaitGroup
	errs := make(chan error, 16)
	loop := func(fn func() error) {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := fn(); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	for range 3 {
		loop(func() error { return readPair(e) })
	}
	for range 2 {
		loop(e.Flush)
	}
	loop(func() error { e.Stats(); return nil })
	loop(func() error {
		if _, err := e.Durable([]byte("a")); err != nil && !errors.Is(err, engine.ErrNotFound) {
			return err
		}
		return nil
	})
	for i := range 400 {
		v := fmt.Sprint(i)
		commit(t, e, "a="+v, "b..c", fmt.Sprintf("b%03d=%s", i%100, v), "z="+v)
	}
	close(done)
	wg.Wait()
	close(errs)
	require.NoError(t, <-errs)
	require.Equal(t, []string{"a=399", "b099=399", "z=399"}, scan(t, e, nil, nil, false))
}

func readPair(e engine.Engine) error {
	s, err := e.Snapshot()
	if err != nil {
		return err
	}
	first, err := s.Get([]byte("a"))
	if err != nil {
		return err
	}
	n := 0
	err = s.Scan(nil, nil, true, func(k, v []byte) bool {
		if n++; !bytes.Equal(v, first) {
			err = fmt.Errorf("%s=%s beside a=%s", k, v, first)
		}
		return true
	})
	return errors.Join(err, s.Close())
}

func testCompact(t *testing.T, h Harness) {
	e := open(t, h.NewDisk())
	c, ok := e.(engine.Compactor)
	if !ok {
		return // not every engine has to
	}
	require.NoError(t, c.Compact(), "empty")
	value := bytes.Repeat([]byte("v"), 1000)
	for i := range 200 {
		var b engine.Batch
		b.Put(fmt.Appendf(nil, "%04d", i), value)
		b.Put([]byte("\xff\xff"), value)
		require.NoError(t, e.Commit(&b))
	}
	require.NoError(t, e.Flush())
	commit(t, e, "0000..0199")
	require.NoError(t, c.Compact())
	require.Len(t, scan(t, e, nil, nil, false), 2)
}

// testRandom compares the engine with the model after every batch.
func testRandom(t *testing.T, h Harness) {
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(seed, 2))
		d := h.NewDisk()
		e := open(t, d)
		hist := &history{large: h.LargeBatch}
		for i := range 60 {
			require.NoError(t, e.Commit(hist.next(rng)))
			switch rng.IntN(12) {
			case 0:
				require.NoError(t, e.Flush())
			case 1:
				require.NoError(t, e.Close())
				e = open(t, d)
			}
			if i%5 == 0 {
				n, err := hist.check(e, len(hist.batches))
				require.NoError(t, err, "seed %d", seed)
				require.Equal(t, len(hist.batches), n)
			}
		}
		require.NoError(t, e.Close())
	}
}
