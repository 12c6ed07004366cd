package engine

// The key space of a member's engine. Revision keys are etcd's own bytes,
//
//	+--------------+-----+-------------+-----------+
//	| main, 8 B BE | '_' | sub, 8 B BE | 't' or -- |
//	+--------------+-----+-------------+-----------+
//
// and since a revision is a positive int64 their first byte is below 0x80. Everything else lives in a
// table whose first byte is 0x80 or above, so the two never meet and an export of the revisions is a
// plain copy.
const (
	// TableMeta holds the applied index and what belongs to it.
	TableMeta byte = 0x80 + iota
	// TableLease holds leases: 8 B big-endian ID -> leasepb.Lease.
	TableLease
	// TableMember holds members: hexadecimal ID -> JSON as in etcd's bucket of that name.
	TableMember
	// TableMemberRemoved holds IDs that may never come back.
	TableMemberRemoved
	// TableAlarm holds raised alarms: AlarmMember -> nothing.
	TableAlarm
	// TableCluster holds the cluster version and the downgrade job.
	TableCluster
	// TableAuth, TableAuthUser and TableAuthRole hold users, roles and whether auth is on.
	TableAuth
	TableAuthUser
	TableAuthRole
)

// RevisionsEnd is the exclusive upper limit of all revision keys.
var RevisionsEnd = []byte{TableMeta}

// TableKey returns the engine key of key in a table.
func TableKey(table byte, key []byte) []byte {
	k := make([]byte, 1+len(key))
	k[0] = table
	copy(k[1:], key)
	return k
}

// TableRange returns the limits of a whole table, for Scan and DeleteRange.
func TableRange(table byte) (lo, hi []byte) { return []byte{table}, []byte{table + 1} }
