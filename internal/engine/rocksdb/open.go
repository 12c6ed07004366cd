//go:build rocksdb

package rocksdb

// #include "bridge.h"
import "C"

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/engine"
)

const dirMode = 0o700

// Open opens the engine in dir, which it creates if need be and locks against other processes. The error
// wraps engine.ErrCorrupt if what it reads is damaged.
func Open(dir string, opts Options) (*Engine, error) {
	if err := makeDirectory(dir); err != nil {
		return nil, fmt.Errorf("rocksdb: create %s: %w", dir, err)
	}
	if err := checkCurrent(dir); err != nil {
		return nil, fmt.Errorf("rocksdb: open %s: %w", dir, err)
	}
	db, err := openWith(dir, opts, false, packed, unpacked)
	if err != nil {
		return nil, err
	}
	e := newEngine(dir, db, opts)
	// A first commit, of nothing: from now on RocksDB knows that memtables hold what no log has. Otherwise a
	// Durable that overlaps the first commit might see it.
	if err := e.stopped("open " + dir); err != nil {
		e.free()
		return nil, err
	}
	e.failure.serving.Store(true)
	go e.watch()
	return e, nil
}

// OpenReadOnly opens the engine in dir to look at it: nothing is written and no lock is taken, so the caller must
// know that no other process writes to it. Commit and Flush fail. The error wraps fs.ErrNotExist if there is no
// engine in dir, and engine.ErrCorrupt if what it reads is damaged.
func OpenReadOnly(dir string, opts Options) (*Engine, error) {
	err := checkCurrent(dir)
	if err == nil {
		_, err = os.Stat(filepath.Join(dir, currentFile))
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("rocksdb: there is no engine in %s: %w", dir, err)
	case err != nil:
		return nil, fmt.Errorf("rocksdb: look at %s: %w", dir, err)
	}
	db, err := openWith(dir, opts, true, packed, unpacked)
	if err != nil {
		return nil, err
	}
	e := newEngine(dir, db, opts)
	e.readOnly = true
	e.failure.serving.Store(true)
	close(e.watched)
	return e, nil
}

// openWith opens a database with the first of the compressions that the library has.
func openWith(dir string, opts Options, readOnly bool, compressions ...string) (*C.rocksdb_t, error) {
	for _, compression := range compressions {
		db, err := open(dir, opts.rocksOptions(compression), readOnly)
		if err != nil && strings.Contains(err.Error(), "not linked with the binary") {
			if opts.Logger != nil {
				opts.Logger.Warn("RocksDB's library was built without a compression", zap.Error(err))
			}
			continue
		}
		return db, err
	}
	return nil, errors.New("rocksdb: the library has no compression that could be used")
}

func open(dir, text string, readOnly bool) (*C.rocksdb_t, error) {
	defaults, options := C.rocksdb_options_create(), C.rocksdb_options_create()
	defer C.rocksdb_options_destroy(defaults)
	defer C.rocksdb_options_destroy(options)
	name, settings := C.CString(dir), C.CString(text)
	defer C.free(unsafe.Pointer(name))
	defer C.free(unsafe.Pointer(settings))
	var cerr *C.char
	C.rocksdb_get_options_from_string(defaults, settings, options, &cerr)
	if cerr != nil {
		return nil, meaning(dir, "options", take(cerr))
	}
	var db *C.rocksdb_t
	if readOnly {
		db = C.rocksdb_open_for_read_only(options, name, 0, &cerr)
	} else {
		db = C.rocksdb_open(options, name, &cerr)
	}
	if cerr != nil {
		return nil, meaningOfOpen(dir, take(cerr))
	}
	return db, nil
}

// meaningOfOpen is meaning for the error of an open, which marks damaged bytes as such but not a manifest that is
// named and not there. The directory itself is there.
func meaningOfOpen(dir, text string) error {
	switch {
	case strings.Contains(text, "While lock file") || strings.Contains(text, "lock hold by current process"):
		return fmt.Errorf("rocksdb: lock %s: it is in use by another process, stop it first: %s", dir, text)
	case strings.HasPrefix(text, "IO error: No such file"):
		text = corruption + text
	}
	return meaning(dir, "open "+dir, text)
}

// currentFile names the manifest, and is there from the moment that a new database is complete.
const currentFile = "CURRENT"

// checkCurrent refuses a directory that has lost the file without which RocksDB would begin anew in it.
func checkCurrent(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, currentFile)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if filepath.Ext(entry.Name()) == ".sst" {
			return fmt.Errorf("%w: the file %s is missing", engine.ErrCorrupt, filepath.Join(dir, currentFile))
		}
	}
	return nil
}

// makeDirectory makes dir and those above it, and makes their names survive a power cut.
func makeDirectory(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if err := makeDirectory(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, dirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	d, err := os.Open(parent)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
