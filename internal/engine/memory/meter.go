package memory

import (
	"io"
	"sync/atomic"
)

// countingReader counts the bytes that were read.
type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// meteredFile writes to a file, syncs it every syncEvery bytes, and shows its growing size in a meter.
type meteredFile struct {
	f     File
	n     int64
	dirty int64
	meter *atomic.Int64
}

func (m *meteredFile) Write(p []byte) (int, error) {
	n, err := m.f.Write(p)
	m.n += int64(n)
	m.dirty += int64(n)
	m.meter.Add(int64(n))
	if err == nil && m.dirty >= syncEvery {
		m.dirty = 0
		err = m.f.Sync()
	}
	return n, err
}

// discount takes the file's size off the meter: it has become the live checkpoint, or is gone.
func (m *meteredFile) discount() { m.meter.Add(-m.n) }
