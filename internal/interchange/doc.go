// Package interchange turns a member's engine into the file in which etcd keeps its data, and back: for
// backups, for taking over an etcd member's directory, and for what members of both kinds send each other.
//
// The file is a bbolt database with ten buckets. An engine holds the same records in tables of the same
// content, byte for byte, so both ways are copies:
//
//	bucket            engine                  record
//	key               revisions, as they are  revision -> mvccpb.KeyValue
//	lease             TableLease              ID -> leasepb.Lease
//	auth              TableAuth               authEnabled, authRevision
//	authUsers         TableAuthUser           name -> authpb.User
//	authRoles         TableAuthRole           name -> authpb.Role
//	members           TableMember             ID -> JSON
//	members_removed   TableMemberRemoved      ID -> "removed"
//	cluster           TableCluster            clusterVersion, downgrade
//	alarm             TableAlarm              AlarmMember -> nothing
//	meta              TableMeta, in part      how far compaction has come
//
// Only the bucket meta differs: where an engine has one record of the applied index, its term and the
// configuration there, etcd has three, and it has the version of the format besides.
//
// A file comes from outside. bbolt has no checksums of its pages and trusts what they refer to, so nothing
// is given to it before pages.go has followed every reference; and no record is believed before it has been
// checked as buckets.go says.
package interchange
