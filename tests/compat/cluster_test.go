package compat

import (
	"testing"

	"github.com/dolmen-io/dolmen/tests/harness"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// self returns the id of the member that a scenario talks to.
func (r *Recorder) self() uint64 {
	if r.cluster != nil {
		return r.target.self()
	}
	resp, err := pb.NewClusterClient(r.conn).MemberList(r.ctx, &pb.MemberListRequest{})
	if err != nil || len(resp.Members) != 1 {
		r.fatalf("list the only member: %v, %v", resp, err)
	}
	return resp.Members[0].ID
}

func add(learner bool, urls ...string) *pb.MemberAddRequest {
	return &pb.MemberAddRequest{PeerURLs: urls, IsLearner: learner}
}

// added makes the call and returns the id of the new member.
func (r *Recorder) added(req *pb.MemberAddRequest) uint64 {
	resp, _ := r.Do(req).(*pb.MemberAddResponse)
	return resp.GetMember().GetID()
}

var members = &pb.MemberListRequest{}

func TestMemberAddURLs(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.awaitStorageVersion()
		for _, urls := range [][]string{
			nil, {""}, {"127.0.0.1:1"}, {"http://127.0.0.1"}, {"http://127.0.0.1:1/path"}, {"ftp://127.0.0.1:1"}, {"http://127.0.0.1:1", "nonsense"},
			{"http://%zz:1"},
		} {
			r.DoAll(add(false, urls...), add(true, urls...))
		}
		r.DoAll(members, put("a", "1"))
	})
}

func TestLearnerOfASingleMember(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.awaitStorageVersion()
		self := r.self()
		id := r.added(add(true, " http://127.0.0.2:7 ", "http://127.0.0.2:6"))
		r.DoAll(put("a", "1"), get("a", ""), members, &pb.MemberListRequest{Linearizable: true}, &pb.StatusRequest{})
		r.DoAll(add(true, "http://127.0.0.3:7"), add(false, "http://127.0.0.2:6"), add(true, "http://127.0.0.1:2380"))
		r.DoAll(&pb.MemberPromoteRequest{ID: id}, &pb.MemberPromoteRequest{ID: self}, &pb.MemberPromoteRequest{ID: 99})
		r.DoAll(&pb.MoveLeaderRequest{TargetID: id}, &pb.MoveLeaderRequest{TargetID: 99}, &pb.MoveLeaderRequest{TargetID: self},
			&pb.MoveLeaderRequest{})
		r.DoAll(
			&pb.MemberUpdateRequest{ID: id, PeerURLs: []string{"http://127.0.0.2:9", "http://127.0.0.2:8"}}, members,
			&pb.MemberUpdateRequest{ID: id, PeerURLs: []string{"http://127.0.0.1:2380"}},
			&pb.MemberUpdateRequest{ID: 99, PeerURLs: []string{"http://127.0.0.2:9"}},
			&pb.MemberUpdateRequest{ID: self, PeerURLs: []string{"http://127.0.0.1:2380", "http://127.0.0.1:2381"}},
			members, put("b", "1"),
		)
		r.DoAll(&pb.MemberRemoveRequest{ID: self}, &pb.MemberRemoveRequest{ID: 99}, &pb.MemberRemoveRequest{ID: id},
			&pb.MemberRemoveRequest{ID: id}, &pb.MemberPromoteRequest{ID: id},
			&pb.MemberUpdateRequest{ID: id, PeerURLs: []string{"http://127.0.0.2:9"}}, &pb.MemberRemoveRequest{ID: self})
		r.DoAll(members, put("c", "1"), &pb.StatusRequest{})
		again := r.added(add(true, "http://127.0.0.2:8"))
		r.DoAll(members, &pb.MemberRemoveRequest{ID: again}, members)
	})
}

