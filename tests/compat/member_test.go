package compat

import (
	"slices"
	"strings"
	"testing"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/tests/harness"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestMemberListAndStatus(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.awaitStorageVersion()
		r.DoAll(&pb.MemberListRequest{}, &pb.MemberListRequest{Linearizable: true}, &pb.StatusRequest{})
		r.DoAll(put("a", "1"), &pb.StatusRequest{}, &pb.MemberListRequest{Linearizable: true})
	})
}

// awaitStorageVersion waits until the member has told the cluster who it is and which storage version it writes,
// which both implementations do in the background after they are ready.
func (r *Recorder) awaitStorageVersion() {
	r.until("the storage version is known", func() bool {
		resp, err := pb.NewMaintenanceClient(r.conn).Status(r.ctx, &pb.StatusRequest{})
		if err != nil || resp.StorageVersion != "3.7.0" {
			return false
		}
		members, err := pb.NewClusterClient(r.conn).MemberList(r.ctx, &pb.MemberListRequest{})
		return err == nil && r.published(members.Members)
	})
}

// published reports whether every member has told the cluster its name.
func (r *Recorder) published(members []*pb.Member) bool {
	return len(members) == r.size() && !slices.ContainsFunc(members, func(m *pb.Member) bool { return m.Name == "" })
}

func TestAlarm(t *testing.T) {
	alarm := func(action pb.AlarmRequest_AlarmAction, member uint64, kind pb.AlarmType) *pb.AlarmRequest {
		return &pb.AlarmRequest{Action: action, MemberID: member, Alarm: kind}
	}
	const (
		on  = pb.AlarmRequest_ACTIVATE
		off = pb.AlarmRequest_DEACTIVATE
		get = pb.AlarmRequest_GET
	)
	writes := []proto.Message{
		put("a", "1"), put("", "1"), del("a", ""), txn(put("a", "1")), txn(del("a", "")), txn(rangeAll()), txn(txn(rangeAll())),
		rangeAll(), compact(0), &pb.LeaseGrantRequest{ID: 5, TTL: 1000}, &pb.LeaseRevokeRequest{ID: 5},
		&pb.StatusRequest{}, &healthpb.HealthCheckRequest{},
	}
	compare(t, harness.Options{}, func(r *Recorder) {
		r.awaitStorageVersion()
		r.DoAll(alarm(get, 0, pb.AlarmType_NONE), alarm(on, 1, pb.AlarmType_NONE), alarm(off, 1, pb.AlarmType_NOSPACE))
		for _, kind := range []pb.AlarmType{pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT} {
			r.DoAll(alarm(on, 11, kind), alarm(on, 11, kind), alarm(on, 22, kind), alarm(get, 99, kind),
				alarm(get, 0, pb.AlarmType_NONE), alarm(off, 22, kind))
			r.DoAll(writes...)
			r.DoAll(alarm(off, 22, kind), alarm(off, 11, pb.AlarmType_NONE), alarm(off, 11, kind), put("b", "1"))
		}
		r.DoAll(alarm(on, 1, 7), alarm(get, 0, 7), alarm(get, 0, 0), alarm(off, 1, 7))
	})
}

func rangeAll() *pb.RangeRequest { return get(all, all) }

func TestHealthService(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.DoAll(&healthpb.HealthCheckRequest{}, &healthpb.HealthCheckRequest{Service: "nope"},
			&healthpb.HealthCheckRequest{Service: "etcdserverpb.KV"}, &healthpb.HealthListRequest{})
		for _, service := range []string{"", "nope"} {
			stream, err := healthpb.NewHealthClient(r.conn).Watch(r.ctx, &healthpb.HealthCheckRequest{Service: service})
			if err != nil {
				r.fatalf("watch health: %v", err)
			}
			resp, err := stream.Recv()
			if err != nil {
				r.notef("! %s", renderError(err))
				continue
			}
			r.notef("< %s", r.text.render(resp))
		}
	})
}

// TestSizeLimits walks over the limit of a raft request and over that of a message.
func TestSizeLimits(t *testing.T) {
	sized := func(n int) string { return strings.Repeat("x", n) }
	const request, message = 1572864, 2097152
	compare(t, harness.Options{}, func(r *Recorder) {
		for _, n := range []int{request - 200, request, request + 1, message - 100, message, message + 1, 2 * message} {
			r.Do(put("a", sized(n)))
			r.Do(txn(put("a", sized(n))))
			r.Do(&pb.RangeRequest{Key: []byte(sized(n))})
		}
		r.Do(&pb.RangeRequest{Key: []byte("a"), CountOnly: true})
	})
}

// TestUnknownMethods: what no service offers.
func TestUnknownMethods(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		for _, path := range []string{"/etcdserverpb.KV/Nothing", "/no.such.Service/Range", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"} {
			r.notef("> %s", path)
			r.notef("! %s", renderError(r.conn.Invoke(r.ctx, path, &pb.RangeRequest{}, new(pb.RangeResponse))))
		}
	})
}

// TestMetadata covers what the interceptors look at.
func TestMetadata(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		for _, pair := range [][2]string{
			{"hasleader", "true"}, {"hasleader", "false"}, {"hasleader", "nonsense"}, {"client-api-version", "3.7"},
			{"client-api-version", "any thing"}, {"token", "nonsense"}, {"authorization", "nonsense"},
		} {
			r.notef("metadata %v", pair)
			ctx := r.WithMetadata(pair[0], pair[1])
			r.DoContext(ctx, put("a", "1"))
			r.DoContext(ctx, get("a", ""))
		}
	})
}
