package inspect

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/dolmen-io/dolmen/internal/wal"
)

const secretText = "sesame"

// requests are of every shape: flat, nested, with lists, with secrets, with bytes that are no text.
func requests() []*pb.InternalRaftRequest {
	header := &pb.RequestHeader{ID: 0xabc, Username: "root", AuthRevision: 7}
	return []*pb.InternalRaftRequest{
		{Header: header, Put: &pb.PutRequest{Key: []byte("k"), Value: []byte("value"), Lease: 0x1f}},
		{Put: &pb.PutRequest{Key: []byte{0xff, 'k'}, Value: []byte{0xfe}}},
		{DeleteRange: &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte{0}}},
		{Txn: &pb.TxnRequest{
			Compare: []*pb.Compare{{Key: []byte("k"), Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte("value")}}},
			Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("k"), Value: []byte("value")}}}},
		}},
		{LeaseRevoke: &pb.LeaseRevokeRequest{ID: -1}},
		{Alarm: &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 0xff, Alarm: pb.AlarmType_NOSPACE}},
		{AuthEnable: &pb.AuthEnableRequest{}},
		{AuthUserAdd: &pb.AuthUserAddRequest{Name: "u", Password: secretText, HashedPassword: secretText}},
		{AuthUserChangePassword: &pb.AuthUserChangePasswordRequest{Name: "u", Password: secretText, HashedPassword: secretText}},
		{Authenticate: &pb.InternalAuthenticateRequest{Name: "u", Password: secretText, SimpleToken: secretText}},
		{AuthRoleGrantPermission: &pb.AuthRoleGrantPermissionRequest{Name: "r", Perm: &authpb.Permission{Key: []byte("a"), RangeEnd: []byte("b")}}},
		{ID: 5},
	}
}

// build writes a log with all kinds of records and returns its directory.
func build(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "wal")
	l, err := wal.Create(zap.NewNop(), dir, wal.Metadata{NodeID: 0x11, ClusterID: 0x22}, wal.Options{UnsafeNoFsync: true})
	require.NoError(t, err)
	change, err := proto.Marshal(&raftpb.ConfChange{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: new(uint64(0x11)), Context: []byte(`{"id":17}`)})
	require.NoError(t, err)
	ents := []*raftpb.Entry{
		{Index: new(uint64(1)), Term: new(uint64(1)), Type: raftpb.EntryConfChange.Enum(), Data: change},
		{Index: new(uint64(2)), Term: new(uint64(2))},
	}
	for _, req := range requests() {
		data, err := proto.Marshal(req)
		require.NoError(t, err)
		ents = append(ents, &raftpb.Entry{Index: new(uint64(len(ents) + 1)), Term: new(uint64(2)), Data: data})
	}
	require.NoError(t, l.Append(&raftpb.HardState{Term: new(uint64(2)), Vote: new(uint64(0x11)), Commit: new(uint64(3))}, ents))
	require.NoError(t, l.Mark(3, 2, &raftpb.ConfState{Voters: []uint64{0x11}}))
	require.NoError(t, l.Close())
	return dir
}

// TestDump prints one log in many ways.
func TestDump(t *testing.T) {
	dir := build(t)
	datadriven.RunTest(t, "testdata/dump", func(t *testing.T, d *datadriven.TestData) string {
		var o DumpOptions
		for _, arg := range d.CmdArgs {
			switch arg.Key {
			case "from":
				arg.Scan(t, 0, &o.From)
			case "to":
				arg.Scan(t, 0, &o.To)
			case "kinds":
				o.Kinds = arg.Vals
			case "values":
				o.Values = true
			case "json":
				o.JSON = true
			default:
				d.Fatalf(t, "unknown argument %s", arg.Key)
			}
		}
		var out bytes.Buffer
		done, err := DumpLog(&out, dir, o)
		require.ErrorIs(t, err, ErrRequest, "the last request is none that is known")
		require.Equal(t, Dumped{Records: 19, Entries: 14, First: 1, Last: 14}, done)
		require.NotContains(t, out.String(), secretText)
		if o.JSON {
			for line := range strings.Lines(out.String()) {
				require.True(t, json.Valid([]byte(line)), line)
			}
		}
		return out.String()
	})
}

func TestDumpDamage(t *testing.T) {
	dir := build(t)
	files, err := wal.Files(dir)
	require.NoError(t, err)
	content, err := os.ReadFile(files[0].Path)
	require.NoError(t, err)
	content[400] ^= 1
	require.NoError(t, os.WriteFile(files[0].Path, content, 0o600))
	var out bytes.Buffer
	_, err = DumpLog(&out, dir, DumpOptions{})
	var damage *wal.Damage
	require.ErrorAs(t, err, &damage)
	require.NotNil(t, damage.Before)
	last := strings.TrimSpace(out.String())
	last = last[strings.LastIndex(last, "\n")+1:]
	require.True(t, strings.HasPrefix(strings.TrimSpace(last), fmt.Sprintf("%d ", damage.Before.Offset)), "what precedes the damage is printed: %s", last)

	_, err = DumpLog(&out, t.TempDir(), DumpOptions{})
	require.ErrorIs(t, err, ErrNothing)
	_, err = DumpLog(&out, filepath.Join(dir, "absent"), DumpOptions{})
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestDumpOfRunningMember(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "wal")
	l, err := wal.Create(zap.NewNop(), dir, wal.Metadata{NodeID: 1, ClusterID: 2}, wal.Options{})
	require.NoError(t, err)
	done, err := DumpLog(&bytes.Buffer{}, dir, DumpOptions{})
	require.NoError(t, err)
	require.True(t, done.Running)
	require.NoError(t, l.Close())
}

