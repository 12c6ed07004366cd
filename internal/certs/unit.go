package certs

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

const (
	// maxFile bounds what is read of one file: far above any bundle of authorities, and above the lists of
	// revocations of public authorities.
	maxFile = 16 << 20
	// settle is how long after its last change a file's times tell that it has not changed since. A second
	// change within the grain of a file system's clock leaves them as they are; the coarsest in use, FAT's,
	// counts two seconds.
	settle = 2 * time.Second
)

// unit is one thing that is loaded, from one file or from two that are only valid together.
type unit struct {
	name  string // for log lines and errors
	paths []string
	parse func(contents [][]byte) (any, error)
}

func (u unit) String() string { return u.name + " " + strings.Join(u.paths, " and ") }

// state is what is known of a unit. It is not changed once it is made.
type state struct {
	// value is the newest that was good, and good the digest of what it was read from.
	value any
	good  [sha256.Size]byte
	// seen is the digest of what the files held at the last look, and failure what is wrong with that, "" if
	// value is what they hold.
	seen    [sha256.Size]byte
	failure string
	stamps  []stamp
}

// stamp tells whether a file has changed without reading it.
type stamp struct {
	info    os.FileInfo // nil if the file could not be read
	settled bool
}

func (s stamp) same(now os.FileInfo) bool {
	return s.info != nil && s.settled && os.SameFile(s.info, now) &&
		s.info.Size() == now.Size() && s.info.ModTime().Equal(now.ModTime())
}

// look returns the state of the unit now, which is last if its files have not changed.
func (u unit) look(last *state, now func() time.Time) *state {
	if last != nil && u.unchanged(last) {
		return last
	}
	next := &state{}
	if last != nil {
		next.value, next.good = last.value, last.good
	}
	contents := make([][]byte, 0, len(u.paths))
	for _, path := range u.paths {
		content, s, err := readFile(path, now)
		if err != nil {
			next.failure = err.Error()
			return next
		}
		contents, next.stamps = append(contents, content), append(next.stamps, s)
	}
	next.seen = digest(contents)
	if last != nil && next.seen == last.seen {
		next.failure = last.failure
		return next
	}
	if next.value != nil && next.seen == next.good {
		return next // as before what could not be loaded
	}
	value, err := u.parse(contents)
	if err != nil {
		next.failure = err.Error()
		return next
	}
	next.value, next.good = value, next.seen
	return next
}

func (u unit) unchanged(last *state) bool {
	if len(last.stamps) != len(u.paths) {
		return false
	}
	for i, path := range u.paths {
		info, err := os.Stat(path)
		if err != nil || !last.stamps[i].same(info) {
			return false
		}
	}
	return true
}

func readFile(path string, now func() time.Time) ([]byte, stamp, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, stamp{}, err
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return nil, stamp{}, err
	}
	begin := now()
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, stamp{}, err
	}
	if len(content) > maxFile {
		return nil, stamp{}, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return content, stamp{info: info, settled: begin.Sub(info.ModTime()) > settle}, nil
}

// digest tells contents apart. None is the zero value, which stands for files that could not be read.
func digest(contents [][]byte) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, content := range contents {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(content))))
		h.Write(content)
	}
	h.Sum(sum[:0])
	return sum
}
