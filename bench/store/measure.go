package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Steps that a process of its own measures.
const (
	stepLoad = "load"
	stepOpen = "open"
)

// Units of figures.
const (
	unitSeconds      = "s"
	unitMilliseconds = "ms"
	unitMicroseconds = "us"
	unitBytes        = "B/key"
	unitObjects      = "/key"
)

// figure is one measured value.
type figure struct {
	Name, Unit string
	Value      float64
}

// table gathers the figures of both stores.
type table struct {
	rows []*row
}

type row struct {
	name, unit string
	values     map[string][]float64
}

func newTable() *table { return &table{} }

func (t *table) add(name, unit, store string, value float64) {
	i := slices.IndexFunc(t.rows, func(r *row) bool { return r.name == name })
	if i < 0 {
		i = len(t.rows)
		t.rows = append(t.rows, &row{name: name, unit: unit, values: map[string][]float64{}})
	}
	t.rows[i].values[store] = append(t.rows[i].values[store], value)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// keySize is the length of a key, that of a Kubernetes pod's without a long namespace.
const keySize = 40

func key(i int) []byte {
	return fmt.Appendf(nil, "/registry/pods/namespace-%02d/pod-%08d", i%100, i/100)
}

// fill puts n keys in an order that is random and the same for both stores.
func fill(s store, n, valueSize int) error {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, i := range rng.Perm(n) {
		value := make([]byte, valueSize)
		for j := range value {
			value[j] = byte(rng.Uint32())
		}
		if err := s.put(key(i), value); err != nil {
			return err
		}
	}
	return s.flush()
}

// measureStep loads a store in dir or opens the one that is there, and says what that took and what it holds.
func measureStep(o options, step, name string) ([]figure, error) {
	start := time.Now()
	s, err := open(name, o.engine, o.dir)
	if err != nil {
		return nil, err
	}
	if step == stepLoad {
		if err := fill(s, o.keys, o.valueSize); err != nil {
			return nil, err
		}
	}
	took := time.Since(start).Seconds()
	if n, err := s.count(everything, 0); err != nil || n != o.keys {
		return nil, fmt.Errorf("%d keys, want %d: %w", n, o.keys, err)
	}
	s.settle()
	m, err := held(step, o.keys)
	if err != nil {
		return nil, err
	}
	if step == stepLoad {
		m = append(m, figure{step + ": disk", unitBytes, float64(diskBytes(o.dir)) / float64(o.keys)})
	}
	runtime.KeepAlive(s)
	return append([]figure{{step, unitSeconds, took}}, m...), s.close()
}

// held says what the process holds after a collection, and how long one takes.
func held(step string, keys int) ([]figure, error) {
	debug.FreeOSMemory()
	start := time.Now()
	runtime.GC()
	gc := time.Since(start)
	debug.FreeOSMemory()
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	anon, file, err := resident()
	n := float64(keys)
	return []figure{
		{step + ": heap", unitBytes, float64(ms.HeapAlloc) / n},
		{step + ": heap objects", unitObjects, float64(ms.HeapObjects) / n},
		{step + ": RssAnon", unitBytes, anon / n},
		{step + ": RssFile", unitBytes, file / n},
		{step + ": collection", unitMilliseconds, float64(gc.Microseconds()) / 1000},
	}, err
}

// resident reads what of the process is in memory, in bytes: its own, and mapped files.
func resident() (anon, file float64, err error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, 0, err
	}
	for line := range bytes.Lines(status) {
		words := strings.Fields(string(line))
		if len(words) != 3 || words[0] != "RssAnon:" && words[0] != "RssFile:" {
			continue
		}
		kib, err := strconv.ParseFloat(words[1], 64)
		if err != nil {
			return 0, 0, err
		}
		if words[0] == "RssAnon:" {
			anon = kib * 1024
		} else {
			file = kib * 1024
		}
	}
	return anon, file, nil
}

// diskBytes is the size of the files below dir.
func diskBytes(dir string) (sum int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // an engine may remove files meanwhile
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			sum += info.Size()
		}
		return nil
	})
	return sum
}

// timed returns how long one call of fn takes in microseconds: the mean over a tenth of a second or more.
func timed(fn func() error) (float64, error) {
	calls, start := 0, time.Now()
	for {
		if err := fn(); err != nil {
			return 0, err
		}
		calls++
		if took := time.Since(start); took > 100*time.Millisecond {
			return float64(took.Nanoseconds()) / 1000 / float64(calls), nil
		}
	}
}
