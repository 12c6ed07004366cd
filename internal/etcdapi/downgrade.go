package etcdapi

import (
	"context"

	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/api/v3/version"

	"github.com/dolmen-io/dolmen/internal/membership"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Downgrade implements pb.MaintenanceServer. It only sets a mark; the leader then lowers the cluster's
// version or raises it again. The answer carries the version that the cluster had before.
func (s maintenance) Downgrade(ctx context.Context, r *pb.DowngradeRequest) (*pb.DowngradeResponse, error) {
	if err := s.authorizeAdmin(ctx); err != nil {
		return nil, toStatus(err)
	}
	v, err := s.member.Read(ctx, false)
	if err != nil {
		return nil, toStatus(err)
	}
	before := v.Members.Version()
	v.Release()
	switch r.GetAction() {
	case pb.DowngradeRequest_VALIDATE:
		_, err = s.downgradeTarget(ctx, before, r.GetVersion())
	case pb.DowngradeRequest_ENABLE:
		var target string
		if target, err = s.downgradeTarget(ctx, before, r.GetVersion()); err == nil {
			err = s.setDowngrade(ctx, &membershippb.DowngradeInfoSetRequest{Enabled: true, Ver: target})
		}
	case pb.DowngradeRequest_CANCEL:
		// As in etcd there is nothing that could be wrong with it, not even that it failed.
		_ = s.cancelDowngrade(ctx)
	default:
		err = unknownMethod
	}
	if err != nil {
		return nil, toStatus(err)
	}
	rev, err := s.current(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	return &pb.DowngradeResponse{Header: s.header(rev), Version: version.Cluster(before)}, nil
}

// downgradeTarget returns the version to which the cluster may be downgraded if that is the one given.
func (s maintenance) downgradeTarget(ctx context.Context, before, text string) (string, error) {
	target, err := membership.ClusterVersion(text)
	if err != nil {
		return "", rpctypes.ErrGRPCWrongDowngradeVersionFormat
	}
	if before == "" {
		return "", rpctypes.ErrGRPCClusterVersionUnavailable
	}
	v, err := s.member.Read(ctx, true)
	if err != nil {
		return "", err
	}
	defer v.Release()
	switch {
	case !membership.Downgradable(v.Members.Version(), target):
		return "", rpctypes.ErrGRPCInvalidDowngradeTargetVersion
	case v.Members.Downgrade().Enabled:
		return "", rpctypes.ErrGRPCDowngradeInProcess
	}
	return target, nil
}

func (s maintenance) cancelDowngrade(ctx context.Context) error {
	v, err := s.member.Read(ctx, true)
	if err != nil {
		return err
	}
	enabled := v.Members.Downgrade().Enabled
	v.Release()
	if !enabled {
		return nil
	}
	return s.setDowngrade(ctx, &membershippb.DowngradeInfoSetRequest{})
}

func (s maintenance) setDowngrade(ctx context.Context, r *membershippb.DowngradeInfoSetRequest) error {
	_, err := s.propose(ctx, &pb.InternalRaftRequest{DowngradeInfoSet: r})
	return err
}
