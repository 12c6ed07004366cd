package interchange

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/coreos/go-semver/semver"
	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/lease/leasepb"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/lease"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/mvcc"
)

// bucket is one of etcd's, the engine's table of the same records, and what a record must look like. A check
// returns what is wrong with a record.
type bucket struct {
	name  string
	table byte // 0 for the revisions, which have none
	check func(key, value []byte) error
}

const (
	bucketKey  = "key"
	bucketMeta = "meta"
)

// buckets are all buckets in the order of their names, which is that of a file.
func buckets() []bucket {
	return []bucket{
		{"alarm", engine.TableAlarm, checkAlarm},
		{"auth", engine.TableAuth, checkAuth},
		{"authRoles", engine.TableAuthRole, checkRole},
		{"authUsers", engine.TableAuthUser, checkUser},
		{"cluster", engine.TableCluster, checkCluster},
		{bucketKey, 0, checkRevision},
		{"lease", engine.TableLease, checkLease},
		{"members", engine.TableMember, checkMember},
		{"members_removed", engine.TableMemberRemoved, checkRemoved},
		{bucketMeta, engine.TableMeta, checkMeta},
	}
}

// limits returns where the records of a bucket lie in an engine.
func (b bucket) limits() (lo, hi []byte) {
	if b.table == 0 {
		return nil, engine.RevisionsEnd
	}
	return engine.TableRange(b.table)
}

// engineKey returns the key that an engine has for a record, in memory of its own.
func (b bucket) engineKey(key []byte) []byte {
	if b.table == 0 {
		return append([]byte(nil), key...)
	}
	return engine.TableKey(b.table, key)
}

// Keys in the buckets auth, cluster and meta.
const (
	authEnabledKey  = "authEnabled"
	authRevisionKey = "authRevision"

	clusterVersionKey = "clusterVersion"
	downgradeKey      = "downgrade"

	indexKey          = "consistent_index"
	termKey           = "term"
	confStateKey      = "confState"
	storageVersionKey = "storageVersion"
	scheduledKey      = "scheduledCompactRev"
	finishedKey       = "finishedCompactRev"
)

// errUnknown is for what a version after ours may write. Dropping it could drop a promise to somebody.
var errUnknown = errors.New("is a record this version does not know")

func checkRevision(key, value []byte) error {
	rev, tombstone, err := mvcc.ParseEngineKey(key)
	if err != nil {
		return err
	}
	kv, err := mvcc.DecodeKeyValue(value)
	switch {
	case err != nil:
		return err
	case tombstone && len(kv.Key) == 0:
		return errors.New("is a delete of no key")
	case tombstone, len(value) == 0: // without a value: what "snapshot restore --bump-revision" adds
		return nil
	case len(kv.Key) == 0:
		return errors.New("holds no key")
	case kv.Mod != rev.Main || kv.Ver <= 0 || kv.Create <= 0 || kv.Create > kv.Mod:
		return fmt.Errorf("holds key %q modified at %d, created at %d, version %d", kv.Key, kv.Mod, kv.Create, kv.Ver)
	}
	return nil
}

func checkLease(key, value []byte) error {
	if len(key) != 8 {
		return fmt.Errorf("is %d bytes long, want 8", len(key))
	}
	id := int64(binary.BigEndian.Uint64(key))
	var l leasepb.Lease
	if err := proto.Unmarshal(value, &l); err != nil {
		return fmt.Errorf("holds no lease: %w", err)
	}
	if id == 0 || l.GetID() != id || l.GetTTL() > lease.MaxTTL {
		return fmt.Errorf("holds lease %016x with a time to live of %d s", uint64(l.GetID()), l.GetTTL())
	}
	return nil
}

func checkAlarm(key, value []byte) error {
	var a etcdserverpb.AlarmMember
	if err := proto.Unmarshal(key, &a); err != nil {
		return fmt.Errorf("is no alarm: %w", err)
	}
	if a.GetAlarm() == etcdserverpb.AlarmType_NONE || len(value) != 0 {
		return fmt.Errorf("is no raised alarm: type %v with a value of %d bytes", a.GetAlarm(), len(value))
	}
	return nil
}

func checkAuth(key, value []byte) error {
	switch string(key) {
	case authEnabledKey:
		if len(value) != 1 || value[0] > 1 {
			return fmt.Errorf("is %x, neither 00 nor 01", value)
		}
	case authRevisionKey:
		return checkNumber(value)
	default:
		return errUnknown
	}
	return nil
}

func checkNumber(value []byte) error {
	if len(value) != 8 {
		return fmt.Errorf("is %d bytes long, want 8", len(value))
	}
	return nil
}

func checkUser(key, value []byte) error {
	var u authpb.User
	if err := proto.Unmarshal(value, &u); err != nil {
		return fmt.Errorf("holds no user: %w", err)
	}
	if len(key) == 0 || string(u.GetName()) != string(key) {
		return fmt.Errorf("holds user %q", u.GetName())
	}
	return nil
}

func checkRole(key, value []byte) error {
	var r authpb.Role
	if err := proto.Unmarshal(value, &r); err != nil {
		return fmt.Errorf("holds no role: %w", err)
	}
	if len(key) == 0 || string(r.GetName()) != string(key) {
		return fmt.Errorf("holds role %q", r.GetName())
	}
	return nil
}

func checkMember(key, value []byte) error {
	id, err := memberID(key)
	if err != nil {
		return err
	}
	var m membership.Member
	if err := json.Unmarshal(value, &m); err != nil {
		return fmt.Errorf("holds no member: %w", err)
	}
	if m.ID != id {
		return fmt.Errorf("holds member %x", m.ID)
	}
	return nil
}

func memberID(key []byte) (uint64, error) {
	id, err := strconv.ParseUint(string(key), 16, 64)
	if err != nil || strconv.FormatUint(id, 16) != string(key) {
		return 0, errors.New("is not a member's ID: hexadecimal, lower case, without zeros in front")
	}
	return id, nil
}

func checkRemoved(key, _ []byte) error {
	_, err := memberID(key)
	return err
}

func checkCluster(key, value []byte) error {
	switch string(key) {
	case clusterVersionKey:
		return checkVersion(value)
	case downgradeKey:
		var d membership.Downgrade
		if err := json.Unmarshal(value, &d); err != nil {
			return fmt.Errorf("holds no downgrade: %w", err)
		}
		if d.Enabled {
			return checkVersion([]byte(d.TargetVersion))
		}
		return nil
	}
	return errUnknown
}

func checkVersion(value []byte) error {
	if _, err := semver.NewVersion(string(value)); err != nil {
		return fmt.Errorf("holds no version: %w", err)
	}
	return nil
}

func checkMeta(key, value []byte) error {
	switch string(key) {
	case indexKey, termKey:
		return checkNumber(value)
	case confStateKey:
		_, err := decodeConfState(value)
		return err
	case storageVersionKey:
		return checkVersion(value)
	case scheduledKey, finishedKey:
		_, tombstone, err := mvcc.ParseEngineKey(value)
		if err == nil && tombstone {
			err = errors.New("is the revision of a delete")
		}
		return err
	}
	return errUnknown
}
