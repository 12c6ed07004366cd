package interchange

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"slices"

	"github.com/coreos/go-semver/semver"
	"go.etcd.io/bbolt"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/mvcc"
)

// Contents is what a file holds.
type Contents struct {
	// Hash is etcd's checksum over all buckets: CRC-32C over each bucket's name, its keys and values.
	Hash uint32
	// Revision is that of the newest change, 0 if there is none; Scheduled and Finished are the compactions
	// that were asked for and completed, 0 if there was none.
	Revision, Scheduled, Finished int64
	// Revisions counts changes that are kept, Keys the keys that exist.
	Revisions, Keys                                int
	Leases, Users, Roles, Members, Removed, Alarms int
	AuthEnabled                                    bool
	// Size is that of the file in bytes, without a trailer; Bytes is that of the records.
	Size, Bytes int64
	// Version is the version of the format, empty before etcd 3.6, which wrote none. ClusterVersion is that of
	// the cluster, empty if it was not agreed on yet.
	Version, ClusterVersion string
	// Index and Term are the position in the raft log that the file is at, 0 if it does not say.
	Index, Term uint64
	// Conf is the configuration that follows from the members. It is not what the file says of it: that is
	// left as it was by a restore, and etcd does not read it either.
	Conf *raftpb.ConfState
}

// newestVersion is the newest version of the format that can be read: that of etcd 3.7.
var newestVersion = semver.Version{Major: 3, Minor: 7}

// progressEvery is how many records lie between two reports of a scan, and two looks whether it shall go on.
const progressEvery = 10_000

// Scan reads the whole file and checks each page and each record. fn, which may be nil, is called for each
// record in the order of the file; key and value are valid only within the call. progress, which may be nil,
// is called now and then with the bytes of the records so far. Errors wrap ErrDamaged or ErrVersion, or are of
// fn, ctx or the file system.
func (f *File) Scan(ctx context.Context, progress func(bytes int64), fn func(table byte, key, value []byte) error) (_ *Contents, err error) {
	defer func() { err = inFile(f.path, err) }()
	if err := f.check(); err != nil {
		return nil, err
	}
	s := &scan{
		ctx: ctx, fn: fn, progress: progress, crc: crc32.New(crc32.MakeTable(crc32.Castagnoli)), live: map[string]struct{}{},
		contents: Contents{Size: f.used, Conf: &raftpb.ConfState{AutoLeave: new(bool)}},
	}
	if err := f.db.View(s.run); err != nil {
		return nil, err
	}
	c := &s.contents
	c.Hash, c.Keys = s.crc.Sum32(), len(s.live)
	// Their keys are hexadecimal without zeros in front, so they came in another order.
	slices.Sort(c.Conf.Voters)
	slices.Sort(c.Conf.Learners)
	if err := c.check(); err != nil {
		return nil, err
	}
	return c, nil
}

// check refuses what does not fit together, and versions that cannot be read.
func (c *Contents) check() error {
	if c.Version == "" {
		// Before 3.6 the version is told by what else there is. A file into which nothing was ever applied is of
		// no version.
		if c.Term == 0 && (c.Index != 0 || c.Revisions > 0) {
			return fmt.Errorf("%w: it says neither its version nor its term, as before etcd 3.5; start it once with etcd 3.5 and 3.6", ErrVersion)
		}
		return nil
	}
	v, err := semver.NewVersion(c.Version)
	if err != nil {
		return fmt.Errorf("%w: version %q: %w", ErrDamaged, c.Version, err)
	}
	if newestVersion.LessThan(semver.Version{Major: v.Major, Minor: v.Minor}) {
		return fmt.Errorf("%w: it says version %s, this program knows up to %d.%d; use a newer one, or let etcd downgrade first",
			ErrVersion, c.Version, newestVersion.Major, newestVersion.Minor)
	}
	return nil
}

// LogReadable reports whether the raft log of the member that the file is of can be read too. Before 3.6 a log
// holds requests of another kind; etcd 3.7 does not read them either. The version 3.0 says nothing: it is agreed
// on while a member is not known yet.
func (c *Contents) LogReadable() error {
	v, err := semver.NewVersion(c.ClusterVersion)
	if c.ClusterVersion == "" || err != nil || v.Minor == 0 || !v.LessThan(firstVersioned) {
		return nil
	}
	return fmt.Errorf("%w: the cluster is of version %s, whose log holds requests of another kind; "+
		"start it with etcd 3.6 first, or restore a snapshot of it", ErrVersion, c.ClusterVersion)
}

