package inspect

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/interchange"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/mvcc"
	"github.com/dolmen-io/dolmen/internal/node"
	"github.com/dolmen-io/dolmen/internal/wal"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// checkEtcd looks at a directory that etcd wrote, by the rules by which it is taken over.
func (r *Report) checkEtcd(at node.Layout) error {
	if err := r.checkDatabase(at.EtcdDatabase); err != nil {
		return err
	}
	if !wal.Exist(at.WAL) {
		r.finding("raft log", restore, "there is none in %s", at.WAL)
		return nil
	}
	var applied *position
	if d := r.Database; d != nil {
		applied = &position{index: d.Applied, term: d.AppliedTerm, of: "database"}
	}
	if err := r.checkLog(at.WAL, applied); err != nil {
		return err
	}
	r.checkMember("database")
	if r.Database != nil {
		r.noteBehind("database", r.Database.Applied)
	}
	return nil
}

// checkDatabase reads etcd's database as a take-over does.
func (r *Report) checkDatabase(path string) (err error) {
	now, cancel := context.WithCancel(context.Background())
	cancel() // one that is in use is not waited for
	file, err := interchange.Open(now, path)
	switch {
	case errors.Is(err, interchange.ErrLocked):
		return fmt.Errorf("%w: %s", ErrInUse, path)
	case errors.Is(err, interchange.ErrDamaged):
		r.finding("database", restore, "%v", err)
		return nil
	case err != nil:
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	in := &database{report: r, leases: map[int64]bool{}, attached: map[string]int64{}}
	c, err := file.Scan(context.Background(), nil, in.record)
	switch {
	case errors.Is(err, interchange.ErrDamaged):
		r.finding("database", restore, "%v", err)
		return nil
	case err != nil:
		return err
	}
	in.describe(c)
	if err := c.LogReadable(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// database gathers what Contents does not count. The records have been checked.
type database struct {
	report   *Report
	auth     Auth
	leases   map[int64]bool
	attached map[string]int64 // the lease of each existing key that names one
}

func (d *database) record(table byte, key, value []byte) error {
	r := d.report
	switch table {
	case 0:
		kv, err := mvcc.DecodeKeyValue(value)
		if err != nil {
			return err
		}
		if kv.LeaseID == 0 {
			delete(d.attached, string(kv.Key))
		} else {
			d.attached[string(kv.Key)] = kv.LeaseID
		}
	case engine.TableLease:
		d.leases[int64(binary.BigEndian.Uint64(key))] = true
	case engine.TableMember:
		var m membership.Member
		if err := json.Unmarshal(value, &m); err != nil {
			return err
		}
		r.Cluster.Members = append(r.Cluster.Members, memberOf(m))
	case engine.TableAlarm:
		var a pb.AlarmMember
		if err := proto.Unmarshal(key, &a); err != nil {
			return err
		}
		r.Alarms = append(r.Alarms, Alarm{Member: string(hex(a.GetMemberID())), Type: a.GetAlarm().String()})
	case engine.TableAuth:
		if len(value) == 8 { // beside it there is only whether auth is on
			d.auth.Revision = binary.BigEndian.Uint64(value)
		}
	}
	return nil
}

func (d *database) describe(c *interchange.Contents) {
	r := d.report
	r.Database = &Database{Bytes: c.Size, Version: c.Version, Applied: c.Index, AppliedTerm: c.Term}
	r.Cluster.Version, r.Cluster.Removed = c.ClusterVersion, c.Removed
	r.Keys = &Keys{Revision: max(1, c.Revision, c.Scheduled, c.Finished), Keys: int64(c.Keys), Revisions: int64(c.Revisions),
		Bytes: c.Bytes, Compacted: max(c.Scheduled, c.Finished), Finished: c.Finished}
	r.Leases = &Leases{Leases: c.Leases}
	for _, lease := range d.attached {
		if d.leases[lease] {
			r.Leases.Keys++
		}
	}
	d.auth.Enabled, d.auth.Users, d.auth.Roles = c.AuthEnabled, c.Users, c.Roles
	r.Auth = &d.auth
}

func memberOf(m membership.Member) Member {
	return Member{ID: string(hex(m.ID)), Name: m.Name, PeerURLs: m.PeerURLs, Learner: m.IsLearner}
}
