package memory

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
)

const testNumber = 7

func encodeEntries(t testing.TB, number uint64, entries []entry) []byte {
	t.Helper()
	var out bytes.Buffer
	c, err := newCheckpointWriter(&out, number)
	require.NoError(t, err)
	for _, e := range entries {
		require.NoError(t, c.add(e.key, e.value))
	}
	require.NoError(t, c.finish())
	return out.Bytes()
}

func decode(b []byte) (entries []entry, err error) {
	err = readCheckpoint(bytes.NewReader(b), testNumber, func(k, v []byte) { entries = append(entries, entry{k, v}) })
	return entries, err
}

func smallEntries() (entries []entry) {
	for i := range 20 {
		entries = append(entries, entry{fmt.Appendf(nil, "key%02d", i), bytes.Repeat([]byte{byte(i)}, i)})
	}
	return entries
}

func TestCheckpointRoundTrip(t *testing.T) {
	var blocks []entry
	for i := range 3000 {
		blocks = append(blocks, entry{fmt.Appendf(nil, "key%05d", i), bytes.Repeat([]byte{byte(i)}, 300)})
	}
	for _, test := range []struct {
		name    string
		entries []entry
	}{
		{"empty", nil},
		{"small", smallEntries()},
		{"several blocks", blocks},
		{"values larger than a block", []entry{
			{[]byte("a"), bytes.Repeat([]byte("x"), blockSize)},
			{[]byte("b"), []byte("small")},
			{[]byte("c"), bytes.Repeat([]byte("y"), 3*blockSize+1)},
		}},
		{"key larger than a block", []entry{{bytes.Repeat([]byte("k"), 3*blockSize), []byte("v")}, {[]byte("z"), []byte("w")}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := encodeEntries(t, testNumber, test.entries)
			got, err := decode(b)
			require.NoError(t, err)
			require.Len(t, got, len(test.entries))
			for i, want := range test.entries {
				require.True(t, bytes.Equal(want.key, got[i].key) && bytes.Equal(want.value, got[i].value), "entry %d", i)
			}
		})
	}
}

func TestCheckpointDamage(t *testing.T) {
	sound := encodeEntries(t, testNumber, smallEntries())
	t.Run("every bit", func(t *testing.T) {
		for bit := range 8 * len(sound) {
			b := bytes.Clone(sound)
			b[bit/8] ^= 1 << (bit % 8)
			_, err := decode(b)
			require.ErrorIs(t, err, engine.ErrCorrupt, "bit %d", bit)
		}
	})
	t.Run("every length", func(t *testing.T) {
		for n := range len(sound) {
			_, err := decode(sound[:n])
			require.ErrorIs(t, err, engine.ErrCorrupt, "%d bytes", n)
		}
	})
	t.Run("a byte too many", func(t *testing.T) {
		_, err := decode(append(bytes.Clone(sound), 0))
		require.ErrorIs(t, err, engine.ErrCorrupt)
	})
	t.Run("another checkpoint's name", func(t *testing.T) {
		_, err := decode(encodeEntries(t, testNumber+1, nil))
		require.ErrorIs(t, err, engine.ErrCorrupt)
		require.ErrorContains(t, err, "checkpoint 8 under the name of 7")
	})
	t.Run("a block left out", func(t *testing.T) {
		length := binary.LittleEndian.Uint32(sound[headerSize:])
		_, err := decode(append(bytes.Clone(sound[:headerSize]), sound[headerSize+blockHeader+int(length):]...))
		require.ErrorIs(t, err, engine.ErrCorrupt)
	})
}

// withBlock returns a file whose only block holds raw bytes under correct checksums.
func withBlock(raw []byte, count uint64) []byte {
	var out bytes.Buffer
	c, _ := newCheckpointWriter(&out, testNumber)
	c.block = append(c.block, raw...)
	c.count = count
	_ = c.finish()
	return out.Bytes()
}

// What only a program could have written wrongly is refused like damage.
func TestCheckpointNonsense(t *testing.T) {
	for _, test := range []struct {
		name  string
		block string
		count uint64
		want  string
	}{
		{"sound", "\x01\x01ab", 1, ""},
		{"wrong count", "\x01\x01ab", 2, "the footer says 2"},
		{"empty key", "\x00\x01b", 1, "entry of 0"},
		{"key beyond the block", "\x05\x01ab", 1, "entry of 5"},
		{"value beyond the block", "\x01\x09ab", 1, "entry of 1 and 9"},
		{"lengths that overflow", "\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01ab", 1, "entry of 1"},
		{"unfinished key length", "\x80", 1, "bad key length"},
		{"unfinished value length", "\x01\x80", 1, "bad value length"},
		{"out of order", "\x01\x00b\x01\x00a", 2, "out of order"},
		{"same key twice", "\x01\x00a\x01\x00a", 2, "out of order"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := decode(withBlock([]byte(test.block), test.count))
			if test.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, engine.ErrCorrupt)
			require.ErrorContains(t, err, test.want)
		})
	}
}

