package mvcc

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// beside runs tasks at once.
func beside(tasks []func()) {
	var all sync.WaitGroup
	for _, task := range tasks {
		all.Go(task)
	}
	all.Wait()
}

// written is an engine with a history of keys that are overwritten, deleted and come back, some with leases.
func written(t testing.TB, keys, changes int) engine.Engine {
	eng := openEngine(t)
	s, err := Load(eng, nil, nil)
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(5, 6))
	batch := &engine.Batch{}
	for i := range changes {
		if i%50 == 0 {
			require.NoError(t, eng.Commit(batch))
			batch.Reset()
			s.Publish()
			s.Begin(batch)
		}
		txn := s.Txn()
		key := benchKey(rng.IntN(keys))
		if rng.IntN(4) == 0 {
			_, err = txn.DeleteRange(key, nil)
		} else {
			_, err = txn.Put(key, key, int64(rng.IntN(3)))
		}
		require.NoError(t, err)
		txn.End()
	}
	require.NoError(t, eng.Commit(batch))
	return eng
}

// image of a store: every key with its whole chain, as it is held.
func chains(s *Store) string {
	var b bytes.Buffer
	s.tree.root.ascend(span{open: true}, false, func(it *item) bool {
		fmt.Fprintf(&b, "%s:", it.key())
		for v := it.head.Load(); v != nil; v = v.prev.Load() {
			fmt.Fprintf(&b, " %d.%d/%x/%x", v.main, v.sub, v.state, v.bytes())
		}
		b.WriteByte('\n')
		return true
	})
	return b.String()
}

// However a load is divided, the store is the same.
func TestLoadInParts(t *testing.T) {
	eng := written(t, 3000, 12_000)
	load := func(p Parallel) (s *Store, leases []string, read int64) {
		var n atomic.Int64
		s, err := LoadParallel(eng, p, func(revisions int64) { n.Store(revisions) }, func(a Attachment) {
			leases = append(leases, fmt.Sprintf("%s %d", a.Key, a.Lease))
		})
		require.NoError(t, err)
		invariants(t, s.tree.root, nil, nil, s.tree.gen)
		return s, leases, n.Load()
	}
	one, leases, _ := load(Parallel{})
	require.IsIncreasing(t, leases)
	want := chains(one)
	for parts := range 20 {
		s, l, _ := load(Parallel{Parts: parts, Run: beside})
		require.Equal(t, leases, l)
		require.Equal(t, want, chains(s))
		require.Equal(t, []int64{one.current, one.keys, one.bytes, int64(one.tree.size)},
			[]int64{s.current, s.keys, s.bytes, int64(s.tree.size)})
	}
}

// A history that is shorter than its parts, and none at all.
func TestLoadOfLittle(t *testing.T) {
	for changes := range 6 {
		eng := written(t, 2, changes)
		s, err := LoadParallel(eng, Parallel{Parts: 8, Run: beside}, nil, nil)
		require.NoError(t, err)
		one, err := Load(eng, nil, nil)
		require.NoError(t, err)
		require.Equal(t, chains(one), chains(s))
		require.Equal(t, one.current, s.current)
	}
}

// Damage in any part is found and named.
func TestLoadInPartsRefusesDamage(t *testing.T) {
	for _, main := range []int64{2, 500, 900} {
		eng := written(t, 1000, 1000)
		batch := &engine.Batch{}
		batch.Put(Revision{main, 9}.EngineKey(false), []byte{0xff})
		require.NoError(t, eng.Commit(batch))
		_, err := LoadParallel(eng, Parallel{Parts: 4, Run: beside}, nil, nil)
		require.ErrorIs(t, err, ErrDamaged)
		require.ErrorContains(t, err, fmt.Sprintf("revision %d.9", main))
	}
}

// A key that is no revision is damage wherever it is: the first, one in the middle, the last.
func TestLoadRefusesWrongKeys(t *testing.T) {
	for _, key := range []string{"\x00", string(Revision{Main: 500}.EngineKey(false)) + "xy", "\x7f"} {
		eng := written(t, 1000, 1000)
		batch := &engine.Batch{}
		batch.Put([]byte(key), nil)
		require.NoError(t, eng.Commit(batch))
		_, err := LoadParallel(eng, Parallel{Parts: 4, Run: beside}, nil, nil)
		require.ErrorIs(t, err, ErrDamaged, "%q", key)
	}
}

// BenchmarkLoad opens a store of a million keys that were written in random order.
func BenchmarkLoad(b *testing.B) {
	eng := openEngine(b)
	batch := &engine.Batch{}
	value := make([]byte, 256)
	for i, k := range rand.New(rand.NewPCG(1, 2)).Perm(1_000_000) {
		rev := int64(i + 2)
		kv := KeyValue{
			Key: fmt.Appendf(nil, "/registry/pods/namespace-%02d/pod-%08d", k%100, k/100), Value: value,
			Create: rev, Mod: rev, Ver: 1,
		}
		batch.Put(Revision{Main: rev}.EngineKey(false), kv.Encode())
		if i%1000 == 999 {
			require.NoError(b, eng.Commit(batch))
			batch.Reset()
		}
	}
	for _, parts := range []int{1, 2, 4} {
		b.Run(fmt.Sprintf("parts=%d", parts), func(b *testing.B) {
			for b.Loop() {
				if _, err := LoadParallel(eng, Parallel{Parts: parts, Run: beside}, nil, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
