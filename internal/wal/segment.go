package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"google.golang.org/protobuf/encoding/protowire"
)

// segment is a file of the log.
type segment struct {
	name       string
	seq, first uint64
}

// segments returns the log's files in order of their sequence numbers. Other files are ignored, as etcd does.
func segments(dir string) ([]segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []segment
	for _, e := range entries {
		s := segment{name: e.Name()}
		if n, err := fmt.Sscanf(s.name, "%016x-%016x.wal", &s.seq, &s.first); n != 2 || err != nil || !strings.HasSuffix(s.name, ".wal") {
			continue
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b segment) int { return strings.Compare(a.name, b.name) })
	return out, nil
}

// checkSegments refuses a log of which a segment is missing.
func checkSegments(dir string) error {
	all, err := segments(dir)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("%w: there is no segment in it; %s", ErrCorrupt, advice)
	}
	for i, s := range all[1:] {
		if want := all[i].seq + 1; s.seq != want {
			return fmt.Errorf("%w: segment %016x is missing between %s and %s; %s", ErrCorrupt, want, all[i].name, s.name, advice)
		}
	}
	return nil
}

// checkFree refuses a directory that holds anything but files with one of the suffixes. It may be absent.
func checkFree(dir string, suffixes ...string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		ours := func(suffix string) bool { return e.Type().IsRegular() && strings.HasSuffix(e.Name(), suffix) }
		if !slices.ContainsFunc(suffixes, ours) {
			return fmt.Errorf("%w: %s holds %s", ErrOccupied, dir, e.Name())
		}
	}
	return nil
}

// findDamage names the first segment that does not read as it was written, or does not follow on the one before. It
// returns nothing if there is none.
func findDamage(dir string) string {
	all, err := segments(dir)
	if err != nil {
		return ""
	}
	var crc uint32
	for i, s := range all {
		path := filepath.Join(dir, s.name)
		f, err := os.Open(path)
		if err != nil {
			return path
		}
		before := crc
		var offset int64
		offset, crc, err = readableEnd(f, before)
		_ = f.Close() // it was only read
		switch torn := errors.Is(err, io.ErrUnexpectedEOF); {
		case err == nil, torn && i == len(all)-1:
		case offset == 0 && i > 0 && errors.Is(err, walpb.ErrCRCMismatch):
			return fmt.Sprintf("%s does not follow on %s, of which the end is missing, or is damaged at its beginning", path, all[i-1].name)
		default:
			return fmt.Sprintf("%s at offset %d", path, offset)
		}
	}
	return ""
}

