package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/memory"
	"github.com/dolmen-io/dolmen/internal/engine/pebble"
	"github.com/dolmen-io/dolmen/internal/mvcc"
)

// ours is internal/mvcc over an engine.
type ours struct {
	eng   engine.Engine
	store *mvcc.Store
	view  *mvcc.View
	batch *engine.Batch
	// waiting counts the transactions of the turn.
	waiting int
}

// turnSize is how many transactions share a batch of the engine: as many as a member takes together under load.
const turnSize = 100

func openOurs(name, dir string) (store, error) {
	var eng engine.Engine
	var err error
	dir = filepath.Join(dir, "engine")
	switch name {
	case "pebble":
		eng, err = pebble.Open(dir, pebble.Options{})
	case "memory":
		eng, err = memory.Open(dir, memory.Options{})
	default:
		err = fmt.Errorf("no engine %q", name)
	}
	if err != nil {
		return nil, err
	}
	s, err := mvcc.LoadParallel(eng, mvcc.Parallel{Parts: runtime.GOMAXPROCS(0), Run: beside}, nil, nil)
	if err != nil {
		return nil, errors.Join(err, eng.Close())
	}
	o := &ours{eng: eng, store: s, batch: &engine.Batch{}, view: s.Publish()}
	s.Begin(o.batch)
	return o, nil
}

// beside is how a member runs the parts of a load.
func beside(tasks []func()) {
	var all sync.WaitGroup
	for _, task := range tasks {
		all.Go(task)
	}
	all.Wait()
}

func (o *ours) put(key, value []byte) error {
	txn := o.store.Txn()
	if _, err := txn.Put(key, value, 0); err != nil {
		return err
	}
	return o.end(txn)
}

func (o *ours) delete(key []byte) error {
	txn := o.store.Txn()
	if _, err := txn.DeleteRange(key, nil); err != nil {
		return err
	}
	return o.end(txn)
}

func (o *ours) end(txn *mvcc.Txn) error {
	txn.End()
	if o.waiting++; o.waiting < turnSize {
		return nil
	}
	return o.turn()
}

func (o *ours) turn() error {
	o.waiting = 0
	if err := o.eng.Commit(o.batch); err != nil {
		return err
	}
	o.batch.Reset()
	o.view = o.store.Publish()
	o.store.Begin(o.batch)
	return nil
}

func (o *ours) flush() error { return errors.Join(o.turn(), o.eng.Flush()) }

// settle lets a minute pass, after which roots for reads at recent revisions go.
func (o *ours) settle() {
	now := time.Unix(0, 0)
	o.store.Expire(now)
	o.store.Expire(now.Add(time.Hour))
	o.view = o.store.Publish()
	o.store.Begin(o.batch)
}

func (o *ours) revision() int64 { return o.view.Current() }

func (o *ours) count(in keyRange, revision int64) (int, error) {
	res, err := o.view.Range(mvcc.RangeOptions{Key: in.from, End: in.to, Revision: revision, CountOnly: true})
	return int(res.Count), err
}

func (o *ours) page(in keyRange, revision int64, limit int) (keys, count int, err error) {
	res, err := o.view.Range(mvcc.RangeOptions{Key: in.from, End: in.to, Revision: revision, Limit: int64(limit)})
	return len(res.KVs), int(res.Count), err
}

func (o *ours) close() error { return o.eng.Close() }
