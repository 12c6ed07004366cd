package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/dolmen-io/dolmen/internal/engine/rocksdb"
)

// engines are the values that StorageEngine may have.
func engines() []string { return []string{EnginePebble, EngineMemory, EngineRocksDB} }

// BuiltEngines returns the engines that are part of this program, the default first.
func BuiltEngines() []string {
	return slices.DeleteFunc(engines(), func(name string) bool { return name == EngineRocksDB && !rocksdb.Built })
}

// CheckEngine says why this program cannot run with an engine, before anything is made for it.
func CheckEngine(name string) error {
	switch {
	case !slices.Contains(engines(), name):
		return fmt.Errorf("--storage-engine=%s is not an engine; give one of %s", name, strings.Join(engines(), ", "))
	case !slices.Contains(BuiltEngines(), name):
		return fmt.Errorf("--storage-engine=%s: %w", name, rocksdb.ErrNotBuilt)
	}
	return nil
}

func (c *Config) checkEngine() error { return CheckEngine(c.StorageEngine) }