type fullDisk struct{}

var errFull = errors.New("no space")

func (fullDisk) Write([]byte) (int, error) { return 0, errFull }

func TestDumpWriteFails(t *testing.T) {
	for _, json := range []bool{false, true} {
		_, err := DumpLog(fullDisk{}, build(t), DumpOptions{JSON: json})
		require.ErrorIs(t, err, errFull)
	}
}

// TestNothingSecretIsShown looks at every text a request can hold. One that is not listed here as safe is printed as
// its size at most, also with values.
func TestNothingSecretIsShown(t *testing.T) {
	safe := map[string]bool{
		"etcdserverpb.RequestHeader.username": true, "etcdserverpb.RangeRequest.key": true, "etcdserverpb.RangeRequest.range_end": true,
		"etcdserverpb.PutRequest.key": true, "etcdserverpb.DeleteRangeRequest.key": true, "etcdserverpb.DeleteRangeRequest.range_end": true,
		"etcdserverpb.Compare.key": true, "etcdserverpb.Compare.range_end": true, "etcdserverpb.InternalAuthenticateRequest.name": true,
		"etcdserverpb.AuthUserAddRequest.name": true, "etcdserverpb.AuthUserGetRequest.name": true, "etcdserverpb.AuthUserDeleteRequest.name": true,
		"etcdserverpb.AuthUserChangePasswordRequest.name": true, "etcdserverpb.AuthUserGrantRoleRequest.user": true,
		"etcdserverpb.AuthUserGrantRoleRequest.role": true, "etcdserverpb.AuthUserRevokeRoleRequest.name": true,
		"etcdserverpb.AuthUserRevokeRoleRequest.role": true, "etcdserverpb.AuthRoleAddRequest.name": true, "etcdserverpb.AuthRoleGetRequest.role": true,
		"etcdserverpb.AuthRoleDeleteRequest.role": true, "etcdserverpb.AuthRoleGrantPermissionRequest.name": true,
		"authpb.Permission.key": true, "authpb.Permission.range_end": true, "etcdserverpb.AuthRoleRevokePermissionRequest.role": true,
		"etcdserverpb.AuthRoleRevokePermissionRequest.key": true, "etcdserverpb.AuthRoleRevokePermissionRequest.range_end": true,
		"etcdserverpb.DowngradeVersionTestRequest.ver": true, "membershippb.ClusterVersionSetRequest.ver": true,
		"membershippb.Attributes.name": true, "membershippb.Attributes.client_urls": true, "membershippb.DowngradeInfoSetRequest.ver": true,
	}
	values := map[string]bool{"etcdserverpb.PutRequest.value": true, "etcdserverpb.Compare.value": true}
	seen := map[protoreflect.FullName]bool{}
	var walk func(m protoreflect.MessageDescriptor)
	walk = func(m protoreflect.MessageDescriptor) {
		if seen[m.FullName()] {
			return
		}
		seen[m.FullName()] = true
		for i := range m.Fields().Len() {
			d := m.Fields().Get(i)
			if d.Message() != nil {
				walk(d.Message())
				continue
			}
			if d.Kind() != protoreflect.StringKind && d.Kind() != protoreflect.BytesKind {
				continue
			}
			switch see := visibilityOf(d.Name()); {
			case safe[string(d.FullName())]:
				require.Equal(t, shown, see, d.FullName())
			case values[string(d.FullName())]:
				require.Equal(t, withValues, see, d.FullName())
			default:
				require.Contains(t, []visibility{sizeOnly, secret}, see, d.FullName())
			}
		}
	}
	walk((&pb.InternalRaftRequest{}).ProtoReflect().Descriptor())
	require.Len(t, DumpKinds(), len(recordKinds())+(&pb.InternalRaftRequest{}).ProtoReflect().Descriptor().Fields().Len()-2)
}

// FuzzRequest: whatever bytes an entry holds, they are described, as valid JSON too, and no value shows.
func FuzzRequest(f *testing.F) {
	for _, req := range requests() {
		data, err := proto.Marshal(req)
		require.NoError(f, err)
		f.Add(int32(raftpb.EntryNormal), data)
	}
	f.Add(int32(raftpb.EntryConfChangeV2), []byte{0x12, 0x02, 0x08, 0x01})
	f.Fuzz(func(t *testing.T, kind int32, data []byte) {
		e := &raftpb.Entry{Type: raftpb.EntryType(kind).Enum(), Data: data}
		r := decodeRequest(e, false)
		require.NotEmpty(t, r.Kind)
		require.True(t, strings.HasPrefix(r.String(), r.Kind))
		require.Equal(t, r.Kind == "unreadable", r.Err != nil)
		line := &dumpLine{Record: "entry", Bytes: new(len(data)), request: &r}
		b, err := json.Marshal(line)
		require.NoError(t, err)
		require.True(t, json.Valid(b))
		require.NotContains(t, string(b), `"value":`)
		require.NotContains(t, string(b), `"password`)
	})
}
