package interchange

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

var (
	// ErrDamaged says that a file does not hold what etcd writes. The wrapping error says where.
	ErrDamaged = errors.New("the file is damaged, use another copy or snapshot")
	// ErrLocked says that another process has the file open for writing.
	ErrLocked = errors.New("the file is in use by another process, which may be an etcd member; stop it first")
	// ErrVersion says that the file is from a version of etcd that cannot be read.
	ErrVersion = errors.New("the file is from a version of etcd that cannot be read")
)

// File is an opened file of etcd's: the one a member keeps, or a snapshot, which has a trailer:
//
//	+-----------------------------------+-----------------------------+
//	| bbolt file, pages of 4 KiB mostly | SHA-256 of the file, 32 B   |
//	+-----------------------------------+-----------------------------+
//
// It is read only, and while it is open nobody who keeps to bbolt's locks writes to it.
type File struct {
	path string
	f    *os.File
	db   *bbolt.DB
	// size is that of the bbolt file, trailer that of the trailer: 0 if there is none.
	size, trailer int64
	// used is the part of size that holds something, known once the pages were checked.
	used int64
}

// sectorSize is by what a bbolt file's size can be divided, whatever its page size. So the trailer shows.
const sectorSize = 512

// lockPoll is how often a locked file is tried again.
const lockPoll = 100 * time.Millisecond

// Open opens a file. It waits for a process that has it open for writing until ctx ends, and then fails with
// ErrLocked; a ctx that has ended already allows one try.
func Open(ctx context.Context, path string) (_ *File, err error) {
	defer func() { err = inFile(path, err) }()
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a file")
	}
	file := &File{path: path, f: f}
	if file.db, err = openDB(ctx, path); err != nil {
		return nil, err
	}
	// Not before the lock is held.
	if info, err = f.Stat(); err != nil {
		return nil, errors.Join(err, file.db.Close())
	}
	file.size = info.Size()
	if file.size%sectorSize == sha256.Size {
		file.size, file.trailer = file.size-sha256.Size, sha256.Size
	}
	return file, nil
}

func openDB(ctx context.Context, path string) (*bbolt.DB, error) {
	for {
		db, err := bbolt.Open(path, 0o400, &bbolt.Options{ReadOnly: true, Timeout: lockPoll})
		switch {
		case err == nil:
			return db, nil
		case !errors.Is(err, bbolterrors.ErrTimeout):
			return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
		case ctx.Err() != nil:
			return nil, fmt.Errorf("%w: %w", ErrLocked, ctx.Err())
		}
	}
}

// inFile names the file of an error.
func inFile(path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", path, err)
}

// Close closes the file.
func (f *File) Close() error { return errors.Join(f.db.Close(), f.f.Close()) }

// Path returns the file's path as given, Size its size in bytes without the trailer.
func (f *File) Path() string { return f.path }

// Size returns the file's size in bytes without the trailer.
func (f *File) Size() int64 { return f.size }

// HasTrailer reports whether there is a checksum of the whole file.
func (f *File) HasTrailer() bool { return f.trailer != 0 }

// CheckTrailer reads the whole file and compares it with its checksum. progress, which may be nil, is called
// now and then with the number of bytes read.
func (f *File) CheckTrailer(ctx context.Context, progress func(bytes int64)) error {
	if f.trailer == 0 {
		return inFile(f.path, fmt.Errorf("%w: there is no checksum at its end, so it is not what was saved as a snapshot, "+
			"or its end is missing; a copy of a member's own file has none and is read with --skip-hash-check", ErrDamaged))
	}
	want := make([]byte, f.trailer)
	if _, err := f.f.ReadAt(want, f.size); err != nil {
		return inFile(f.path, err)
	}
	h := sha256.New()
	src := &counting{ctx: ctx, r: io.NewSectionReader(f.f, 0, f.size), progress: progress}
	if _, err := io.Copy(h, src); err != nil {
		return inFile(f.path, err)
	}
	if got := h.Sum(nil); string(got) != string(want) {
		return inFile(f.path, fmt.Errorf("%w: its SHA-256 is %x, its checksum says %x; take another copy of the snapshot", ErrDamaged, got, want))
	}
	return nil
}

// counting reports how much was read, and ends with ctx.
type counting struct {
	ctx      context.Context
	r        io.Reader
	n        int64
	progress func(int64)
}

func (c *counting) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(b)
	c.n += int64(n)
	if c.progress != nil {
		c.progress(c.n)
	}
	return n, err
}

// maxPageErrors is how many findings of bbolt's own check are told.
const maxPageErrors = 5

// check follows every page, ours first.
func (f *File) check() error {
	used, err := checkPages(f.f, f.size, f.db.Info().PageSize)
	if err != nil {
		return err
	}
	f.used = used
	return f.db.View(func(tx *bbolt.Tx) error {
		var errs []error
		more := 0
		for err := range tx.Check() {
			if len(errs) < maxPageErrors {
				errs = append(errs, err)
			} else {
				more++
			}
		}
		if more > 0 {
			errs = append(errs, fmt.Errorf("and %d more findings", more))
		}
		if len(errs) > 0 {
			return fmt.Errorf("%w: %w", ErrDamaged, errors.Join(errs...))
		}
		return nil
	})
}
