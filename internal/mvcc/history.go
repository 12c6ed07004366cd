package mvcc

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/watch"
)

// Events calls fn for the changes of [key, end) with main revisions from..to, in order, until it returns
// false. Bytes handed to fn are immutable and may be kept. The view must not be older than to.
//
// ErrCompacted is returned for a start below the compaction that the view knows of; when a later
// compaction has removed some of the revisions meanwhile, the caller must check for itself afterwards.
func (v *View) Events(from, to int64, key, end []byte, fn func(watch.Event) bool) (err error) {
	if from < v.compacted {
		return ErrCompacted
	}
	sn, err := v.eng.Snapshot()
	if err != nil {
		return fmt.Errorf("mvcc: history: %w", err)
	}
	defer func() { err = errors.Join(err, sn.Close()) }()
	sp := newSpan(key, end)
	lo := Revision{Main: from}.EngineKey(false)
	hi := Revision{Main: to + 1}.EngineKey(false)
	var failed error
	err = sn.Scan(lo, hi, false, func(k, value []byte) bool {
		ev, ok, err := v.event(sn, sp, k, value)
		if err != nil {
			failed = err
			return false
		}
		return !ok || fn(ev)
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("mvcc: history: %w", err)
	}
	return nil
}

// event makes the event of one stored revision, if its key lies in the span.
func (v *View) event(sn engine.Snapshot, sp span, k, value []byte) (watch.Event, bool, error) {
	rev, tombstone, err := ParseEngineKey(k)
	if err != nil {
		return watch.Event{}, false, err
	}
	kv, err := DecodeKeyValue(value)
	if err != nil {
		return watch.Event{}, false, fmt.Errorf("revision %d.%d: %w", rev.Main, rev.Sub, err)
	}
	if !sp.contains(kv.Key) {
		return watch.Event{}, false, nil
	}
	ev := watch.Event{Main: rev.Main, Sub: rev.Sub, Key: bytes.Clone(kv.Key), Delete: tombstone}
	if tombstone {
		ev.KV = (&KeyValue{Key: kv.Key, Mod: rev.Main}).Encode()
	} else {
		ev.KV = bytes.Clone(value)
	}
	if tombstone || kv.Create != kv.Mod {
		if ev.Prev, err = v.previous(sn, kv.Key, rev.Main); err != nil {
			return watch.Event{}, false, err
		}
	}
	return ev, true, nil
}

// previous returns what key held at the revision before main, nil if that is compacted or nothing.
func (v *View) previous(sn engine.Snapshot, key []byte, main int64) ([]byte, error) {
	if main-1 < v.compacted {
		return nil, nil
	}
	it := v.root.get(key)
	if it == nil {
		return nil, nil
	}
	ver := it.liveAt(main - 1)
	if ver == nil {
		return nil, nil
	}
	if kv := ver.kv(); kv != nil {
		return kv, nil
	}
	kv, err := sn.Get(ver.rev().EngineKey(false))
	if isNotFound(err) {
		return nil, nil
	}
	return kv, err
}
