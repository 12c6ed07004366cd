package etcdapi

import (
	"context"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"github.com/dolmen-io/dolmen/internal/alarm"
	"github.com/dolmen-io/dolmen/internal/state"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Register adds the services to a server.
func (s *Services) Register(r grpc.ServiceRegistrar) {
	r.RegisterService(kvService(), kv{s})
	pb.RegisterWatchServer(r, watcher{Services: s})
	pb.RegisterLeaseServer(r, lessor{Services: s})
	pb.RegisterClusterServer(r, cluster{Services: s})
	pb.RegisterMaintenanceServer(r, maintenance{Services: s})
	pb.RegisterAuthServer(r, authenticator{Services: s})
}

// cluster is the Cluster service.
type cluster struct {
	pb.UnimplementedClusterServer
	*Services
}

// MemberList implements pb.ClusterServer. Its header has no revision.
func (s cluster) MemberList(ctx context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	v, err := s.read(ctx, r.GetLinearizable())
	if err != nil {
		return nil, toStatus(err)
	}
	defer v.Release()
	who, err := s.identify(ctx, v.Auth)
	if err == nil {
		err = v.Auth.CheckSignedIn(who)
	}
	if err != nil {
		return nil, toStatus(err)
	}
	return &pb.MemberListResponse{Header: s.header(0), Members: protoMembers(v.Members.Members())}, nil
}

// maintenance is the Maintenance service.
type maintenance struct {
	pb.UnimplementedMaintenanceServer
	*Services
}

// Status implements pb.MaintenanceServer.
func (s maintenance) Status(ctx context.Context, _ *pb.StatusRequest) (*pb.StatusResponse, error) {
	if err := s.authorizeSignedIn(ctx); err != nil {
		return nil, toStatus(err)
	}
	v, err := s.member.Read(ctx, false)
	if err != nil {
		return nil, toStatus(err)
	}
	defer v.Release()
	st := s.member.Status()
	res := &pb.StatusResponse{
		Header:  s.header(v.KV.Current()),
		Version: st.Version, StorageVersion: st.StorageVersion,
		DbSize: st.DiskBytes, DbSizeInUse: st.LiveBytes, DbSizeQuota: st.QuotaBytes,
		Leader: st.Leader, RaftIndex: st.RaftIndex, RaftAppliedIndex: st.RaftApplied, RaftTerm: s.member.Header().Term,
		IsLearner:     st.IsLearner,
		DowngradeInfo: &pb.DowngradeInfo{Enabled: st.DowngradeEnabled, TargetVersion: st.DowngradeTarget},
	}
	if st.Leader == 0 {
		res.Errors = append(res.Errors, rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader))
	}
	for _, a := range v.Alarms.Alarms {
		res.Errors = append(res.Errors, alarmMember(a).String())
	}
	return res, nil
}

func alarmMember(a alarm.Alarm) *pb.AlarmMember {
	return &pb.AlarmMember{MemberID: a.Member, Alarm: pb.AlarmType(a.Type)}
}

// Alarm implements pb.MaintenanceServer. Reading alarms goes through the log like raising them, so the
// answer is that of a quorum.
func (s maintenance) Alarm(ctx context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	authorize := s.authorizeAdmin
	if r.GetAction() == pb.AlarmRequest_GET {
		authorize = s.authorizeSignedIn
	}
	if err := authorize(ctx); err != nil {
		return nil, toStatus(err)
	}
	if _, known := pb.AlarmRequest_AlarmAction_name[int32(r.GetAction())]; !known {
		return nil, toStatus(state.ErrUnknownAction)
	}
	res, err := s.propose(ctx, &pb.InternalRaftRequest{Alarm: r})
	if err != nil {
		return nil, toStatus(err)
	}
	out := &pb.AlarmResponse{Header: s.header(res.Revision)}
	for _, a := range res.Response.(state.AlarmResponse).Alarms {
		out.Alarms = append(out.Alarms, alarmMember(a))
	}
	return out, nil
}

// HashKV implements pb.MaintenanceServer.
func (s maintenance) HashKV(ctx context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	if err := s.authorizeAdmin(ctx); err != nil {
		return nil, toStatus(err)
	}
	v, err := s.member.Read(ctx, false)
	if err != nil {
		return nil, toStatus(err)
	}
	defer v.Release()
	h, err := v.HashKV(r.GetRevision())
	if err != nil {
		return nil, toStatus(err)
	}
	return &pb.HashKVResponse{
		Header: s.header(v.KV.Current()), Hash: h.Sum, CompactRevision: h.Compacted, HashRevision: h.Revision,
	}, nil
}
