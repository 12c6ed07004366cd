package node

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Layout is where the parts of a data directory are. Not all of them need be there.
type Layout struct {
	// Member is the directory of a member, Format says what wrote it, Lock is held while a member runs.
	Member, Format, Lock string
	// Engine and WAL are directories, and so is Imported, which is to become Engine when etcd's directory is taken over.
	Engine, Imported, WAL string
	// EtcdDatabase is there if etcd wrote the directory.
	EtcdDatabase string
}

// NewLayout returns the layout of a data directory; log is empty unless the raft log lies elsewhere.
func NewLayout(dataDir, log string) Layout {
	member := filepath.Join(dataDir, "member")
	if log == "" {
		log = filepath.Join(member, walDir)
	}
	eng := engineDir
	if f, err := ReadFormat(filepath.Join(member, formatFile)); err == nil {
		if name, err := directoryOf(f); err == nil {
			eng = name
		}
	}
	return Layout{
		Member:       member,
		Format:       filepath.Join(member, formatFile),
		Lock:         filepath.Join(member, lockFile),
		Engine:       filepath.Join(member, eng),
		Imported:     filepath.Join(member, importDir),
		WAL:          log,
		EtcdDatabase: dbPath(member),
	}
}

// Format is the content of the FORMAT file.
type Format struct {
	Product string `json:"product"`
	Format  int    `json:"format"`
	Engine  string `json:"engine"`
	// Directory is the engine's, empty for the first one.
	Directory string `json:"directory,omitempty"`
}

// ReadFormat reads the FORMAT file. Errors: ErrForeign if another program or a newer version wrote it, and those of
// the file system. What a newer version wrote is returned with the error.
func ReadFormat(path string) (Format, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Format{}, fmt.Errorf("read the format of the data directory: %w", err)
	}
	var got Format
	switch err := json.Unmarshal(b, &got); {
	case err != nil || got.Product != product:
		return Format{}, fmt.Errorf("%w: %s does not say that dolmen wrote it, it says %.80q", ErrForeign, path, b)
	case got.Format > formatVersion:
		return got, fmt.Errorf("%w: %s says format %d, this version knows up to %d; start the version that wrote it, or a newer one",
			ErrForeign, path, got.Format, formatVersion)
	}
	return got, nil
}
