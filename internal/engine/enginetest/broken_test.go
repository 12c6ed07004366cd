package enginetest_test

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/enginetest"
	"github.com/dolmen-io/dolmen/internal/engine/memory"
)

// disk keeps a sound engine, or one that wrap has broken.
type disk struct {
	*enginetest.Directory
	wrap func(engine.Engine) engine.Engine
}

func (d disk) Open() (engine.Engine, error) {
	e, err := memory.Open("test", memory.Options{Directory: d.Directory})
	if err != nil || d.wrap == nil {
		return e, err
	}
	return d.wrap(e), nil
}

func (d disk) Crash(rng *rand.Rand, keep int) enginetest.Disk {
	return disk{d.Directory.Crash(rng, keep), d.wrap}
}

func (d disk) CrashAt(op int, rng *rand.Rand, before func()) func() enginetest.Disk {
	taken := d.Directory.CrashAt(op, rng, before)
	return func() enginetest.Disk {
		if image := taken(); image != nil {
			return disk{image, d.wrap}
		}
		return nil
	}
}

// loser reports some batches as committed and forgets them.
type loser struct {
	engine.Engine
	n int
}

func (l *loser) Commit(b *engine.Batch) error {
	if l.n++; l.n%9 == 0 {
		return nil
	}
	return l.Engine.Commit(b)
}

// swapper commits some batches after the one that follows them.
type swapper struct {
	engine.Engine
	n    int
	held *engine.Batch
}

func (s *swapper) Commit(b *engine.Batch) error {
	if s.n++; s.n%9 == 0 && s.held == nil {
		s.held = b
		return nil
	}
	err := s.Engine.Commit(b)
	if s.held != nil && err == nil {
		err = s.Engine.Commit(s.held)
		s.held = nil
	}
	return err
}

// tearer makes a batch of each operation, and flushes in the middle.
type tearer struct{ engine.Engine }

func (s *tearer) Commit(b *engine.Batch) error {
	for i, op := range b.Ops() {
		var one engine.Batch
		switch op.Kind {
		case engine.OpPut:
			one.Put(op.Key, op.Value)
		case engine.OpDelete:
			one.Delete(op.Key)
		case engine.OpDeleteRange:
			one.DeleteRange(op.Key, op.Value)
		}
		if err := s.Engine.Commit(&one); err != nil {
			return err
		}
		if i == b.Len()/2 {
			if err := s.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// sleeper flushes every other time only.
type sleeper struct {
	engine.Engine
	n int
}

func (s *sleeper) Flush() error {
	if s.n++; s.n%2 == 0 {
		return nil
	}
	return s.Engine.Flush()
}

// boaster calls everything durable.
type boaster struct{ engine.Engine }

func (b *boaster) Durable(key []byte) ([]byte, error) { return b.Get(key) }

// resurrector does not delete ranges.
type resurrector struct{ engine.Engine }

func (r *resurrector) Commit(b *engine.Batch) error {
	var kept engine.Batch
	for _, op := range b.Ops() {
		switch op.Kind {
		case engine.OpPut:
			kept.Put(op.Key, op.Value)
		case engine.OpDelete:
			kept.Delete(op.Key)
		}
	}
	return r.Engine.Commit(&kept)
}

// TestCheckerNotices runs the crash test on engines that break the contract, each in one way. A test
// that they pass would prove nothing about the others.
func TestCheckerNotices(t *testing.T) {
	for _, test := range []struct {
		name      string
		dropSyncs bool
		wrap      func(engine.Engine) engine.Engine
	}{
		{"no sync", true, nil},
		{"loses a batch", false, func(e engine.Engine) engine.Engine { return &loser{Engine: e} }},
		{"swaps batches", false, func(e engine.Engine) engine.Engine { return &swapper{Engine: e} }},
		{"tears a batch", false, func(e engine.Engine) engine.Engine { return &tearer{e} }},
		{"skips flushes", false, func(e engine.Engine) engine.Engine { return &sleeper{Engine: e} }},
		{"overstates what is durable", false, func(e engine.Engine) engine.Engine { return &boaster{e} }},
		{"keeps deleted ranges", false, func(e engine.Engine) engine.Engine { return &resurrector{e} }},
	} {
		t.Run(test.name, func(t *testing.T) {
			const seeds = 60
			noticed := 0
			for seed := range uint64(seeds) {
				d := disk{enginetest.NewDirectory(), test.wrap}
				if test.dropSyncs {
					d.DropSyncs()
				}
				if err := enginetest.CrashPrefix(d, 0, seed); err != nil {
					noticed++
					if noticed == 1 {
						t.Log(err)
					}
				}
			}
			t.Logf("%d of %d seeds noticed", noticed, seeds)
			require.Greater(t, noticed, seeds/10)
		})
	}
}

// TestSoundEngine is what TestCheckerNotices is measured against.
func TestSoundEngine(t *testing.T) {
	enginetest.Run(t, enginetest.Harness{
		NewDisk: func() enginetest.Disk { return disk{enginetest.NewDirectory(), nil} },
		Seeds:   60,
	})
}
