package mvcc

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// filled is a store of n keys "key-00000000" on, with values of 100 bytes.
func filled(t testing.TB, n int) (*Store, engine.Engine) {
	eng := openEngine(t)
	s, err := Load(eng, nil, nil)
	require.NoError(t, err)
	value := make([]byte, 100)
	batch := &engine.Batch{}
	s.Begin(batch)
	for i := range n {
		txn := s.Txn()
		_, err := txn.Put(benchKey(i), value, 0)
		require.NoError(t, err)
		txn.End()
	}
	require.NoError(t, eng.Commit(batch))
	return s, eng
}

func benchKey(i int) []byte { return fmt.Appendf(nil, "key-%08d", i) }

// A read of resident keys allocates its result and the list it is made from, and nothing for a key.
func TestReadsDoNotAllocatePerKey(t *testing.T) {
	s, _ := filled(t, 2000)
	v := s.Publish()
	allocations := func(o RangeOptions) float64 {
		return testing.AllocsPerRun(50, func() {
			if _, err := v.Range(o); err != nil {
				t.Error(err)
			}
		})
	}
	require.LessOrEqual(t, allocations(RangeOptions{Key: benchKey(77)}), 1.0, "the slice of one result")
	few := allocations(RangeOptions{Key: benchKey(0), End: []byte{0}, Limit: 5})
	require.LessOrEqual(t, few, 6.0)
	require.Equal(t, few, allocations(RangeOptions{Key: benchKey(0), End: []byte{0}, Limit: 1500}))
	require.LessOrEqual(t, allocations(RangeOptions{Key: benchKey(10), End: benchKey(1900), CountOnly: true}), 1.0)
}

func BenchmarkGet(b *testing.B) {
	s, _ := filled(b, 100_000)
	v := s.Publish()
	o := RangeOptions{Key: benchKey(54_321)}
	b.ReportAllocs()
	for b.Loop() {
		if res, err := v.Range(o); err != nil || res.Count != 1 {
			b.Fatal(res, err)
		}
	}
}

func BenchmarkRange500Of100k(b *testing.B) {
	s, _ := filled(b, 100_000)
	v := s.Publish()
	o := RangeOptions{Key: benchKey(10_000), End: []byte{0}, Limit: 500}
	b.ReportAllocs()
	for b.Loop() {
		if res, err := v.Range(o); err != nil || len(res.KVs) != 500 {
			b.Fatal(len(res.KVs), err)
		}
	}
}

func BenchmarkCount100k(b *testing.B) {
	s, _ := filled(b, 100_000)
	v := s.Publish()
	o := RangeOptions{Key: benchKey(1), End: benchKey(99_999), CountOnly: true}
	b.ReportAllocs()
	for b.Loop() {
		if res, err := v.Range(o); err != nil || res.Count != 99_998 {
			b.Fatal(res.Count, err)
		}
	}
}

// BenchmarkPut measures the store alone, in turns of 100 puts whose commit is not counted.
func BenchmarkPut(b *testing.B) {
	value := make([]byte, 100)
	run := func(b *testing.B, key func(i int) []byte) {
		s, eng := filled(b, 100_000)
		s.Publish()
		batch := &engine.Batch{}
		s.Begin(batch)
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			txn := s.Txn()
			if _, err := txn.Put(key(i), value, 0); err != nil {
				b.Fatal(err)
			}
			txn.End()
			if i++; i%100 == 0 {
				b.StopTimer()
				if err := eng.Commit(batch); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				s.Publish()
				batch.Reset()
				s.Begin(batch)
			}
		}
	}
	b.Run("existing", func(b *testing.B) { run(b, func(i int) []byte { return benchKey(i * 7919 % 100_000) }) })
	b.Run("new", func(b *testing.B) { run(b, func(i int) []byte { return benchKey(100_000 + i) }) })
}

// forgetful is an engine that holds nothing, so that what is measured is the key space alone.
type forgetful struct{ engine.Engine }

func (forgetful) Commit(*engine.Batch) error { return nil }

// BenchmarkMemory loads a million keys of 40 bytes with values of 256, in random order, and says what each
// costs: with its value, and without the encoded KeyValue; and how long a collection of all that takes.
func BenchmarkMemory(b *testing.B) {
	const n = 1_000_000
	for b.Loop() {
		before := heap()
		s, err := Load(forgetful{openEngine(b)}, nil, nil)
		if err != nil {
			b.Fatal(err)
		}
		value := make([]byte, 256)
		batch := &engine.Batch{}
		encoded := 0
		for i, k := range rand.New(rand.NewPCG(1, 2)).Perm(n) {
			if i%100 == 0 {
				s.Publish()
				batch.Reset()
				s.Begin(batch)
			}
			txn := s.Txn()
			if _, err := txn.Put(fmt.Appendf(nil, "/registry/pods/namespace-%02d/pod-%08d", k%100, k/100), value, 0); err != nil {
				b.Fatal(err)
			}
			txn.End()
			encoded += len(s.Events()[i%100].KV)
		}
		s.Begin(&engine.Batch{})
		s.recent = recent{bounds: defaultBounds()}
		s.keep()
		after := heap()
		start := time.Now()
		runtime.GC()
		b.ReportMetric(float64(time.Since(start).Microseconds())/1000, "ms/GC")
		used := float64(after.HeapAlloc - before.HeapAlloc)
		b.ReportMetric(used/n, "B/key")
		b.ReportMetric((used-float64(encoded))/n, "B/key-without-KV")
		b.ReportMetric(float64(after.HeapObjects-before.HeapObjects)/n, "objects/key")
		runtime.KeepAlive(s)
	}
}

func heap() (m runtime.MemStats) {
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m
}