// TestSecondVoter: the answer comes, and then there is no quorum.
func TestSecondVoter(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.awaitStorageVersion()
		r.Do(put("a", "1"))
		id := r.added(add(false, "http://127.0.0.2:7"))
		r.until("the leader has given up", func() bool {
			st, err := pb.NewMaintenanceClient(r.conn).Status(r.ctx, &pb.StatusRequest{})
			return err == nil && st.Leader == 0
		})
		r.DoAll(members, &pb.RangeRequest{Key: []byte("a"), Serializable: true}, add(false, "http://127.0.0.3:7"),
			add(true, "http://127.0.0.3:7"), &pb.MemberRemoveRequest{ID: 99999}, &pb.MoveLeaderRequest{TargetID: id})
		r.Do(&pb.MemberPromoteRequest{ID: id})
	})
}

func TestLooseReconfiguration(t *testing.T) {
	compare(t, harness.Options{Args: []string{"--strict-reconfig-check=false", "--max-learners=2"}}, func(r *Recorder) {
		r.awaitStorageVersion()
		first, second := r.added(add(true, "http://127.0.0.2:7")), r.added(add(true, "http://127.0.0.3:7"))
		r.DoAll(add(true, "http://127.0.0.4:7"), &pb.MemberPromoteRequest{ID: first}, members)
		r.DoAll(&pb.MemberRemoveRequest{ID: second}, &pb.MemberRemoveRequest{ID: first}, &pb.MemberRemoveRequest{ID: 99}, members, put("a", "1"))
	})
}

func downgrade(action pb.DowngradeRequest_DowngradeAction, version string) *pb.DowngradeRequest {
	return &pb.DowngradeRequest{Action: action, Version: version}
}

func TestDowngrade(t *testing.T) {
	const (
		validate = pb.DowngradeRequest_VALIDATE
		enable   = pb.DowngradeRequest_ENABLE
		cancel   = pb.DowngradeRequest_CANCEL
	)
	// versions waits until storage and cluster are of a version; cancelling answers the cluster's and does nothing.
	versions := func(r *Recorder, storage, cluster string) {
		r.until("the cluster is of version "+cluster, func() bool {
			_, _, body, err := r.request("GET", "/version")
			if err != nil {
				return false
			}
			st, err := pb.NewMaintenanceClient(r.conn).Status(r.ctx, &pb.StatusRequest{})
			return err == nil && st.StorageVersion == storage && body == `{"etcdserver":"3.7.3","etcdcluster":"`+cluster+`","storage":"`+storage+`"}`
		})
	}
	compare(t, harness.Options{}, func(r *Recorder) {
		r.awaitStorageVersion()
		for _, action := range []pb.DowngradeRequest_DowngradeAction{validate, enable} {
			for _, v := range []string{"", "nonsense", "3", "3.6.0.0", "v3.6", "3.7", "3.7.0", "3.5", "3.8.0", "2.6", "4.6.0", "-3.6"} {
				r.Do(downgrade(action, v))
			}
		}
		r.DoAll(downgrade(cancel, ""), downgrade(cancel, "nonsense"), downgrade(7, "3.6"), downgrade(-1, ""))
		r.DoAll(downgrade(validate, "3.6"), downgrade(validate, "3.6.0"), downgrade(validate, "3.6.9"), &pb.StatusRequest{})
		for range 2 {
			r.DoAll(downgrade(enable, "3.6.0"))
			versions(r, "3.6.0", "3.6.0")
			r.DoAll(&pb.StatusRequest{}, put("a", "1"), downgrade(validate, "3.6"), downgrade(validate, "3.5"), downgrade(enable, "3.5.0"))
			r.fetch("GET", "/version")
			r.Do(downgrade(cancel, ""))
			versions(r, "3.7.0", "3.7.0")
			r.DoAll(&pb.StatusRequest{}, downgrade(validate, "3.6"))
			r.fetch("GET", "/version")
		}
	})
}

func TestDefragment(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.awaitStorageVersion()
		for range 3 {
			r.DoAll(put("a", "1"), &pb.DefragmentRequest{}, get("a", ""), put("b", "2"))
		}
	})
}
