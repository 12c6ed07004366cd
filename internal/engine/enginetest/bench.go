package enginetest

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// Benchmark measures an engine: a turn of commits, reads by exact key, and a page of a scan.
func Benchmark(b *testing.B, h Harness) {
	b.Run("Commit256x300B", func(b *testing.B) { benchCommit(b, h, 256) })
	b.Run("Commit1x300B", func(b *testing.B) { benchCommit(b, h, 1) })
	b.Run("Get", func(b *testing.B) { benchGet(b, h) })
	b.Run("Scan500", func(b *testing.B) { benchScan(b, h) })
	b.Run("Stats", func(b *testing.B) {
		e := filled(b, h)
		for b.Loop() {
			e.Stats()
		}
	})
}

const (
	benchKeys  = 100_000
	valueBytes = 300
)

func revisionKey(main uint64) []byte {
	k := make([]byte, 17)
	binary.BigEndian.PutUint64(k, main)
	k[8] = '_'
	return k
}

func benchCommit(b *testing.B, h Harness, ops int) {
	e := open(b, h.NewDisk())
	b.SetBytes(int64(ops * valueBytes))
	b.ReportAllocs()
	var batch engine.Batch
	rev := uint64(0)
	for b.Loop() {
		for range ops {
			rev++
			batch.Put(revisionKey(rev), make([]byte, valueBytes))
		}
		batch.Put(counterKey, binary.BigEndian.AppendUint64(nil, rev))
		if err := e.Commit(&batch); err != nil {
			b.Fatal(err)
		}
		batch.Reset()
	}
}

// filled returns an engine with benchKeys flushed revisions.
func filled(b *testing.B, h Harness) engine.Engine {
	b.Helper()
	e := open(b, h.NewDisk())
	var batch engine.Batch
	for rev := range uint64(benchKeys) {
		batch.Put(revisionKey(rev+1), make([]byte, valueBytes))
		if batch.Len() == 1000 {
			require.NoError(b, e.Commit(&batch))
			batch.Reset()
		}
	}
	require.NoError(b, e.Flush())
	return e
}

func benchGet(b *testing.B, h Harness) {
	e := filled(b, h)
	b.ReportAllocs()
	n := uint64(0)
	for b.Loop() {
		// A stride that visits all keys far from one another.
		n = (n + 61_803) % benchKeys
		if _, err := e.Get(revisionKey(n + 1)); err != nil {
			b.Fatal(err)
		}
	}
}

func benchScan(b *testing.B, h Harness) {
	e := filled(b, h)
	s, err := e.Snapshot()
	require.NoError(b, err)
	b.ReportAllocs()
	n := uint64(0)
	for b.Loop() {
		n = (n + 61_803) % (benchKeys - 500)
		left := 500
		err := s.Scan(revisionKey(n+1), nil, false, func(_, _ []byte) bool { left--; return left > 0 })
		if err != nil || left > 0 {
			b.Fatal(err, left)
		}
	}
	require.NoError(b, s.Close())
}
