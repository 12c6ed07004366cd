package main

import (
	"fmt"
	"math/rand/v2"
)

// Names of the stores.
const (
	etcdName = "etcd"
	oursName = "ours"
)

// store is what both key spaces can do. It has one user.
type store interface {
	// put stores value under key, in a transaction of its own. The store may keep both.
	put(key, value []byte) error
	// delete removes a key, in a transaction of its own.
	delete(key []byte) error
	// flush makes everything durable and readable.
	flush() error
	// settle lets go of what the store keeps only for a while.
	settle()
	// revision is the current one.
	revision() int64
	// count is the number of keys in a range at a revision, 0 for the current one.
	count(in keyRange, revision int64) (int, error)
	// page reads the first limit keys of a range at a revision, with what a Range request needs besides: one key more
	// to tell whether there are more, and the count of all of the range.
	page(in keyRange, revision int64, limit int) (keys, count int, err error)
	close() error
}

// keyRange is [from, to).
type keyRange struct{ from, to []byte }

var everything = keyRange{[]byte("/registry/pods/"), []byte("/registry/pods0")}

func open(name, engine, dir string) (store, error) {
	if name == etcdName {
		return openEtcd(dir)
	}
	return openOurs(engine, dir)
}

// read is one kind of read, run on either store.
type read struct {
	name string
	run  func(store) error
}

// pageSize is that of Kubernetes' clients.
const pageSize = 500

// prepareReads writes on in both stores, so that there are older revisions to read at, and returns what to measure.
func prepareReads(stores map[string]store, o options) ([]read, error) {
	before := map[store]int64{}
	for _, name := range []string{etcdName, oursName} {
		s := stores[name]
		before[s] = s.revision()
		if err := churn(s, o); err != nil {
			return nil, err
		}
	}
	current, past := func(store) int64 { return 0 }, func(s store) int64 { return before[s] }
	rest := keyRange{key(o.readKeys / 2), everything.to}
	page := func(in keyRange, at func(store) int64) func(store) error {
		return func(s store) error {
			keys, count, err := s.page(in, at(s), pageSize)
			if err == nil && (keys < min(pageSize, count) || count == 0) {
				err = fmt.Errorf("%d keys of %d", keys, count)
			}
			return err
		}
	}
	count := func(at func(store) int64) func(store) error {
		return func(s store) error {
			n, err := s.count(everything, at(s))
			if err == nil && n != o.readKeys {
				err = fmt.Errorf("%d keys, want %d", n, o.readKeys)
			}
			return err
		}
	}
	point := keyRange{from: key(o.readKeys / 3)}
	return []read{
		{"get", func(s store) error { _, _, err := s.page(point, 0, 0); return err }},
		{"count of all", count(current)},
		{fmt.Sprintf("first %d of all", pageSize), page(everything, current)},
		{fmt.Sprintf("%d from the middle", pageSize), page(rest, current)},
		{"count of all, earlier revision", count(past)},
		{fmt.Sprintf("%d from the middle, earlier revision", pageSize), page(rest, past)},
	}, nil
}

// churn overwrites keys, and removes some and puts them back, a tenth of all together.
func churn(s store, o options) error {
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range o.readKeys / 20 {
		k := key(rng.IntN(o.readKeys))
		if i%4 == 0 {
			if err := s.delete(k); err != nil {
				return err
			}
		}
		if err := s.put(k, make([]byte, o.valueSize)); err != nil {
			return err
		}
	}
	return s.flush()
}
