package compat

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/tests/harness"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Etcd counts pages of its file and ours live bytes, so these cases are far over the quota or far under it. A batch
// limit of one makes etcd's file grow with every write; ours takes the flag and does without.

func alarmRequest(action pb.AlarmRequest_AlarmAction, member uint64, kind pb.AlarmType) *pb.AlarmRequest {
	return &pb.AlarmRequest{Action: action, MemberID: member, Alarm: kind}
}

// disarm records the alarms and disarms NOSPACE of the member that raised it.
func (r *Recorder) disarm() {
	r.Do(alarmRequest(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE))
	resp, err := pb.NewMaintenanceClient(r.conn).Alarm(r.ctx, alarmRequest(pb.AlarmRequest_GET, 0, pb.AlarmType_NOSPACE))
	if err != nil {
		r.fatalf("read the alarms: %v", err)
	}
	for _, a := range resp.Alarms {
		r.Do(alarmRequest(pb.AlarmRequest_DEACTIVATE, a.MemberID, pb.AlarmType_NOSPACE))
	}
}

// admission is every kind of request, those that need space and those that make some.
func admission() []proto.Message {
	return []proto.Message{
		put("a", "1"), put("", "1"), &pb.PutRequest{Key: []byte("a"), IgnoreValue: true, Value: []byte("1")}, putLease("a", "1", 99),
		txn(put("a", "1")), txn(), txn(get("a", "")), txn(del("a", "")), txn(del("", "")), txn(put("", "")),
		ifThen(valueIs("nothing", "x"), ops(put("a", "1")), ops(del("a", ""))),
		txn(txn(put("a", "1"))), txn(txn(del("a", ""))), txn(put("a", "1"), put("a", "1")),
		get("a", ""), del("a", ""), del("", ""),
		&pb.LeaseGrantRequest{ID: 5, TTL: 1000}, &pb.LeaseGrantRequest{ID: 5, TTL: 1 << 40}, &pb.LeaseRevokeRequest{ID: 5},
		&pb.LeaseTimeToLiveRequest{ID: 5}, compact(0), compactPhysically(1), hashKV(0),
	}
}

// TestQuotaExceeded: there is no room from the start.
func TestQuotaExceeded(t *testing.T) {
	compare(t, harness.Options{Args: []string{"--quota-backend-bytes=100", "--backend-batch-limit=1"}}, func(r *Recorder) {
		r.awaitStorageVersion()
		r.Do(alarmRequest(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE))
		r.DoAll(del("a", ""), txn(del("a", "")), &pb.LeaseRevokeRequest{ID: 5}, compact(1))
		r.Do(alarmRequest(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE))
		for _, req := range admission() {
			r.Do(req)
			r.disarm() // it comes back with the next one that needs space
		}
		r.DoAll(admission()...)
		r.DoAll(&pb.StatusRequest{}, put("a", "1"))
		for _, path := range []string{"/health", "/health?exclude=NOSPACE", "/readyz", "/livez"} {
			r.fetch(http.MethodGet, path)
		}
		r.restart(true)
		r.awaitStorageVersion()
		r.Do(alarmRequest(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE))
		r.disarm()
		r.DoAll(del("a", ""), alarmRequest(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE))
	})
}

// TestQuotaNotExceeded: there is room, or no quota.
func TestQuotaNotExceeded(t *testing.T) {
	for _, quota := range []int{-1, 0, 64 << 20} {
		t.Run(fmt.Sprint(quota), func(t *testing.T) {
			compare(t, harness.Options{Args: []string{fmt.Sprintf("--quota-backend-bytes=%d", quota), "--backend-batch-limit=1"}}, func(r *Recorder) {
				r.awaitStorageVersion()
				r.DoAll(admission()...)
				r.DoAll(put("large", strings.Repeat("x", 1<<20)), &pb.StatusRequest{}, alarmRequest(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE))
			})
		})
	}
}

// TestQuotaFills: a member fills up. What is deleted makes no room before it is compacted away, and in etcd not
// even then.
func TestQuotaFills(t *testing.T) {
	compare(t, harness.Options{Args: []string{"--quota-backend-bytes=16777216", "--backend-batch-limit=1"}}, func(r *Recorder) {
		r.awaitStorageVersion()
		large := strings.Repeat("x", 1<<20)
		r.DoAll(put("a", large), put("b", large), alarmRequest(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE))
		r.fill(large)
		r.DoAll(put("c", large), put("c", ""), txn(put("c", "")), &pb.LeaseGrantRequest{ID: 5, TTL: 1000})
		r.disarm()
		r.DoAll(put("c", large), alarmRequest(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE))
		r.DoAll(txn(del("a", "")), del("b", ""), compactPhysically(3))
		r.disarm()
		r.DoAll(put("c", large), get("c", ""))
	})
}

// fill writes large values until there is no room for one, which is earlier on one server than on the other, and then
// deletes small ones until both are at the same revision. Nothing of that is recorded.
func (r *Recorder) fill(large string) {
	const last = 100
	kv := pb.NewKVClient(r.conn)
	for i := range 60 {
		if _, err := kv.Put(r.ctx, put(fmt.Sprint("small", i), "")); err != nil {
			r.fatalf("prepare: %v", err)
		}
	}
	for range 40 {
		if _, err := kv.Put(r.ctx, put("fill", large)); err != nil {
			break
		}
	}
	for i := range 60 {
		resp, err := kv.DeleteRange(r.ctx, del(fmt.Sprint("small", i), ""))
		if err != nil {
			r.fatalf("delete although there is no room: %v", err)
		}
		if resp.Header.Revision == last {
			return
		}
	}
	r.fatalf("revision %d was not reached", last)
}

// TestQuotaOneTooLarge: what does not fit is refused although there is room for less.
func TestQuotaOneTooLarge(t *testing.T) {
	args := []string{"--quota-backend-bytes=8388608", "--backend-batch-limit=1", "--max-request-bytes=33554432"}
	compare(t, harness.Options{Args: args}, func(r *Recorder) {
		r.awaitStorageVersion()
		r.DoAll(put("a", strings.Repeat("x", 10<<20)), put("a", "1"))
		r.disarm()
		r.DoAll(put("a", "1"), alarmRequest(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE))
		r.Do(ifThen(valueIs("a", "1"), ops(get("a", "")), ops(put("a", strings.Repeat("x", 10<<20)))))
		r.disarm()
		r.Do(put("a", "2"))
	})
}
