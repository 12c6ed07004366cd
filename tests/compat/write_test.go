package compat

import (
	"testing"

	"github.com/dolmen-io/dolmen/tests/harness"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestPut(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.Do(&pb.LeaseGrantRequest{ID: 7, TTL: 1000})
		// Every combination of options against an absent key, a plain key and a key with a lease.
		for shape := range 64 {
			req := &pb.PutRequest{PrevKv: shape&1 != 0, IgnoreValue: shape&2 != 0, IgnoreLease: shape&4 != 0}
			if shape&8 != 0 {
				req.Value = []byte("v")
			}
			req.Lease = []int64{0, 7, 8, -1}[shape>>4]
			for _, key := range []string{"", "absent", "plain", "leased"} {
				r.DoAll(del("absent", ""), put("plain", "p"), putLease("leased", "l", 7))
				req.Key = []byte(key)
				r.Do(req)
				r.Do(get(all, all))
			}
		}
		r.Do(&pb.LeaseTimeToLiveRequest{ID: 7, Keys: true})
		r.Do(put("\x00\xff", "binary\x00key"))
		r.Do(get("\x00\xff", ""))
	})
}

func TestDeleteRange(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		r.Do(&pb.LeaseGrantRequest{ID: 7, TTL: 1000})
		for _, interval := range [][2]string{
			{"a", ""}, {"zz", ""}, {"a", "c"}, {"a", all}, {all, all}, {"c", "a"}, {"b", "b"}, {"", ""}, {"", "z"}, {"", all},
		} {
			for _, prev := range []bool{false, true} {
				r.DoAll(put("a", "1"), putLease("b", "2", 7), put("c", "3"), put("b\x00", "4"))
				req := del(interval[0], interval[1])
				req.PrevKv = prev
				r.DoAll(req, get(all, all), &pb.LeaseTimeToLiveRequest{ID: 7, Keys: true}, req)
			}
		}
	})
}

// TestCompact covers the order of its checks, what remains readable, and tombstones at the boundary.
func TestCompact(t *testing.T) {
	readAll := func(r *Recorder, current int64) {
		for revision := int64(0); revision <= current+1; revision++ {
			r.Do(&pb.RangeRequest{Key: []byte(all), RangeEnd: []byte(all), Revision: revision})
			r.Do(&pb.RangeRequest{Key: []byte("b"), Revision: revision, CountOnly: true})
		}
	}
	fill := func(r *Recorder) {
		r.DoAll(put("a", "1"), put("b", "1"), del("b", ""), put("a", "2"), put("c", "1"), put("b", "2"), del("a", ""),
			put("a", "3"), txn(put("x", "1"), put("y", "1")), del("x", "z"))
	}
	runScenarios(t, []scenario{
		{name: "order of checks", body: func(r *Recorder) {
			r.DoAll(compact(0), compact(0), compact(1), compact(1), compact(2), compact(-1))
			fill(r)
			r.DoAll(compact(100), compact(5), compact(5), compact(4), compact(0), compact(-7), compact(12))
			readAll(r, 11)
		}},
		{name: "every revision in turn", body: func(r *Recorder) {
			fill(r)
			for revision := int64(1); revision <= 11; revision++ {
				r.Do(&pb.CompactionRequest{Revision: revision, Physical: revision%2 == 0})
				readAll(r, 11)
			}
			r.Do(put("b", "again"))
			r.Do(get("b", ""))
		}},
		{name: "negative revision first", body: func(r *Recorder) {
			fill(r)
			r.DoAll(compact(-1), compact(-2), compact(0))
			readAll(r, 11)
		}},
	})
}
