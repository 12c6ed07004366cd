package coordination

import (
	"context"
	"errors"

	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// errNoLeaderField is etcd's text.
var errNoLeaderField = errors.New(`"leader" field must be provided`)

// elections is the Election service.
type elections struct {
	v3electionpb.UnimplementedElectionServer
	*Services
}

// Campaign implements v3electionpb.ElectionServer.
func (s elections) Campaign(ctx context.Context, r *v3electionpb.CampaignRequest) (*v3electionpb.CampaignResponse, error) {
	return call(ctx, s.Services, r.GetLease(), func(ctx context.Context, session *concurrency.Session) (*v3electionpb.CampaignResponse, error) {
		e := concurrency.NewElection(session, string(r.GetName()))
		if err := e.Campaign(ctx, string(r.GetValue())); err != nil {
			return nil, err
		}
		return &v3electionpb.CampaignResponse{Header: e.Header(), Leader: &v3electionpb.LeaderKey{
			Name: r.GetName(), Key: []byte(e.Key()), Rev: e.Rev(), Lease: int64(session.Lease()),
		}}, nil
	})
}

// resume runs a recipe as a leader that was elected before. A leader without a lease, which is none, gets
// one granted as in etcd: what it proclaims fails all the same.
func resume[T any](ctx context.Context, s *Services, l *v3electionpb.LeaderKey,
	recipe func(context.Context, *concurrency.Election) (T, error),
) (T, error) {
	if l == nil {
		var none T
		return none, errNoLeaderField
	}
	return call(ctx, s, l.GetLease(), func(ctx context.Context, session *concurrency.Session) (T, error) {
		return recipe(ctx, concurrency.ResumeElection(session, string(l.GetName()), string(l.GetKey()), l.GetRev()))
	})
}

// Proclaim implements v3electionpb.ElectionServer.
func (s elections) Proclaim(ctx context.Context, r *v3electionpb.ProclaimRequest) (*v3electionpb.ProclaimResponse, error) {
	return resume(ctx, s.Services, r.GetLeader(), func(ctx context.Context, e *concurrency.Election) (*v3electionpb.ProclaimResponse, error) {
		if err := e.Proclaim(ctx, string(r.GetValue())); err != nil {
			return nil, err
		}
		return &v3electionpb.ProclaimResponse{Header: e.Header()}, nil
	})
}

// Resign implements v3electionpb.ElectionServer. Who does not lead resigns all the same.
func (s elections) Resign(ctx context.Context, r *v3electionpb.ResignRequest) (*v3electionpb.ResignResponse, error) {
	return resume(ctx, s.Services, r.GetLeader(), func(ctx context.Context, e *concurrency.Election) (*v3electionpb.ResignResponse, error) {
		if err := e.Resign(ctx); err != nil {
			return nil, err
		}
		return &v3electionpb.ResignResponse{Header: e.Header()}, nil
	})
}

// Leader implements v3electionpb.ElectionServer.
func (s elections) Leader(ctx context.Context, r *v3electionpb.LeaderRequest) (*v3electionpb.LeaderResponse, error) {
	return call(ctx, s.Services, noLease, func(ctx context.Context, session *concurrency.Session) (*v3electionpb.LeaderResponse, error) {
		res, err := concurrency.NewElection(session, string(r.GetName())).Leader(ctx)
		if err != nil {
			return nil, err
		}
		return leaderResponse(res), nil
	})
}

func leaderResponse(res *clientv3.GetResponse) *v3electionpb.LeaderResponse {
	return &v3electionpb.LeaderResponse{Header: res.Header, Kv: res.Kvs[0]}
}

// Observe implements v3electionpb.ElectionServer. When it cannot go on, it ends without an error, as
// etcd's.
func (s elections) Observe(r *v3electionpb.LeaderRequest, stream v3electionpb.Election_ObserveServer) error {
	_, err := call(stream.Context(), s.Services, noLease, func(ctx context.Context, session *concurrency.Session) (struct{}, error) {
		ctx, cancel := context.WithCancel(ctx)
		leaders := concurrency.NewElection(session, string(r.GetName())).Observe(ctx)
		defer func() {
			cancel()
			for range leaders { // until the observer is gone
			}
		}()
		for res := range leaders {
			if err := stream.Send(leaderResponse(res)); err != nil {
				return struct{}{}, err
			}
		}
		return struct{}{}, ctx.Err()
	})
	return err
}
