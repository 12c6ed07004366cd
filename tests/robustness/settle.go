package robustness

import (
	"context"
	"errors"
	"fmt"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// settle makes everything well, ends the load, and holds what the run has left and what its clients were told against
// each other. It returns the number of acknowledged writes.
func (w *world) settle() (acknowledged int) {
	w.tb.Helper()
	w.recover()
	w.endLoad()
	w.load.Wait()
	w.eventually("the end of all leases", func(ctx context.Context) error {
		resp, err := w.all.Get(ctx, leasePrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err == nil && resp.Count > 0 {
			err = fmt.Errorf("there are still %v", resp.Kvs)
		}
		return err
	})
	end := w.mark()
	w.eventually("every watcher hears of the end", func(context.Context) error {
		for _, watcher := range w.watchers {
			if next := watcher.next.Load(); next <= end && (watcher.hears == nil || watcher.hears()) {
				return fmt.Errorf("%s has heard up to %d of %d", watcher.name, next-1, end)
			}
		}
		return nil
	})
	w.endWatches()
	w.watches.Wait()

	p, missing := w.chronicle.until(end)
	w.compareMembers(end, p)
	w.complain("the chronicle", missing)
	w.complain("watches", w.chronicle.mu.wrong)
	for _, watcher := range w.watchers {
		if watcher.prefix != "" {
			w.complain("watches", watcher.check(p))
		}
	}
	operations := w.journal.mu.operations
	w.complain("answers", checkAnswers(operations, p))
	w.complain("writes", checkWrites(operations, p, func(_, value string) bool { return value == ownValue }))
	w.complain("leases", w.promises.check(p))
	w.complain("errors", w.journal.mu.forbidden)
	wrong, givenUp := checkLinear(operations, p)
	w.complain("linearizability", wrong)
	all, acknowledged := w.journal.counts()
	w.tb.Logf("%d operations, %d acknowledged writes, %d revisions, %v; %d keys could not be searched in time; errors: %s", all, acknowledged,
		end, w.promises, givenUp, w.journal.errorCounts())
	return acknowledged
}

func (w *world) complain(what string, wrong []string) {
	w.tb.Helper()
	for _, text := range wrong {
		w.tb.Errorf("%s: %s", what, text)
	}
}

// ownValue is what the run itself puts, besides its clients.
const ownValue = "of the run"

// mark writes the last revision of the run, under a key of each prefix that is watched.
func (w *world) mark() (revision int64) {
	w.tb.Helper()
	w.eventually("the last write", func(ctx context.Context) error {
		// Of several tries the last one counts: a transaction that was applied without an answer comes before it.
		resp, err := w.all.Txn(ctx).Then(clientv3.OpPut("data/end", ownValue), clientv3.OpPut(leasePrefix+"end", ownValue)).Commit()
		if err == nil {
			revision = resp.Header.Revision
		}
		return err
	})
	return revision
}

// recover heals the network and the disks and starts what does not run, and returns when every member is ready.
func (w *world) recover() {
	w.tb.Helper()
	w.network.heal()
	w.free(w.others(nil))
	for i := range w.cluster.Members {
		if w.gone[i] {
			continue
		}
		w.disks.set(i, 0)
		if w.dead[i] {
			w.cluster.Begin(i)
		} else {
			w.cluster.Resume(i)
		}
	}
	for i := range w.cluster.Members {
		if !w.gone[i] {
			w.cluster.Await(i)
			w.dead[i] = false
		}
	}
}

// compareMembers holds that every member has the same hash at a revision, and just the keys that the past has then.
func (w *world) compareMembers(revision int64, p *past) {
	w.tb.Helper()
	want := p.list("", revision)
	var first *clientv3.HashKVResponse
	for i, m := range w.cluster.Members {
		if w.gone[i] {
			continue
		}
		var hash *clientv3.HashKVResponse
		w.eventually("the hash of "+name(i), func(ctx context.Context) (err error) {
			hash, err = w.etcds[i].HashKV(ctx, m.Endpoint(), revision)
			if err == nil && first != nil && (hash.Hash != first.Hash || hash.CompactRevision != first.CompactRevision) {
				err = fmt.Errorf("it is %d of revisions %d to %d, that of the first member %d of %d to %d", hash.Hash, hash.CompactRevision,
					hash.HashRevision, first.Hash, first.CompactRevision, first.HashRevision)
			}
			return err
		})
		if first == nil {
			first = hash
		}
		w.eventually("all keys of "+name(i), func(ctx context.Context) error {
			resp, err := w.etcds[i].Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithSerializable(), clientv3.WithRev(revision))
			if err != nil {
				return err
			}
			var got []pair
			for _, kv := range resp.Kvs {
				got = append(got, pair{string(kv.Key), string(kv.Value), kv.ModRevision})
			}
			if !slices.Equal(got, want) {
				return errors.New(difference(got, want))
			}
			return nil
		})
	}
}

// difference says where two lists of keys first differ.
func difference(got, want []pair) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Sprintf("key %d is %v, want %v", i, got[i], want[i])
		}
	}
	return fmt.Sprintf("there are %d keys, want %d", len(got), len(want))
}
