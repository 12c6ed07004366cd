package mvcc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/watch"
)

// pinned is a view in use: the owner removes nothing while a view that does not know of the compaction
// has readers.
type pinned struct {
	*View
	readers sync.WaitGroup
}

// Every turn puts its own number under all of the keys that exist and makes one come or go, while views
// of different ages are read at their revisions. A reader must find one number, and as many keys as the
// count says.
func TestReadersBesideTheOwner(t *testing.T) {
	eng := openEngine(t)
	s, err := Load(eng, nil, nil)
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(1, 7))
	var published atomic.Pointer[pinned]
	var mu sync.Mutex // between taking a view and the owner's replacing it
	turn(t, eng, s, 0, rng)
	published.Store(&pinned{View: s.Publish()})
	ctx, stop := context.WithCancel(context.Background())
	var readers sync.WaitGroup
	for i := range 2 {
		rng := rand.New(rand.NewPCG(uint64(i), 8))
		readers.Go(func() {
			for ctx.Err() == nil {
				mu.Lock()
				v := published.Load()
				v.readers.Add(1)
				mu.Unlock()
				if err := readTurn(v.View, rng); err != nil {
					t.Error(err)
				}
				v.readers.Done()
			}
		})
	}
	var old []*pinned
	for i := range 120 {
		turn(t, eng, s, i+1, rng)
		mu.Lock()
		old = append(old, published.Swap(&pinned{View: s.Publish()}))
		mu.Unlock()
		if len(old) < 8 {
			continue
		}
		for _, v := range old { // from here on nobody reads a view older than the published one
			v.readers.Wait()
		}
		old = old[:0]
		removeAll(t, eng, s, &mu, &published)
	}
	stop()
	readers.Wait()
}

// removeAll removes below a compaction that the view published last knows of.
func removeAll(t *testing.T, eng engine.Engine, s *Store, mu *sync.Mutex, published *atomic.Pointer[pinned]) {
	for {
		below, due := s.RemovalDue()
		if v := published.Load(); !due || v.Compacted() < below {
			return
		}
		batch := &engine.Batch{}
		s.Begin(batch)
		s.RemoveSome(40, true)
		require.NoError(t, eng.Commit(batch))
		mu.Lock()
		before := published.Swap(&pinned{View: s.Publish()})
		mu.Unlock()
		before.readers.Wait()
	}
}

// turn is one transaction of the owner and now and then a compaction; it does not publish.
func turn(t *testing.T, eng engine.Engine, s *Store, n int, rng *rand.Rand) {
	batch := &engine.Batch{}
	s.Begin(batch)
	txn := s.Txn()
	if n > 0 {
		_, err := txn.DeleteRange(fmt.Appendf(nil, "k%03d", rng.IntN(60)), fmt.Appendf(nil, "k%03d", rng.IntN(60)))
		require.NoError(t, err)
	}
	for range 20 {
		_, err := txn.Put(fmt.Appendf(nil, "k%03d", rng.IntN(60)), nil, 0)
		require.NoError(t, err)
	}
	all, err := txn.Range(RangeOptions{Key: []byte("k"), End: []byte{0}, KeysOnly: true})
	require.NoError(t, err)
	for _, b := range all.KVs {
		kv, err := DecodeKeyValue(b)
		require.NoError(t, err)
		_, err = txn.Put(kv.Key, fmt.Append(nil, n), 0)
		require.NoError(t, err)
	}
	current := txn.End()
	if n%8 == 7 && current > s.Compacted() {
		require.NoError(t, s.Compact(max(s.Compacted(), 1)+1+rng.Int64N(current-max(s.Compacted(), 1))))
	}
	require.NoError(t, eng.Commit(batch))
}

func readTurn(v *View, rng *rand.Rand) error {
	o := RangeOptions{Key: []byte("k"), End: []byte{0}}
	if low := max(v.Compacted(), 2); rng.IntN(2) == 0 && low < v.Current() {
		o.Revision = low + rng.Int64N(v.Current()-low)
	}
	res, err := v.Range(o)
	if err != nil {
		return fmt.Errorf("at %d of view %d, compacted %d: %w", o.Revision, v.Current(), v.Compacted(), err)
	}
	if int64(len(res.KVs)) != res.Count || o.Revision == 0 && res.Count != v.Keys() {
		return fmt.Errorf("%d keys, count %d, view says %d", len(res.KVs), res.Count, v.Keys())
	}
	var value []byte
	for i, b := range res.KVs {
		kv, err := DecodeKeyValue(b)
		if err != nil {
			return err
		}
		if i > 0 && !bytes.Equal(value, kv.Value) {
			return fmt.Errorf("values of two turns: %s and %s", value, kv.Value)
		}
		value = kv.Value
	}
	if rng.IntN(16) > 0 {
		return nil
	}
	from, last := max(v.Compacted(), v.Current()-2), Revision{}
	return v.Events(from, v.Current(), []byte("k"), []byte{0}, func(e watch.Event) bool {
		if now := (Revision{e.Main, e.Sub}); now.Main < last.Main || now.Main == last.Main && now.Sub <= last.Sub {
			err = fmt.Errorf("%v after %v", now, last)
		}
		last = Revision{e.Main, e.Sub}
		return true
	})
}

