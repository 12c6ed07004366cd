package interchange

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"slices"

	"github.com/coreos/go-semver/semver"
	"go.etcd.io/bbolt"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/state"
)

// record is one of a bucket.
type record struct{ key, value []byte }

// defaultVersion is that of the format that is written: etcd 3.7's.
const defaultVersion = "3.7.0"

// firstVersioned is the first version of etcd that notes the version of the format.
var firstVersioned = semver.Version{Major: 3, Minor: 6}

// exporter reads a view of an engine as what a file holds.
type exporter struct {
	ctx  context.Context
	sn   engine.Snapshot
	seen int
}

// bucket calls fn for each record of a bucket in order. The bytes are valid only within the call.
func (e *exporter) bucket(b bucket, fn func(key, value []byte) error) error {
	if b.name != bucketMeta {
		if err := e.table(b, fn); err != nil {
			return err
		}
	}
	extra, err := e.extra(b)
	if err != nil {
		return err
	}
	for _, r := range extra {
		if err := fn(r.key, r.value); err != nil {
			return err
		}
	}
	return nil
}

// table calls fn for each record that the engine holds as such.
func (e *exporter) table(b bucket, fn func(key, value []byte) error) error {
	prefix := 1
	if b.table == 0 {
		prefix = 0
	}
	var failed error
	lo, hi := b.limits()
	err := e.sn.Scan(lo, hi, false, func(key, value []byte) bool {
		if e.seen++; e.seen%progressEvery == 0 {
			failed = e.ctx.Err()
		}
		if failed == nil {
			failed = fn(key[prefix:], value)
		}
		return failed == nil
	})
	return errors.Join(err, failed)
}

// extra returns the records of a bucket that an engine does not hold as such; they come after those it holds.
func (e *exporter) extra(b bucket) ([]record, error) {
	switch b.name {
	case bucketMeta:
		return e.meta()
	case "auth":
		// etcd begins with this revision and writes it at once; an engine may hold none until the first change.
		_, err := e.sn.Get(engine.TableKey(b.table, []byte(authRevisionKey)))
		if errors.Is(err, engine.ErrNotFound) {
			return []record{{[]byte(authRevisionKey), binary.BigEndian.AppendUint64(nil, 1)}}, nil
		}
		return nil, err
	}
	return nil, nil
}

// meta returns the records of etcd's bucket of that name in order.
func (e *exporter) meta() ([]record, error) {
	at, err := state.AppliedIn(e.sn)
	if err != nil {
		return nil, err
	}
	conf, err := json.Marshal(at.Conf)
	if err != nil {
		return nil, fmt.Errorf("encode the configuration: %w", err)
	}
	version, err := StorageVersion(e.sn)
	if err != nil {
		return nil, err
	}
	out := []record{
		{[]byte(confStateKey), conf},
		{[]byte(indexKey), binary.BigEndian.AppendUint64(nil, at.Index)},
		{[]byte(termKey), binary.BigEndian.AppendUint64(nil, at.Term)},
		{[]byte(storageVersionKey), []byte(version)},
	}
	for _, key := range []string{finishedKey, scheduledKey} {
		value, err := e.sn.Get(engine.TableKey(engine.TableMeta, []byte(key)))
		if errors.Is(err, engine.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, record{[]byte(key), value})
	}
	slices.SortFunc(out, func(a, b record) int { return bytes.Compare(a.key, b.key) })
	return out, nil
}

// StorageVersion returns the version of the format that a file made of this view has: that of the cluster, so
// that after a downgrade the older etcd reads it.
func StorageVersion(sn engine.Snapshot) (string, error) {
	value, err := sn.Get(engine.TableKey(engine.TableCluster, []byte(clusterVersionKey)))
	if errors.Is(err, engine.ErrNotFound) {
		return defaultVersion, nil
	}
	if err != nil {
		return "", err
	}
	v, err := semver.NewVersion(string(value))
	if err != nil {
		return "", fmt.Errorf("the cluster's version %q: %w: %w", value, engine.ErrCorrupt, err)
	}
	v.Patch = 0
	if v.LessThan(firstVersioned) || newestVersion.LessThan(semver.Version{Major: v.Major, Minor: v.Minor}) {
		return defaultVersion, nil
	}
	return v.String(), nil
}

