package compat

import (
	"crypto/sha256"
	"errors"
	"io"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/tests/harness"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// TestHashKV asks for the checksum of many histories at all of their revisions, before and after compactions and a
// restart. A checksum that was taken while compacting is remembered and answered for its revision even when that one is
// gone.
func TestHashKV(t *testing.T) {
	everyRevision := func(r *Recorder, current int64) {
		for revision := int64(-1); revision <= current+2; revision++ {
			r.Do(hashKV(revision))
		}
	}
	fill := func(r *Recorder) {
		r.DoAll(&pb.LeaseGrantRequest{ID: 7, TTL: 1000}, put("a", "1"), put("b", "1"), put("a", "2"), putLease("c", "3", 7), del("b", ""), put("b", "again"),
			txn(put("d", "1"), put("e", "1"), del("a", "")), del("d", "f"), &pb.LeaseRevokeRequest{ID: 7}, put("f", ""))
	}
	runScenarios(t, []scenario{
		{name: "nothing written", body: func(r *Recorder) { everyRevision(r, 1) }},
		{name: "no compaction", body: func(r *Recorder) {
			fill(r)
			everyRevision(r, 11)
		}},
		{name: "compactions", body: func(r *Recorder) {
			fill(r)
			for _, revision := range []int64{3, 4, 6, 8, 9, 11} {
				r.Do(&pb.CompactionRequest{Revision: revision, Physical: true})
				everyRevision(r, 11)
			}
			r.DoAll(put("a", "after"), hashKV(0))
		}},
		{name: "more compactions than are remembered", body: func(r *Recorder) {
			for range 16 {
				r.DoAll(put("a", "1"), put("b", "1"))
			}
			for revision := int64(2); revision <= 30; revision += 2 {
				r.Do(&pb.CompactionRequest{Revision: revision, Physical: true})
			}
			everyRevision(r, 33)
		}},
		{name: "restart", body: func(r *Recorder) {
			fill(r)
			r.DoAll(&pb.CompactionRequest{Revision: 6, Physical: true}, hashKV(6), hashKV(5), hashKV(0))
			r.restart(false)
			everyRevision(r, 11)
		}},
	})
}

// TestHash: the checksum of the file is each one's own; what comes with it is not, and it changes with what is written.
func TestHash(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.DoAll(&pb.HashRequest{}, put("a", "1"), &pb.HashRequest{}, &pb.LeaseGrantRequest{ID: 7, TTL: 1000}, &pb.HashRequest{})
		var sums []uint32
		for _, req := range []proto.Message{put("a", "2"), put("a", "3"), del("a", "")} {
			r.Do(req)
			resp, err := pb.NewMaintenanceClient(r.conn).Hash(r.ctx, &pb.HashRequest{})
			if err != nil {
				r.notef("! %s", renderError(err))
				continue
			}
			sums = append(sums, resp.Hash)
		}
		r.notef("each is another: %v", len(sums) == 3 && sums[0] != sums[1] && sums[1] != sums[2])
	})
}

// TestSnapshotStream looks at the stream, not at the file in it: how much is left, the version, and the checksum at the
// end.
func TestSnapshotStream(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.awaitStorageVersion()
		for _, n := range []int{0, 100, 3000} {
			for range n {
				if _, err := invoke(r.ctx, r.conn, put("a", "some value")); err != nil {
					r.fatalf("put: %v", err)
				}
			}
			r.snapshot()
		}
		m := rpcByPath(pb.Maintenance_Snapshot_FullMethodName)
		for range 3 { // who does not read to the end leaves nothing behind
			resp, err := first(r.ctx, r.conn, m, &pb.SnapshotRequest{})
			some, _ := resp.(*pb.SnapshotResponse)
			r.notef("version %q, error %v", some.GetVersion(), err)
		}
		r.snapshot()
	})
}

func (r *Recorder) snapshot() {
	r.notef("> Snapshot")
	stream, err := pb.NewMaintenanceClient(r.conn).Snapshot(r.ctx, &pb.SnapshotRequest{})
	if err != nil {
		r.notef("! %s", renderError(err))
		return
	}
	sum := sha256.New()
	var last *pb.SnapshotResponse
	var total, sent uint64
	countsDown, versions := true, map[string]bool{}
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			r.notef("! %s", renderError(err))
			return
		}
		if last != nil {
			sum.Write(last.Blob)
		} else {
			total = resp.RemainingBytes + uint64(len(resp.Blob))
		}
		sent += uint64(len(resp.Blob))
		countsDown = countsDown && (resp.RemainingBytes+sent == total || resp.RemainingBytes == 0 && sent == total+sha256.Size)
		versions[resp.Version] = true
		last = resp
	}
	r.notef("< whole pages %v, remaining bytes count down %v, versions %v, the last message is the checksum %v",
		total > 0 && total%4096 == 0, countsDown, versions, string(last.GetBlob()) == string(sum.Sum(nil)))
}
