package main

import (
	"context"
	"errors"
	"path/filepath"

	"go.uber.org/zap"

	"go.etcd.io/etcd/pkg/v3/traceutil"
	"go.etcd.io/etcd/server/v3/lease"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
)

// etcd is etcd's mvcc over its backend, with the settings of its server.
type etcd struct {
	backend backend.Backend
	kv      mvcc.KV
}

func openEtcd(dir string) (store, error) {
	b := backend.New(func() backend.BackendConfig {
		c := backend.DefaultBackendConfig(zap.NewNop())
		c.Path = filepath.Join(dir, "db")
		return c
	}())
	return &etcd{b, mvcc.NewStore(zap.NewNop(), b, &lease.FakeLessor{}, mvcc.StoreConfig{})}, nil
}

func (e *etcd) put(key, value []byte) error {
	txn := e.kv.Write(traceutil.TODO())
	txn.Put(key, value, lease.NoLease)
	txn.End()
	return nil
}

func (e *etcd) delete(key []byte) error {
	txn := e.kv.Write(traceutil.TODO())
	txn.DeleteRange(key, nil)
	txn.End()
	return nil
}

func (e *etcd) flush() error {
	e.kv.Commit()
	return nil
}

func (e *etcd) settle() {}

func (e *etcd) revision() int64 { return e.kv.Rev() }

func (e *etcd) count(in keyRange, revision int64) (int, error) {
	res, err := e.ranged(in, mvcc.RangeOptions{Rev: revision, CountOnly: true})
	if err != nil {
		return 0, err
	}
	return res.Count, nil
}

func (e *etcd) page(in keyRange, revision int64, limit int) (keys, count int, err error) {
	o := mvcc.RangeOptions{Rev: revision, WithTotalCount: true}
	if limit > 0 {
		o.Limit = int64(limit) + 1 // as the server asks, to know whether there are more
	}
	res, err := e.ranged(in, o)
	if err != nil {
		return 0, 0, err
	}
	return len(res.KVs), res.Count, nil
}

func (e *etcd) ranged(in keyRange, o mvcc.RangeOptions) (*mvcc.RangeResult, error) {
	txn := e.kv.Read(mvcc.ConcurrentReadTxMode, traceutil.TODO())
	defer txn.End()
	return txn.Range(context.Background(), in.from, in.to, o)
}

func (e *etcd) close() error { return errors.Join(e.kv.Close(), e.backend.Close()) }
