//go:build !rocksdb

package rocksdb

import "github.com/dolmen-io/dolmen/internal/engine"

// Built says whether the engine is part of this program.
const Built = false

// Engine is an engine.Engine on RocksDB. There is none in this program.
type Engine struct{ engine.Engine }

// Open returns ErrNotBuilt.
func Open(string, Options) (*Engine, error) { return nil, ErrNotBuilt }

// OpenReadOnly returns ErrNotBuilt.
func OpenReadOnly(string, Options) (*Engine, error) { return nil, ErrNotBuilt }