// scan is one pass over a file.
type scan struct {
	ctx      context.Context
	fn       func(table byte, key, value []byte) error
	progress func(int64)
	crc      hash.Hash32
	live     map[string]struct{}
	records  int
	contents Contents
}

func (s *scan) run(tx *bbolt.Tx) error {
	known := buckets()
	err := tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
		if len(known) == 0 || known[0].name != string(name) {
			// What comes is behind what was expected: that one is missing.
			if len(known) > 0 && known[0].name < string(name) {
				return missingBucket(known[0].name)
			}
			return fmt.Errorf("%w: bucket %q %w; use a newer version", ErrVersion, name, errUnknown)
		}
		kind := known[0]
		known = known[1:]
		_, _ = s.crc.Write(name)
		return b.ForEach(func(k, v []byte) error { return s.record(kind, k, v) })
	})
	if err == nil && len(known) > 0 {
		err = missingBucket(known[0].name)
	}
	return err
}

func missingBucket(name string) error {
	return fmt.Errorf("%w: bucket %q is missing; the file is not of an etcd member, or was cut", ErrDamaged, name)
}

func (s *scan) record(kind bucket, key, value []byte) error {
	if s.records%progressEvery == 0 {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		if s.progress != nil {
			s.progress(s.contents.Bytes)
		}
	}
	s.records++
	if err := kind.check(key, value); err != nil {
		cause := ErrDamaged
		if errors.Is(err, errUnknown) {
			cause = ErrVersion
		}
		return fmt.Errorf("%w: bucket %q: key %s %w", cause, kind.name, printable(key), err)
	}
	_, _ = s.crc.Write(key)
	_, _ = s.crc.Write(value)
	s.contents.Bytes += int64(len(key) + len(value))
	s.note(kind.name, key, value)
	if s.fn == nil {
		return nil
	}
	return s.fn(kind.table, key, value)
}

// printable is a key as an error shows it.
func printable(key []byte) string {
	for _, c := range key {
		if c < ' ' || c > '~' {
			return fmt.Sprintf("%x", key)
		}
	}
	return fmt.Sprintf("%q", key)
}

// note counts a record, which has been checked.
func (s *scan) note(bucket string, key, value []byte) {
	c := &s.contents
	switch bucket {
	case bucketKey:
		s.noteRevision(key, value)
	case bucketMeta:
		c.noteMeta(string(key), value)
	case "lease":
		c.Leases++
	case "alarm":
		c.Alarms++
	case "authUsers":
		c.Users++
	case "authRoles":
		c.Roles++
	case "cluster":
		if string(key) == clusterVersionKey {
			c.ClusterVersion = string(value)
		}
	case "auth":
		if string(key) == authEnabledKey {
			c.AuthEnabled = value[0] == 1
		}
	case "members":
		c.Members++
		var m membership.Member
		_ = json.Unmarshal(value, &m) // it was checked
		if m.IsLearner {
			c.Conf.Learners = append(c.Conf.Learners, m.ID)
		} else {
			c.Conf.Voters = append(c.Conf.Voters, m.ID)
		}
	case "members_removed":
		c.Removed++
	}
}

func (s *scan) noteRevision(key, value []byte) {
	rev, tombstone, _ := mvcc.ParseEngineKey(key) // both were checked
	kv, _ := mvcc.DecodeKeyValue(value)
	s.contents.Revision = rev.Main
	s.contents.Revisions++
	if tombstone {
		delete(s.live, string(kv.Key))
	} else {
		s.live[string(kv.Key)] = struct{}{}
	}
}

func (c *Contents) noteMeta(key string, value []byte) {
	switch key {
	case indexKey:
		c.Index = binary.BigEndian.Uint64(value)
	case termKey:
		c.Term = binary.BigEndian.Uint64(value)
	case storageVersionKey:
		c.Version = string(value)
	case scheduledKey:
		rev, _, _ := mvcc.ParseEngineKey(value)
		c.Scheduled = rev.Main
	case finishedKey:
		rev, _, _ := mvcc.ParseEngineKey(value)
		c.Finished = rev.Main
	}
}

// decodeConfState reads etcd's JSON of a raft configuration.
func decodeConfState(value []byte) (*raftpb.ConfState, error) {
	cs := &raftpb.ConfState{}
	if err := json.Unmarshal(value, cs); err != nil {
		return nil, fmt.Errorf("holds no configuration of raft: %w", err)
	}
	return cs, nil
}
