package interchange

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// The layout of a bbolt file: pages, of which some span several. Numbers are in the machine's order.
//
//	page    | id 8 B | flags 2 B | count 2 B | overflow 4 B | ... |
//	meta    | page | magic 4 B | version 4 B | page size 4 B | flags 4 B | root 16 B | freelist 8 B |
//	        | pages 8 B | transaction 8 B | FNV-1a of what is between page and here, 8 B |
//	branch  | page | count times: key's offset 4 B, key's length 4 B, page 8 B | keys |
//	leaf    | page | count times: flags 4 B, key's offset 4 B, key's length 4 B, value's length 4 B | keys and values |
//	bucket  | root page 8 B, 0 if the bucket's only page follows | sequence 8 B | page |
const (
	pageHeader  = 16
	elementSize = 16
	metaSize    = 64
	metaMagic   = 0xED0CDAED
	metaVersion = 2
	bucketSize  = 16

	flagBranch     = 0x01
	flagLeaf       = 0x02
	flagFreelist   = 0x10
	flagBucketLeaf = 0x01

	noFreelist = ^uint64(0)
)

const (
	// maxPageBytes bounds what is read at a time. A page is as large as its largest records, and those are
	// requests, which are far smaller.
	maxPageBytes = 256 << 20
	// maxDepth is more than any tree of pages has, of which each refers to at least two.
	maxDepth = 64
)

// pages checks that every page of a file is where it is referred to, once, and of the kind it must be, and
// that nothing in it lies outside of it. bbolt maps the file and follows references as they are: one flipped
// bit would end the process.
type pages struct {
	r        io.ReaderAt
	size     int64 // of the file
	pageSize int64
	end      uint64 // the first page that is not in use
	seen     []uint64
	buf      []byte
}

// pageError says which page is damaged.
func (p *pages) bad(id uint64, format string, args ...any) error {
	return fmt.Errorf("%w: page %d at offset %d: %s", ErrDamaged, id, int64(id)*p.pageSize, fmt.Sprintf(format, args...))
}

// checkPages reads every page that a file uses and returns the size of what it uses in bytes.
func checkPages(r io.ReaderAt, size int64, pageSize int) (int64, error) {
	p := &pages{r: r, size: size, pageSize: int64(pageSize)}
	root, freelist, err := p.meta()
	if err != nil {
		return 0, err
	}
	used := int64(p.end) * p.pageSize
	if used > size {
		return 0, fmt.Errorf("%w: it is cut off: %d bytes of %d are there", ErrDamaged, size, used)
	}
	p.seen = make([]uint64, p.end/64+1)
	p.mark(0)
	p.mark(1)
	if freelist != noFreelist {
		if err := p.freelist(freelist); err != nil {
			return 0, err
		}
	}
	return used, p.tree(root, 0, true, new([]byte))
}

// meta reads the newer of the two meta pages that is whole.
func (p *pages) meta() (root, freelist uint64, err error) {
	var newest uint64
	found := false
	for id := range int64(2) {
		b := make([]byte, metaSize)
		if _, err := p.r.ReadAt(b, id*p.pageSize+pageHeader); err != nil {
			if errors.Is(err, io.EOF) {
				continue
			}
			return 0, 0, err
		}
		sum := fnv.New64a()
		_, _ = sum.Write(b[:metaSize-8])
		n := binary.NativeEndian
		if n.Uint32(b) != metaMagic || n.Uint32(b[4:]) != metaVersion || n.Uint64(b[56:]) != sum.Sum64() ||
			int64(n.Uint32(b[8:])) != p.pageSize {
			continue
		}
		if txid := n.Uint64(b[48:]); !found || txid > newest {
			found, newest = true, txid
			root, freelist, p.end = n.Uint64(b[16:]), n.Uint64(b[32:]), n.Uint64(b[40:])
		}
	}
	switch {
	case !found:
		return 0, 0, fmt.Errorf("%w: neither of its two first pages is whole", ErrDamaged)
	case p.end < 3 || p.end > uint64(maxFileBytes/p.pageSize):
		return 0, 0, fmt.Errorf("%w: it claims to have %d pages", ErrDamaged, p.end)
	}
	return root, freelist, nil
}

// maxFileBytes keeps offsets away from overflow. bbolt's own limit is lower.
const maxFileBytes = 1 << 50

// mark reports whether a page was met before, and notes that it was now.
func (p *pages) mark(id uint64) bool {
	word, bit := id/64, uint64(1)<<(id%64)
	met := p.seen[word]&bit != 0
	p.seen[word] |= bit
	return met
}

// page reads a page with what it spans; the bytes are valid until the next call.
func (p *pages) page(id uint64) ([]byte, error) {
	if id < 2 || id >= p.end {
		return nil, fmt.Errorf("%w: page %d is referred to, of %d pages", ErrDamaged, id, p.end)
	}
	var head [pageHeader]byte
	if _, err := p.r.ReadAt(head[:], int64(id)*p.pageSize); err != nil {
		return nil, err
	}
	if got := binary.NativeEndian.Uint64(head[:]); got != id {
		return nil, p.bad(id, "it says that it is page %d", got)
	}
	span := uint64(binary.NativeEndian.Uint32(head[12:])) + 1
	if span > p.end-id || span*uint64(p.pageSize) > maxPageBytes {
		return nil, p.bad(id, "it claims to span %d pages", span)
	}
	for i := range span {
		if p.mark(id + i) {
			return nil, p.bad(id+i, "it is referred to twice")
		}
	}
	n := int(span) * int(p.pageSize)
	if cap(p.buf) < n {
		p.buf = make([]byte, n)
	}
	p.buf = p.buf[:n]
	_, err := p.r.ReadAt(p.buf, int64(id)*p.pageSize)
	return p.buf, err
}