// Hash returns etcd's checksum over all buckets of the file that would be made of this view, without the
// position in the raft log and the version, which etcd leaves out too. It writes no file.
func Hash(ctx context.Context, sn engine.Snapshot) (uint32, error) {
	e := &exporter{ctx: ctx, sn: sn}
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	for _, b := range buckets() {
		_, _ = h.Write([]byte(b.name))
		err := e.bucket(b, func(key, value []byte) error {
			if b.name == bucketMeta {
				switch string(key) {
				case indexKey, termKey, storageVersionKey:
					return nil
				}
			}
			_, _ = h.Write(key)
			_, _ = h.Write(value)
			return nil
		})
		if err != nil {
			return 0, fmt.Errorf("interchange: hash bucket %q: %w", b.name, err)
		}
	}
	return h.Sum32(), nil
}

// Export writes a view of an engine to a new file at path and returns its size in bytes, which is that of its
// last page. Memory is bounded by exportBatch. The file is not synced: it is to be sent or read, and is made
// anew after a crash. After an error there is no file.
func Export(ctx context.Context, sn engine.Snapshot, path string) (size int64, err error) {
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return 0, errors.Join(fmt.Errorf("interchange: export to %s, which exists already: choose another name", path), err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("interchange: export to %s: %w", path, err)
			if gone := os.Remove(path); !errors.Is(gone, os.ErrNotExist) {
				err = errors.Join(err, gone)
			}
		}
	}()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		NoSync: true, NoGrowSync: true, FreelistType: bbolt.FreelistMapType, NoStatistics: true,
	})
	if err != nil {
		return 0, err
	}
	w := &fileWriter{db: db}
	err = w.write(&exporter{ctx: ctx, sn: sn})
	if err == nil {
		err = db.View(func(tx *bbolt.Tx) error {
			size = tx.Size()
			return nil
		})
	}
	if err = errors.Join(err, w.abandon(), db.Close()); err != nil {
		return 0, err
	}
	// bbolt grows files in steps; what is behind the last page is no part of it.
	return size, os.Truncate(path, size)
}

// exportBatch is how many bytes of records are written in one transaction of bbolt, which holds them, and the
// pages they go to, in memory.
const exportBatch = 8 << 20

// fileWriter fills a file in transactions of bounded size. Keys come in ascending order within a bucket, so pages
// are filled to the brim and never split again.
type fileWriter struct {
	db    *bbolt.DB
	tx    *bbolt.Tx
	into  *bbolt.Bucket
	name  []byte
	bytes int
}

func (w *fileWriter) write(e *exporter) error {
	// The large bucket comes last: what is written before it stays where it is.
	all := buckets()
	slices.SortStableFunc(all, func(a, b bucket) int { return int(b.table) - int(a.table) })
	for _, b := range all {
		w.name = []byte(b.name)
		if err := w.begin(); err != nil {
			return err
		}
		if err := e.bucket(b, w.put); err != nil {
			return fmt.Errorf("bucket %q: %w", b.name, err)
		}
		if err := w.commit(); err != nil {
			return err
		}
	}
	return nil
}

func (w *fileWriter) begin() (err error) {
	if w.tx, err = w.db.Begin(true); err != nil {
		return err
	}
	if w.into, err = w.tx.CreateBucketIfNotExists(w.name); err != nil {
		return err
	}
	w.into.FillPercent = 1
	return nil
}

func (w *fileWriter) commit() error {
	tx := w.tx
	w.tx, w.into, w.bytes = nil, nil, 0
	return tx.Commit()
}

// abandon ends a transaction that an error has left open.
func (w *fileWriter) abandon() error {
	if w.tx == nil {
		return nil
	}
	return w.tx.Rollback()
}

func (w *fileWriter) put(key, value []byte) error {
	// bbolt copies the key, and keeps the value until the commit.
	if err := w.into.Put(key, bytes.Clone(value)); err != nil {
		return err
	}
	if w.bytes += len(key) + len(value); w.bytes < exportBatch {
		return nil
	}
	if err := w.commit(); err != nil {
		return err
	}
	return w.begin()
}
