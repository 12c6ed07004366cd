package corruption

import (
	"context"
	"errors"
	"maps"
	"slices"

	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/mvcc"
)

// finding is that members differ in the checksum of a compaction: who had which.
type finding struct {
	hash    mvcc.Hash // this member's
	members map[uint32][]uint64
}

func (f finding) equal(g finding) bool {
	return f.hash == g.hash && maps.EqualFunc(f.members, g.members, slices.Equal[[]uint64])
}

// suspects returns the members outside the majority. Without a majority nobody knows who is wrong, which
// is said by the ID 0.
func (f finding) suspects(of int) (ids []uint64) {
	majority, found := uint32(0), false
	for sum, group := range f.members {
		if len(group) >= of/2+1 {
			majority, found = sum, true
		}
	}
	if !found {
		return []uint64{0}
	}
	for sum, group := range f.members {
		if sum != majority {
			ids = append(ids, group...)
		}
	}
	return members(ids)
}

// Compactions compares the checksums that members have taken of the same compactions, newest first, until
// all members are found equal at one. Every member compacts to the same revisions, so nothing is computed
// for it. Members that have not finished a compaction, or do not answer, are passed over. The alarm is
// raised for what two checks in a row have found at a compaction.
func (c *Checker) Compactions(ctx context.Context) error {
	others := c.cluster.Others()
	if others == 0 {
		return nil
	}
	c.lg.Info("starting compact hash check", zap.String("local-member-id", hexID(c.cluster.Self())))
	hashes := c.unchecked()
	n := 0
	for _, h := range hashes {
		n++
		settled, err := c.compare(ctx, h)
		if err != nil {
			return err
		}
		if settled {
			break
		}
	}
	c.lg.Info("finished compaction hash check", zap.Int("number-of-hashes-checked", n))
	return nil
}

// unchecked returns the checksums newer than the last one found equal everywhere, newest first, and forgets
// findings about others.
func (c *Checker) unchecked() []mvcc.Hash {
	hashes := slices.Clone(c.cluster.Hashes())
	slices.Reverse(hashes)
	hashes = slices.DeleteFunc(hashes, func(h mvcc.Hash) bool { return h.Revision <= c.checked })
	maps.DeleteFunc(c.found, func(revision int64, _ finding) bool {
		return !slices.ContainsFunc(hashes, func(h mvcc.Hash) bool { return h.Revision == revision })
	})
	return hashes
}

// compare compares all members at one compaction. settled says that older ones need not be looked at.
func (c *Checker) compare(ctx context.Context, own mvcc.Hash) (settled bool, err error) {
	fields := []zap.Field{
		zap.String("leader-id", hexID(c.cluster.Self())), zap.Int64("leader-revision", own.Revision),
		zap.Int64("leader-compact-revision", own.Compacted), zap.Uint32("leader-hash", own.Sum),
	}
	peers := c.cluster.Ask(ctx, own.Revision)
	now := finding{hash: own, members: map[uint32][]uint64{own.Sum: {c.cluster.Self()}}}
	checked := 0
	for _, p := range peers {
		if p.Err != nil || p.Compacted != own.Compacted {
			c.lg.Warn("Skipped peer's hash", append(slices.Clone(fields), zap.String("peer-id", hexID(p.ID)),
				zap.Int64("peer-compact-revision", p.Compacted), zap.Error(p.Err))...)
			continue
		}
		checked++
		now.members[p.Sum] = members(append(now.members[p.Sum], p.ID))
	}
	if len(now.members) == 1 {
		delete(c.found, own.Revision)
		if checked < len(peers) {
			c.lg.Warn("skipped revision in compaction hash check; was not able to check all peers",
				append(fields, zap.Int("number-of-peers-checked", checked), zap.Int("number-of-peers", len(peers)))...)
			return false, nil
		}
		c.lg.Info("successfully checked hash on whole cluster", append(fields, zap.Int("number-of-peers-checked", checked))...)
		c.checked = max(c.checked, own.Revision)
		return true, nil
	}
	before, again := c.found[own.Revision]
	c.found[own.Revision] = now
	if !again || !before.equal(now) {
		c.lg.Warn("Detected compaction hash mismatch; it will be looked at again", append(fields, zap.Any("members", named(now)))...)
		return false, nil
	}
	return true, c.raise(ctx, now, len(peers)+1, fields)
}

func (c *Checker) raise(ctx context.Context, f finding, of int, fields []zap.Field) error {
	var errs []error
	for _, id := range f.suspects(of) {
		if id == 0 {
			c.lg.Error("Detected compaction hash mismatch but cannot identify the corrupted members, "+
				"so intentionally set the memberID as 0", append(fields, zap.Any("members", named(f)))...)
		} else {
			c.lg.Error("Detected compaction hash mismatch", append(slices.Clone(fields),
				zap.String("suspect-member-id", hexID(id)), zap.Any("members", named(f)))...)
		}
		errs = append(errs, c.cluster.Suspect(ctx, id))
	}
	return errors.Join(errs...)
}

// named is who had which checksum, for a log line.
func named(f finding) map[uint32][]string {
	all := map[uint32][]string{}
	for sum, ids := range f.members {
		for _, id := range ids {
			all[sum] = append(all[sum], hexID(id))
		}
	}
	return all
}
