package compat

import (
	"context"
	"fmt"

	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// method returns the full gRPC method of a unary request and an empty message for its answer.
func method(req proto.Message) (path string, resp proto.Message) {
	switch req.(type) {
	case *pb.RangeRequest:
		return pb.KV_Range_FullMethodName, new(pb.RangeResponse)
	case *pb.PutRequest:
		return pb.KV_Put_FullMethodName, new(pb.PutResponse)
	case *pb.DeleteRangeRequest:
		return pb.KV_DeleteRange_FullMethodName, new(pb.DeleteRangeResponse)
	case *pb.TxnRequest:
		return pb.KV_Txn_FullMethodName, new(pb.TxnResponse)
	case *pb.CompactionRequest:
		return pb.KV_Compact_FullMethodName, new(pb.CompactionResponse)
	case *pb.LeaseGrantRequest:
		return pb.Lease_LeaseGrant_FullMethodName, new(pb.LeaseGrantResponse)
	case *pb.LeaseRevokeRequest:
		return pb.Lease_LeaseRevoke_FullMethodName, new(pb.LeaseRevokeResponse)
	case *pb.LeaseTimeToLiveRequest:
		return pb.Lease_LeaseTimeToLive_FullMethodName, new(pb.LeaseTimeToLiveResponse)
	case *pb.LeaseLeasesRequest:
		return pb.Lease_LeaseLeases_FullMethodName, new(pb.LeaseLeasesResponse)
	case *pb.MemberListRequest:
		return pb.Cluster_MemberList_FullMethodName, new(pb.MemberListResponse)
	case *pb.StatusRequest:
		return pb.Maintenance_Status_FullMethodName, new(pb.StatusResponse)
	case *pb.AlarmRequest:
		return pb.Maintenance_Alarm_FullMethodName, new(pb.AlarmResponse)
	case *pb.HashKVRequest:
		return pb.Maintenance_HashKV_FullMethodName, new(pb.HashKVResponse)
	case *pb.MemberAddRequest:
		return pb.Cluster_MemberAdd_FullMethodName, new(pb.MemberAddResponse)
	case *pb.MemberRemoveRequest:
		return pb.Cluster_MemberRemove_FullMethodName, new(pb.MemberRemoveResponse)
	case *pb.MemberUpdateRequest:
		return pb.Cluster_MemberUpdate_FullMethodName, new(pb.MemberUpdateResponse)
	case *pb.MemberPromoteRequest:
		return pb.Cluster_MemberPromote_FullMethodName, new(pb.MemberPromoteResponse)
	case *pb.MoveLeaderRequest:
		return pb.Maintenance_MoveLeader_FullMethodName, new(pb.MoveLeaderResponse)
	case *pb.DowngradeRequest:
		return pb.Maintenance_Downgrade_FullMethodName, new(pb.DowngradeResponse)
	case *pb.DefragmentRequest:
		return pb.Maintenance_Defragment_FullMethodName, new(pb.DefragmentResponse)
	case *v3lockpb.LockRequest:
		return v3lockpb.Lock_Lock_FullMethodName, new(v3lockpb.LockResponse)
	case *v3lockpb.UnlockRequest:
		return v3lockpb.Lock_Unlock_FullMethodName, new(v3lockpb.UnlockResponse)
	case *v3electionpb.CampaignRequest:
		return v3electionpb.Election_Campaign_FullMethodName, new(v3electionpb.CampaignResponse)
	case *v3electionpb.ProclaimRequest:
		return v3electionpb.Election_Proclaim_FullMethodName, new(v3electionpb.ProclaimResponse)
	case *v3electionpb.LeaderRequest:
		return v3electionpb.Election_Leader_FullMethodName, new(v3electionpb.LeaderResponse)
	case *v3electionpb.ResignRequest:
		return v3electionpb.Election_Resign_FullMethodName, new(v3electionpb.ResignResponse)
	case *healthpb.HealthCheckRequest:
		return healthpb.Health_Check_FullMethodName, new(healthpb.HealthCheckResponse)
	}
	return "", nil
}

// invoke does one unary call, whose method follows from the request's type.
func invoke(ctx context.Context, conn *grpc.ClientConn, req proto.Message) (proto.Message, error) {
	path, resp := method(req)
	if resp == nil {
		return nil, fmt.Errorf("no unary method takes a %T", req)
	}
	if err := conn.Invoke(ctx, path, req, resp); err != nil {
		return nil, err
	}
	return resp, nil
}
