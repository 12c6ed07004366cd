package etcdapi

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"time"

	"github.com/dolmen-io/dolmen/internal/auth"
	"github.com/dolmen-io/dolmen/internal/state"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// lessor is the Lease service.
type lessor struct {
	pb.UnimplementedLeaseServer
	*Services
}

// newLeaseID returns an ID for a client that left the choice to the server: positive and random, so that
// members choose apart from each other.
func newLeaseID() int64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // documented never to fail
	return max(int64(binary.LittleEndian.Uint64(b[:])&math.MaxInt64), 1)
}

// LeaseGrant implements pb.LeaseServer.
func (s lessor) LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	req := &pb.InternalRaftRequest{LeaseGrant: r}
	if err := s.limits.Space.Admit(ctx, req); err != nil {
		return nil, toStatus(err)
	}
	if r.GetID() == 0 {
		r.ID = newLeaseID()
	}
	if err := s.authorizeSignedIn(ctx); err != nil {
		return nil, toStatus(err)
	}
	res, err := s.propose(ctx, req)
	if err != nil {
		return nil, toStatus(err)
	}
	l := res.Response.(state.LeaseResponse)
	return &pb.LeaseGrantResponse{Header: s.header(res.Revision), ID: l.ID, TTL: l.TTL}, nil
}

// LeaseRevoke implements pb.LeaseServer.
func (s lessor) LeaseRevoke(ctx context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	if err := s.authorizeSignedIn(ctx); err != nil {
		return nil, toStatus(err)
	}
	res, err := s.propose(ctx, &pb.InternalRaftRequest{LeaseRevoke: r})
	if err != nil {
		return nil, toStatus(err)
	}
	return &pb.LeaseRevokeResponse{Header: s.header(res.Revision)}, nil
}

// LeaseKeepAlive implements pb.LeaseServer.
func (s lessor) LeaseKeepAlive(stream pb.Lease_LeaseKeepAliveServer) error {
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return toStatus(err)
		}
		// The header is that of before the renewal, which a client may take for the lease's existence.
		rev, err := s.current(stream.Context())
		if err != nil {
			return toStatus(err)
		}
		if err := s.authorizeLeases(stream.Context(), auth.Write, req.GetID()); err != nil {
			return toStatus(err)
		}
		res := &pb.LeaseKeepAliveResponse{Header: s.header(rev), ID: req.GetID()}
		if res.TTL, err = s.leases.Renew(stream.Context(), req.GetID()); err != nil {
			return toStatus(err)
		}
		if err := stream.Send(res); err != nil {
			return toStatus(err)
		}
	}
}

// LeaseTimeToLive implements pb.LeaseServer.
func (s lessor) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	if err := s.authorizeSignedIn(ctx); err != nil {
		return nil, toStatus(err)
	}
	res := &pb.LeaseTimeToLiveResponse{ID: r.GetID(), TTL: -1}
	t, err := s.leases.TimeToLive(ctx, r.GetID())
	switch {
	case errors.Is(err, ErrLeaseGone):
	case err != nil:
		return nil, toStatus(err)
	default:
		// Toward zero, as in etcd: a lease that ran out a moment ago is not yet one that is gone, which is -1.
		res.TTL, res.GrantedTTL = int64(t.Remaining/time.Second), t.Granted
		if t.Remaining > time.Duration(math.MaxInt64)-time.Second {
			res.TTL = t.Granted
		}
		if r.GetKeys() {
			// Those that are told, which may be others than before the call: keys come and go.
			if err := s.authorizeKeys(ctx, t.Keys); err != nil {
				return nil, toStatus(err)
			}
			for _, k := range t.Keys {
				res.Keys = append(res.Keys, []byte(k))
			}
		}
	}
	rev, err := s.current(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	res.Header = s.header(rev)
	return res, nil
}

// authorizeKeys refuses callers who may not read each of some keys.
func (s lessor) authorizeKeys(ctx context.Context, keys []string) error {
	who, users, err := s.caller(ctx)
	if err != nil || users.CheckAdmin(who) == nil {
		return err
	}
	for _, k := range keys {
		if err := users.Check(who, []byte(k), nil, auth.Read); err != nil {
			return err
		}
	}
	return nil
}

// LeaseLeases implements pb.LeaseServer.
func (s lessor) LeaseLeases(ctx context.Context, _ *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	ids := s.leases.IDs()
	if err := s.authorizeLeases(ctx, auth.Read, ids...); err != nil {
		return nil, toStatus(err)
	}
	rev, err := s.current(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	res := &pb.LeaseLeasesResponse{Header: s.header(rev)}
	for _, id := range ids {
		res.Leases = append(res.Leases, &pb.LeaseStatus{ID: id})
	}
	return res, nil
}
