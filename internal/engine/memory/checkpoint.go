package memory

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// A checkpoint file holds one version of the tree. Integers are little-endian, checksums CRC32C.
//
//	header   +------------------+-------------+------------+-----------+
//	         | "DOLMENCP", 8 B  | format, 4 B | number, 8 B| crc, 4 B  |   crc of the 20 bytes before it
//	         +------------------+-------------+------------+-----------+
//	block    +-------------+-----------+--------------------------------+
//	  (0..n) | length, 4 B | crc, 4 B  | length B of entries, length > 0|   crc of the length and the entries
//	         +-------------+-----------+--------------------------------+
//	           entry = uvarint len(key), uvarint len(value), key, value
//	footer   +-------------+------------+------------+
//	         | zero, 4 B   | count, 8 B | total, 4 B |                      total: crc of all bytes before it
//	         +-------------+------------+------------+
//
// Keys ascend strictly over the whole file. An entry never crosses blocks, so a large one makes a block
// of its own. number is the one in the file's name. Nothing follows the footer.
//
// The block checksums say where damage is and keep the reader from believing a length. The total says
// that no block is missing, doubled or from another file.
const (
	magic         = "DOLMENCP"
	formatVersion = 1
	headerSize    = 24
	footerSize    = 16

	// blockSize is the size of the entries after which a block is closed, in bytes: large enough for the
	// disk, and all that writing a checkpoint holds in memory besides the tree.
	blockSize = 256 << 10

	// maxEntrySize limits an entry, and thereby a block, in bytes. Commit refuses what is larger. Requests
	// that large are refused long before; the limit keeps a damaged length from being believed.
	maxEntrySize = 1 << 30
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errFormat says that the file is of a format this program does not know.
var errFormat = errors.New("unknown checkpoint format")

// checkpointWriter writes one checkpoint and counts its bytes and its total checksum on the way.
type checkpointWriter struct {
	w     io.Writer
	total hash.Hash32
	block []byte
	count uint64
}

func newCheckpointWriter(w io.Writer, number uint64) (*checkpointWriter, error) {
	c := &checkpointWriter{w: w, total: crc32.New(castagnoli), block: make([]byte, blockHeader, blockSize+blockSize/8)}
	h := make([]byte, 0, headerSize)
	h = append(h, magic...)
	h = binary.LittleEndian.AppendUint32(h, formatVersion)
	h = binary.LittleEndian.AppendUint64(h, number)
	h = binary.LittleEndian.AppendUint32(h, crc32.Checksum(h, castagnoli))
	return c, c.write(h)
}

// blockHeader is the size of a block's length and checksum, in bytes.
const blockHeader = 8

func (c *checkpointWriter) write(b []byte) error {
	c.total.Write(b)
	_, err := c.w.Write(b)
	return err
}

// add appends an entry. Keys must ascend.
func (c *checkpointWriter) add(key, value []byte) error {
	c.count++
	c.block = binary.AppendUvarint(c.block, uint64(len(key)))
	c.block = binary.AppendUvarint(c.block, uint64(len(value)))
	c.block = append(c.block, key...)
	if len(value) >= blockSize {
		// The value goes out as it is: copying it would make the buffer as large.
		return c.closeBlock(value)
	}
	c.block = append(c.block, value...)
	if len(c.block) >= blockSize {
		return c.closeBlock(nil)
	}
	return nil
}

// closeBlock writes the block with tail after what is in the buffer.
func (c *checkpointWriter) closeBlock(tail []byte) error {
	if len(c.block) == blockHeader {
		return nil
	}
	binary.LittleEndian.PutUint32(c.block, uint32(len(c.block)-blockHeader+len(tail)))
	crc := crc32.Checksum(c.block[:4], castagnoli)
	crc = crc32.Update(crc, castagnoli, c.block[blockHeader:])
	binary.LittleEndian.PutUint32(c.block[4:], crc32.Update(crc, castagnoli, tail))
	err := c.write(c.block)
	c.block = c.block[:blockHeader]
	if cap(c.block) > 2*blockSize {
		c.block = make([]byte, blockHeader, blockSize+blockSize/8)
	}
	if err != nil || tail == nil {
		return err
	}
	return c.write(tail)
}

// finish writes the footer.
func (c *checkpointWriter) finish() error {
	if err := c.closeBlock(nil); err != nil {
		return err
	}
	f := make([]byte, 0, footerSize)
	f = binary.LittleEndian.AppendUint32(f, 0)
	f = binary.LittleEndian.AppendUint64(f, c.count)
	c.total.Write(f)
	f = binary.LittleEndian.AppendUint32(f, c.total.Sum32())
	_, err := c.w.Write(f)
	return err
}

// readCheckpoint reads a checkpoint and calls add for every entry, in order; the slices are add's to
// keep. What add was given counts only if readCheckpoint returns nil: the total comes last. Errors are
// engine.ErrCorrupt for bytes that cannot be right, errFormat for another program's file, and the
// reader's own.
func readCheckpoint(r io.Reader, number uint64, add func(key, value []byte)) error {
	c := &checkpointReader{r: bufio.NewReaderSize(r, blockSize), total: crc32.New(castagnoli)}
	if err := c.header(number); err != nil {
		return err
	}
	for {
		block, err := c.next()
		if err != nil {
			return err
		}
		if block == nil {
			return c.footer()
		}
		if err := c.entries(block, add); err != nil {
			return err
		}
	}
}

type checkpointReader struct {
	r      *bufio.Reader
	total  hash.Hash32
	offset int64
	buf    bytes.Buffer
	count  uint64
	last   []byte
}

func (c *checkpointReader) corrupt(format string, args ...any) error {
	return fmt.Errorf("%w before offset %d: %s", engine.ErrCorrupt, c.offset, fmt.Sprintf(format, args...))
}

// read returns the next n bytes, valid until the next call. It believes n only as far as bytes arrive:
// the buffer grows with them.
func (c *checkpointReader) read(n int64) ([]byte, error) {
	c.buf.Reset()
	got, err := c.buf.ReadFrom(io.LimitReader(c.r, n))
	c.offset += got
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	if got < n {
		return nil, c.corrupt("file ends %d bytes early", n-got)
	}
	return c.buf.Bytes(), nil
}

func (c *checkpointReader) header(number uint64) error {
	h, err := c.read(headerSize)
	if err != nil {
		return err
	}
	if string(h[:8]) != magic {
		return c.corrupt("not a checkpoint: it begins with %q", h[:8])
	}
	if binary.LittleEndian.Uint32(h[20:]) != crc32.Checksum(h[:20], castagnoli) {
		return c.corrupt("header checksum does not match")
	}
	if v := binary.LittleEndian.Uint32(h[8:]); v != formatVersion {
		return fmt.Errorf("%w %d, this program reads %d: start the version that wrote it", errFormat, v, formatVersion)
	}
	if n := binary.LittleEndian.Uint64(h[12:]); n != number {
		return c.corrupt("it is checkpoint %d under the name of %d", n, number)
	}
	c.total.Write(h)
	return nil
}

// next returns the entries of the next block, or nil if the footer is next.
func (c *checkpointReader) next() ([]byte, error) {
	b, err := c.read(4)
	if err != nil {
		return nil, err
	}
	c.total.Write(b)
	crc := crc32.Checksum(b, castagnoli)
	length := binary.LittleEndian.Uint32(b)
	if length == 0 {
		return nil, nil
	}
	if length > maxEntrySize+blockSize {
		return nil, c.corrupt("impossible block length %d", length)
	}
	if b, err = c.read(4); err != nil {
		return nil, err
	}
	c.total.Write(b)
	want := binary.LittleEndian.Uint32(b)
	if b, err = c.read(int64(length)); err != nil {
		return nil, err
	}
	c.total.Write(b)
	if crc32.Update(crc, castagnoli, b) != want {
		return nil, c.corrupt("block checksum does not match")
	}
	return b, nil
}

func (c *checkpointReader) entries(b []byte, add func(key, value []byte)) error {
	for len(b) > 0 {
		klen, n := binary.Uvarint(b)
		if n <= 0 {
			return c.corrupt("bad key length")
		}
		vlen, m := binary.Uvarint(b[n:])
		if m <= 0 {
			return c.corrupt("bad value length")
		}
		b = b[n+m:]
		if klen == 0 || klen > uint64(len(b)) || vlen > uint64(len(b))-klen {
			return c.corrupt("entry of %d and %d bytes in %d", klen, vlen, len(b))
		}
		// One allocation for both, and not a part of the block: it would keep the whole block alive
		// for as long as its last entry.
		kv := bytes.Clone(b[:klen+vlen])
		b = b[klen+vlen:]
		key, value := kv[:klen:klen], kv[klen:]
		if bytes.Compare(c.last, key) >= 0 {
			return c.corrupt("keys out of order")
		}
		c.last = key
		c.count++
		add(key, value)
	}
	return nil
}

func (c *checkpointReader) footer() error {
	f, err := c.read(footerSize - 4)
	if err != nil {
		return err
	}
	c.total.Write(f[:8])
	if n := binary.LittleEndian.Uint64(f); n != c.count {
		return c.corrupt("%d entries, the footer says %d", c.count, n)
	}
	if binary.LittleEndian.Uint32(f[8:]) != c.total.Sum32() {
		return c.corrupt("total checksum does not match")
	}
	switch _, err := c.r.ReadByte(); {
	case err == nil:
		return c.corrupt("bytes after the footer")
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("read: %w", err)
	}
	return nil
}