// brokenEngine answers no reads.
type brokenEngine struct {
	engine.Engine
	snapshots bool
}

var errDisk = errors.New("disk is gone")

func (brokenEngine) Get([]byte) ([]byte, error) { return nil, errDisk }

func (b brokenEngine) Snapshot() (engine.Snapshot, error) {
	if b.snapshots {
		return nil, errDisk
	}
	return b.Engine.Snapshot()
}

func TestEngineErrors(t *testing.T) {
	eng := openEngine(t)
	s, err := Load(brokenEngine{eng, false}, nil, nil)
	require.NoError(t, err)
	for i := range 3 {
		turn(t, eng, s, i, rand.New(rand.NewPCG(1, 1)))
	}
	v := s.Publish()
	for name, o := range map[string]RangeOptions{
		"span":  {Key: []byte("k"), End: []byte{0}, Revision: 2},
		"value": {Key: []byte("k"), End: []byte{0}, Revision: 2, Target: SortByValue, KeysOnly: true},
	} {
		_, err := v.Range(o)
		require.ErrorIs(t, err, errDisk, name)
	}
	res, err := v.Range(RangeOptions{Key: []byte("k"), End: []byte{0}, Revision: 2, Limit: 1, KeysOnly: true})
	require.NoError(t, err, "keys need no engine")
	kv, err := DecodeKeyValue(res.KVs[0])
	require.NoError(t, err)
	_, err = v.Range(RangeOptions{Key: kv.Key, Revision: 2})
	require.ErrorIs(t, err, errDisk)
	v.eng = brokenEngine{eng, true}
	require.ErrorIs(t, v.Events(1, 4, []byte("k"), nil, nil), errDisk)
	_, err = Load(brokenEngine{eng, true}, nil, nil)
	require.ErrorIs(t, err, errDisk)
}

func TestLoadRefusesDamage(t *testing.T) {
	good := KeyValue{Key: []byte("a"), Create: 2, Mod: 2, Ver: 1}
	for name, tc := range map[string]struct{ key, value []byte }{
		"key":       {[]byte("short"), good.Encode()},
		"value":     {Revision{2, 0}.EngineKey(false), []byte{0xff}},
		"revision":  {Revision{3, 0}.EngineKey(false), good.Encode()},
		"version":   {Revision{2, 0}.EngineKey(false), (&KeyValue{Key: good.Key, Create: 2, Mod: 2}).Encode()},
		"order":     {Revision{2, 0}.EngineKey(false), []byte("\x10\x02\x18\x02\x20\x01\x0a\x01a")},
		"keys":      {Revision{2, 0}.EngineKey(true), []byte("\x0a\x01a\x0a\x01b")},
		"scheduled": {scheduledKey, []byte("x")},
		"finished":  {finishedKey, []byte("x")},
	} {
		eng := openEngine(t)
		batch := &engine.Batch{}
		batch.Put(tc.key, tc.value)
		require.NoError(t, eng.Commit(batch))
		_, err := Load(eng, nil, nil)
		require.Error(t, err, name)
	}
	eng := openEngine(t)
	batch := &engine.Batch{}
	batch.Put(Revision{900, 0}.EngineKey(false), nil) // what a restore that moves the revision on leaves
	require.NoError(t, eng.Commit(batch))
	s, err := Load(eng, nil, nil)
	require.NoError(t, err)
	require.EqualValues(t, 900, s.Current())
	require.Zero(t, s.Keys())
}

func TestViewLease(t *testing.T) {
	eng := openEngine(t)
	s, err := Load(eng, nil, nil)
	require.NoError(t, err)
	s.Begin(&engine.Batch{})
	txn := s.Txn()
	_, err = txn.Put([]byte("a"), nil, 5)
	require.NoError(t, err)
	txn.End()
	before := s.Publish()
	txn = s.Txn()
	_, err = txn.DeleteRange([]byte("a"), nil)
	require.NoError(t, err)
	txn.End()
	after := s.Publish()
	lease, exists := before.Lease([]byte("a"))
	require.True(t, exists)
	require.EqualValues(t, 5, lease)
	_, exists = after.Lease([]byte("a"))
	require.False(t, exists)
	_, exists = after.Lease([]byte("b"))
	require.False(t, exists)
}