func TestCheckpointOtherFormat(t *testing.T) {
	b := encodeEntries(t, testNumber, nil)
	binary.LittleEndian.PutUint32(b[8:], formatVersion+1)
	binary.LittleEndian.PutUint32(b[20:], crc32.Checksum(b[:20], castagnoli))
	_, err := decode(b)
	require.ErrorIs(t, err, errFormat)
	require.NotErrorIs(t, err, engine.ErrCorrupt)
	require.ErrorContains(t, err, "format 2, this program reads 1")
}

// A length that cannot be right must not be believed before its bytes are there.
func TestCheckpointHugeLength(t *testing.T) {
	b := encodeEntries(t, testNumber, nil)[:headerSize]
	for _, length := range []uint32{maxEntrySize, maxEntrySize + 2*blockSize, 1<<32 - 1} {
		file := binary.LittleEndian.AppendUint32(bytes.Clone(b), length)
		file = append(file, make([]byte, 100)...)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := decode(file)
		runtime.ReadMemStats(&after)
		require.ErrorIs(t, err, engine.ErrCorrupt)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(8*blockSize))
	}
}

func TestCheckpointReadError(t *testing.T) {
	broken := errors.New("disk is gone")
	sound := encodeEntries(t, testNumber, smallEntries())
	for _, n := range []int{0, 10, headerSize, headerSize + 2, headerSize + 50, len(sound)} {
		r := iotest.DataErrReader(&failingReader{bytes.NewReader(sound[:n]), broken})
		err := readCheckpoint(r, testNumber, func(_, _ []byte) {})
		require.ErrorIs(t, err, broken, "after %d bytes", n)
		require.NotErrorIs(t, err, engine.ErrCorrupt)
	}
}

type failingReader struct {
	r   *bytes.Reader
	err error
}

func (f *failingReader) Read(p []byte) (int, error) {
	if f.r.Len() == 0 {
		return 0, f.err
	}
	return f.r.Read(p)
}

// failingWriter takes n bytes.
type failingWriter struct{ n int }

var errFull = errors.New("disk is full")

func (w *failingWriter) Write(p []byte) (int, error) {
	if len(p) > w.n {
		return 0, errFull
	}
	w.n -= len(p)
	return len(p), nil
}

func TestCheckpointWriteError(t *testing.T) {
	entries := append(smallEntries(), entry{[]byte("z"), make([]byte, blockSize)})
	size := len(encodeEntries(t, testNumber, entries))
	for n := 0; n < size; n += 997 {
		w := &failingWriter{n}
		c, err := newCheckpointWriter(w, testNumber)
		for _, e := range entries {
			if err == nil {
				err = c.add(e.key, e.value)
			}
		}
		if err == nil {
			err = c.finish()
		}
		require.ErrorIs(t, err, errFull, "after %d of %d bytes", n, size)
	}
}

func FuzzReadCheckpoint(f *testing.F) {
	f.Add(encodeEntries(f, testNumber, nil))
	f.Add(encodeEntries(f, testNumber, smallEntries()))
	f.Add(withBlock([]byte("\x01\x00b\x01\x00a"), 2))
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := decode(b)
		if err != nil {
			require.True(t, errors.Is(err, engine.ErrCorrupt) || errors.Is(err, errFormat), "%v", err)
			return
		}
		again, err := decode(encodeEntries(t, testNumber, entries))
		require.NoError(t, err)
		require.Len(t, again, len(entries))
	})
}

// FuzzBlock reaches what lies behind the checksums.
func FuzzBlock(f *testing.F) {
	f.Add([]byte("\x01\x01ab"))
	f.Add([]byte("\x01\x00b\x01\x00a"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c := &checkpointReader{}
		var entries []entry
		err := c.entries(raw, func(k, v []byte) { entries = append(entries, entry{k, v}) })
		if err != nil {
			require.ErrorIs(t, err, engine.ErrCorrupt)
			return
		}
		got, err := decode(withBlock(raw, uint64(len(entries))))
		require.NoError(t, err)
		require.Equal(t, entries, got)
	})
}
