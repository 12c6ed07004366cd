package memory

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
)

// File is a file being written. It is an alias, so that a test's directory need not import this package.
type File = interface {
	io.Writer
	// Sync returns when everything written is on the disk.
	Sync() error
	Close() error
}

// Directory is all that the engine asks of a file system: one flat directory that it owns. Names are
// relative to it. The calls have the meaning they have in package os; what a crash leaves is what POSIX
// promises: a file's bytes after its Sync, a name's creation, change or removal after the directory's.
type Directory interface {
	// Create makes an empty file, replacing one of that name.
	Create(name string) (File, error)
	Open(name string) (io.ReadCloser, error)
	Rename(from, to string) error
	Remove(name string) error
	List() ([]string, error)
	// Sync returns when all names are on the disk as they are now.
	Sync() error
	// Close gives the directory up.
	Close() error
}

// lockName is the file whose lock keeps a second process out.
const lockName = "LOCK"

const (
	dirMode  = 0o700
	fileMode = 0o600
)

// osDirectory is a Directory of the operating system.
type osDirectory struct {
	path string
	lock *fileutil.LockedFile // nil if only to be read
}

// openDirectory makes the directory if need be and locks it.
func openDirectory(path string) (*osDirectory, error) {
	if err := makeDirectory(path); err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	lock, err := fileutil.TryLockFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE, fileMode)
	if errors.Is(err, fileutil.ErrLocked) {
		return nil, fmt.Errorf("in use by another process, stop it first: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	return &osDirectory{path, lock}, nil
}

// makeDirectory makes a directory and those above it, and makes their names survive a power cut.
func makeDirectory(path string) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := makeDirectory(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, dirMode); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		return fmt.Errorf("%s is a file, not a directory", path)
	}
	return syncPath(parent)
}

func (d *osDirectory) Create(name string) (File, error) {
	return os.OpenFile(filepath.Join(d.path, name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode)
}

func (d *osDirectory) Open(name string) (io.ReadCloser, error) {
	return os.Open(filepath.Join(d.path, name))
}

func (d *osDirectory) Rename(from, to string) error {
	return os.Rename(filepath.Join(d.path, from), filepath.Join(d.path, to))
}

func (d *osDirectory) Remove(name string) error { return os.Remove(filepath.Join(d.path, name)) }

func (d *osDirectory) List() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

func (d *osDirectory) Sync() error { return syncPath(d.path) }

func (d *osDirectory) Close() error {
	if d.lock == nil {
		return nil
	}
	return d.lock.Close()
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
