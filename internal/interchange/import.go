package interchange

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/mvcc"
	"github.com/dolmen-io/dolmen/internal/state"
)

// ErrNotEmpty says that an engine that is to be filled holds something.
var ErrNotEmpty = errors.New("the engine holds data already")

// importBatch is how many bytes of records are committed at a time.
const importBatch = 4 << 20

// Options of Import.
type Options struct {
	// Position, if set, is where the engine is to stand in a new raft log, in place of what the file says.
	Position *state.Applied
	// NewCluster leaves out who the members were and are: the data begins a new cluster.
	NewCluster bool
	// BumpRevision moves the revision on by so much and marks all before as compacted, so that no client can
	// see an older revision than it has seen before the restore.
	BumpRevision int64
	// Progress, which may be nil, is called now and then with the bytes of the records so far.
	Progress func(bytes int64)
}

// Import copies what the file holds into an engine, which must be empty, and makes it durable. After an error
// the engine holds a part and must be thrown away.
//
// Leases whose time to live is below what this member grants are copied as they are: it is raised when they
// are loaded. A compaction that was asked for but not completed is taken up when the engine is opened.
func (f *File) Import(ctx context.Context, eng engine.Engine, opts Options) (*Contents, error) {
	if err := requireEmpty(eng); err != nil {
		return nil, inFile(f.path, err)
	}
	in := &importer{eng: eng, newCluster: opts.NewCluster}
	contents, err := f.Scan(ctx, opts.Progress, in.add)
	if err != nil {
		return nil, err
	}
	if err := in.finish(contents, opts); err != nil {
		return nil, inFile(f.path, err)
	}
	if err := eng.Flush(); err != nil {
		return nil, inFile(f.path, fmt.Errorf("make what was read durable: %w", err))
	}
	return contents, nil
}

func requireEmpty(eng engine.Engine) (err error) {
	sn, err := eng.Snapshot()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sn.Close()) }()
	empty := true
	if err := sn.Scan(nil, nil, false, func([]byte, []byte) bool {
		empty = false
		return false
	}); err != nil {
		return err
	}
	if !empty {
		return ErrNotEmpty
	}
	return nil
}

type importer struct {
	eng        engine.Engine
	batch      engine.Batch
	newCluster bool
}

func (in *importer) add(table byte, key, value []byte) error {
	switch table {
	case engine.TableMember, engine.TableMemberRemoved:
		if in.newCluster {
			return nil
		}
	case engine.TableMeta:
		if string(key) != scheduledKey && string(key) != finishedKey {
			return nil // told in another way
		}
	}
	in.batch.Put(bucket{table: table}.engineKey(key), bytes.Clone(value))
	if in.batch.Bytes() < importBatch {
		return nil
	}
	return in.commit()
}

func (in *importer) commit() error {
	err := in.eng.Commit(&in.batch)
	in.batch.Reset()
	if err != nil {
		return fmt.Errorf("write what was read: %w", err)
	}
	return nil
}

// finish writes what belongs to the file as a whole. The position comes last: without it the engine is empty.
func (in *importer) finish(c *Contents, opts Options) error {
	at := opts.Position
	if at == nil {
		if c.Index != 0 && len(c.Conf.GetVoters()) == 0 {
			return fmt.Errorf("%w: it has applied entries up to %d but knows no voting member", ErrDamaged, c.Index)
		}
		at = &state.Applied{Index: c.Index, Term: c.Term, Conf: c.Conf}
	}
	if opts.BumpRevision > 0 {
		bumped := mvcc.Revision{Main: c.Revision + opts.BumpRevision}
		if bumped.Main < c.Revision {
			return fmt.Errorf("revision %d cannot be moved on by %d: the sum is too large", c.Revision, opts.BumpRevision)
		}
		in.batch.Put(bumped.EngineKey(false), []byte{})
		in.batch.Put(engine.TableKey(engine.TableMeta, []byte(scheduledKey)), bumped.EngineKey(false))
		c.Revision, c.Scheduled = bumped.Main, bumped.Main
		c.Revisions++
	}
	if at.Index != 0 {
		if err := at.Put(&in.batch); err != nil {
			return err
		}
	}
	return in.commit()
}