// checkUnused fails with ErrLocked if another process has the log open.
func checkUnused(dir string) error {
	all, err := segments(dir)
	if err != nil {
		return err
	}
	f, err := fileutil.TryLockFile(filepath.Join(dir, all[len(all)-1].name), os.O_RDWR, fileutil.PrivateFileMode)
	if errors.Is(err, fileutil.ErrLocked) {
		return ErrLocked
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// Tear is where a crash has cut a write short: what begins at the offset was never acknowledged.
type Tear struct {
	Path   string
	Offset int64
}

const (
	// frameSize is the length field before each record.
	frameSize = 8
	// sectorSize is the unit that disks write whole.
	sectorSize = 512
)

// inspectEnd finds where the last segment's readable records end, and refuses the log if what ends them is not the
// work of a crash.
//
// The decoder takes a record for torn if it claims more bytes than there are or has a sector of zeros, and takes a
// length of zero for the end of the log. A flipped bit in a length field looks like either, and would cut off
// everything behind it. But length fields and records are aligned to eight bytes, so a length is never torn itself,
// and a record says by its own encoding how long it is: if it is whole and its checksum is right although its length
// is not, then the length was damaged later.
func inspectEnd(dir string) (_ *Tear, err error) {
	all, err := segments(dir)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, all[len(all)-1].name)
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	offset, crc, derr := readableEnd(f, 0)
	torn := errors.Is(derr, io.ErrUnexpectedEOF)
	if derr != nil && !torn {
		return nil, fmt.Errorf("%w: %s at offset %d: %w; %s", ErrCorrupt, path, offset, derr, advice)
	}
	if offset%frameSize != 0 {
		return nil, fmt.Errorf("%w: %s: the record that ends at offset %d has a damaged length; %s", ErrCorrupt, path, offset, advice)
	}
	damaged, err := lengthDamaged(f, offset, crc)
	if err != nil {
		return nil, err
	}
	if damaged {
		return nil, fmt.Errorf("%w: %s: the record at offset %d has a damaged length; %s", ErrCorrupt, path, offset, advice)
	}
	if !torn {
		return nil, nil
	}
	return &Tear{Path: path, Offset: offset}, nil
}

// readableEnd decodes a segment up to its end or the first record that cannot be decoded, and returns the offset
// and the running checksum there. The error is nil at the end of the log. before is the checksum at the end of the
// segment before, 0 if that is not known.
func readableEnd(f *os.File, before uint32) (offset int64, crc uint32, err error) {
	d := wal.NewDecoder(fileutil.NewFileReader(f))
	d.UpdateCRC(before)
	var rec walpb.Record
	for {
		offset, crc = d.LastOffset(), d.LastCRC()
		switch err := d.Decode(&rec); {
		case errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
			return offset, crc, nil
		case err != nil:
			return offset, crc, err
		}
		if rec.GetType() != wal.CrcType {
			continue
		}
		if crc != 0 && rec.GetCrc() != crc {
			return offset, crc, walpb.ErrCRCMismatch
		}
		d.UpdateCRC(rec.GetCrc())
	}
}

// lengthDamaged reports whether the length field at offset is wrong although the record behind it is whole.
func lengthDamaged(f *os.File, offset int64, crc uint32) (bool, error) {
	var frame [frameSize]byte
	if _, err := f.ReadAt(frame[:], offset); errors.Is(err, io.EOF) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	length := binary.LittleEndian.Uint64(frame[:])
	if length == 0 && offset%sectorSize == sectorSize-frameSize {
		// The length is the end of a sector, which a crash may have lost while it kept the next.
		return false, nil
	}
	size, err := wholeRecordAt(f, offset+frameSize, crc)
	// The upper byte of the field is the padding. A record whose padding is cut off is torn, not damaged.
	return size != 0 && size != length&^(0xff<<56), err
}

// maxRecordBytes bounds what wholeRecordAt reads. Requests, and so records, are far smaller.
const maxRecordBytes = 64 << 20

// wholeRecordAt returns the size of the encoded record with the right checksum that lies at offset, whatever its
// length field says: type, checksum and data, in this order. It returns 0 if there is none.
func wholeRecordAt(f *os.File, offset int64, crc uint32) (uint64, error) {
	head := make([]byte, 32)
	n, err := f.ReadAt(head, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	head = head[:n]
	at := 0
	field := func(want protowire.Number, typ protowire.Type) (uint64, bool) {
		num, t, n := protowire.ConsumeTag(head[at:])
		if n < 0 || num != want || t != typ {
			return 0, false
		}
		v, m := protowire.ConsumeVarint(head[at+n:])
		if m < 0 {
			return 0, false
		}
		at += n + m
		return v, true
	}
	_, typed := field(1, protowire.VarintType)
	sum, summed := field(2, protowire.VarintType)
	size, sized := field(3, protowire.BytesType)
	if !typed || !summed || !sized || size == 0 || size > maxRecordBytes {
		return 0, nil
	}
	data := make([]byte, size)
	if _, err := f.ReadAt(data, offset+int64(at)); errors.Is(err, io.EOF) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	if crc32.Update(crc, crc32.MakeTable(crc32.Castagnoli), data) != uint32(sum) {
		return 0, nil
	}
	return uint64(at) + size, nil
}