// freelist checks the page that lists the unused ones.
func (p *pages) freelist(id uint64) error {
	b, err := p.page(id)
	if err != nil {
		return err
	}
	n := binary.NativeEndian
	if n.Uint16(b[8:]) != flagFreelist {
		return p.bad(id, "it is no list of free pages")
	}
	count, at := uint64(n.Uint16(b[10:])), pageHeader
	if count == 0xFFFF { // too many for the header
		count, at = n.Uint64(b[at:]), at+8
	}
	if count > uint64(len(b)-at)/8 {
		return p.bad(id, "it claims to list %d free pages", count)
	}
	for i := range int(count) {
		if free := n.Uint64(b[at+8*i:]); free < 2 || free >= p.end {
			return p.bad(id, "it lists page %d as free, of %d pages", free, p.end)
		}
	}
	return nil
}

// tree checks a page and all below it. top says that they are of the root bucket, in which all values are
// buckets; last is the newest key met in the bucket.
func (p *pages) tree(id uint64, depth int, top bool, last *[]byte) error {
	if depth > maxDepth {
		return p.bad(id, "it is %d levels deep", depth)
	}
	b, err := p.page(id)
	if err != nil {
		return err
	}
	switch flags := binary.NativeEndian.Uint16(b[8:]); flags {
	case flagBranch:
		children, err := p.branch(id, b)
		if err != nil {
			return err
		}
		for _, child := range children {
			if err := p.tree(child, depth+1, top, last); err != nil {
				return err
			}
		}
		return nil
	case flagLeaf:
		roots, err := p.leaf(id, b, top, last)
		if err != nil {
			return err
		}
		for _, root := range roots {
			if err := p.tree(root, depth+1, false, new([]byte)); err != nil {
				return err
			}
		}
		return nil
	default:
		return p.bad(id, "it is neither branch nor leaf (flags %#x)", flags)
	}
}

// branch returns the pages below a branch page.
func (p *pages) branch(id uint64, b []byte) ([]uint64, error) {
	n := binary.NativeEndian
	count := int(n.Uint16(b[10:]))
	if count == 0 || pageHeader+count*elementSize > len(b) {
		return nil, p.bad(id, "it claims to have %d entries", count)
	}
	children := make([]uint64, count)
	for i := range count {
		at := pageHeader + i*elementSize
		if _, ok := slice(b, at, n.Uint32(b[at:]), n.Uint32(b[at+4:])); !ok {
			return nil, p.bad(id, "the key of entry %d lies outside of it", i)
		}
		children[i] = n.Uint64(b[at+8:])
	}
	return children, nil
}

// slice returns the n bytes that lie offset behind the element at.
func slice(b []byte, at int, offset, n uint32) ([]byte, bool) {
	from := uint64(at) + uint64(offset)
	to := from + uint64(n)
	if to > uint64(len(b)) {
		return nil, false
	}
	return b[from:to], true
}

// leaf checks the records of a leaf page and returns the root pages of the buckets in it.
func (p *pages) leaf(id uint64, b []byte, top bool, last *[]byte) (roots []uint64, err error) {
	n := binary.NativeEndian
	count := int(n.Uint16(b[10:]))
	if pageHeader+count*elementSize > len(b) {
		return nil, p.bad(id, "it claims to have %d records", count)
	}
	for i := range count {
		at := pageHeader + i*elementSize
		keyLen := n.Uint32(b[at+8:])
		key, ok := slice(b, at, n.Uint32(b[at+4:]), keyLen)
		if !ok || keyLen == 0 {
			return nil, p.bad(id, "the key of record %d lies outside of it", i)
		}
		value, ok := slice(b, at, n.Uint32(b[at+4:])+keyLen, n.Uint32(b[at+12:]))
		if !ok {
			return nil, p.bad(id, "the value of record %d, key %q, lies outside of it", i, key)
		}
		if bytes.Compare(key, *last) <= 0 && *last != nil {
			return nil, p.bad(id, "record %d, key %q, is not in order", i, key)
		}
		*last = append((*last)[:0], key...)
		if isBucket := n.Uint32(b[at:])&flagBucketLeaf != 0; isBucket != top {
			return nil, p.bad(id, "record %d, key %q, is a bucket where a record must be, or the other way round", i, key)
		}
		if !top {
			continue
		}
		if len(value) < bucketSize {
			return nil, p.bad(id, "bucket %q has a header of %d bytes", key, len(value))
		}
		if root := n.Uint64(value); root != 0 {
			roots = append(roots, root)
		} else if err := p.inline(id, key, value[bucketSize:]); err != nil {
			return nil, err
		}
	}
	return roots, nil
}

// inline checks the page of a bucket that is so small that it lies within the record of the bucket.
func (p *pages) inline(id uint64, name, b []byte) error {
	if len(b) < pageHeader || binary.NativeEndian.Uint16(b[8:]) != flagLeaf {
		return p.bad(id, "bucket %q has no page", name)
	}
	_, err := p.leaf(id, b, false, new([]byte))
	return err
}
